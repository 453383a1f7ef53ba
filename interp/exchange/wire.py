"""What comes in files that others made: JSON, numbers and bytes, checked before anything is built of them."""

import base64
import binascii
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from hooks.errors import InputError, VectorError
from hooks.files import write_text
from interp.exchange.addition import MAX_LAYER, MAX_NUMBERS, existing

T = TypeVar("T")

DTYPES = {"float32": "<f4", "float64": "<f8", "float16": "<f2"}


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        InputError: if there is no such file.
        VectorError: if it is no JSON, or names NaN or an infinity, which JSON does not have.
    """
    try:
        return json.loads(existing(path).read_bytes(), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise VectorError(f"{path} is not JSON that can be read: {error}") from None


def write_json(path: Path, value: Any) -> None:
    """One line of JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")


def _refuse(name: str) -> None:
    raise ValueError(f"it holds {name}, which is no number.")


def mapping(value: object, what: str) -> dict[str, Any]:
    """``value`` if it is a JSON object; else :class:`VectorError`."""
    if not isinstance(value, dict):
        raise VectorError(f"{what} is {_kind(value)}, where a JSON object is due.")
    return value


def number(value: object, what: str) -> float:
    """``value`` as a finite number; else :class:`VectorError`."""
    if type(value) not in (int, float) or not abs(value) < 1e300 or math.isnan(value):  # type: ignore[arg-type]
        raise VectorError(f"{what} is {_kind(value)}, where a finite number is due.")
    return float(value)  # type: ignore[arg-type]


def layer_number(value: object, what: str) -> int:
    """A layer written as a number or as its digits; else :class:`VectorError`."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 8:
        value = int(value)
    if type(value) is not int or not 0 <= value <= MAX_LAYER:
        raise VectorError(f"{what} is {_kind(value)}, where a 0-based layer up to {MAX_LAYER} is due.")
    return value


def numbers(value: object, what: str) -> Float[np.ndarray, " d_model"]:
    """A list of numbers in float64; else :class:`VectorError`."""
    if not isinstance(value, list) or not value or not all(type(x) in (int, float) for x in value):
        raise VectorError(f"{what} is {_kind(value)}, where a list of numbers is due.")
    try:
        return np.array(value, dtype=np.float64)
    except OverflowError:
        raise VectorError(f"{what} holds an integer that no float holds.") from None


def float32(values: np.ndarray | Tensor, what: str) -> Float[Tensor, "..."]:
    """A copy in float32 on the CPU; :class:`VectorError` for what is no real number, or not finite there."""
    tensor = torch.as_tensor(values).detach()
    if not tensor.is_floating_point() or tensor.numel() > MAX_NUMBERS:
        raise VectorError(
            f"{what} is {tensor.numel()} numbers of {tensor.dtype}; floats are due, {MAX_NUMBERS} at most."
        )
    tensor = tensor.to("cpu", torch.float32).clone().contiguous()
    if not torch.isfinite(tensor).all():
        raise VectorError(f"{what} has NaN or infinite entries in float32.")
    return tensor


def as_vector(values: np.ndarray | Tensor, what: str) -> Float[Tensor, " d_model"]:
    """The same of one dimension; :class:`VectorError` for any other shape."""
    tensor = float32(values, what)
    if tensor.dim() != 1:
        raise VectorError(f"{what} has the shape {tuple(tensor.shape)}; one dimension of numbers is due.")
    return tensor


def from_base64(
    data: object, shape: object, dtype: str, what: str, *, at_most: int = MAX_NUMBERS
) -> np.ndarray:
    """The array that ``data`` holds in base64; :class:`VectorError` unless it fits its shape to the byte."""
    extents = checked_shape(shape, what, at_most=at_most)
    if not isinstance(data, str):
        raise VectorError(f"{what} is {_kind(data)}, where base64 is due.")
    try:
        raw = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise VectorError(f"{what} is not base64: {error}.") from None
    return from_bytes(raw, extents, dtype, what)


def from_bytes(raw: bytes, shape: tuple[int, ...], dtype: str, what: str) -> np.ndarray:
    """Little-endian bytes as an array; :class:`VectorError` unless they fit the shape to the byte."""
    if len(raw) != math.prod(shape) * np.dtype(dtype).itemsize:
        raise VectorError(f"{what} has {len(raw)} bytes, which are no {shape} of {dtype}.")
    return np.frombuffer(raw, dtype).reshape(shape).copy()


def checked_shape(shape: object, what: str, *, at_most: int = MAX_NUMBERS) -> tuple[int, ...]:
    """A shape of one to three extents that holds something, and not too much; else :class:`VectorError`."""
    good = isinstance(shape, list) and 1 <= len(shape) <= 3 and all(type(n) is int and n > 0 for n in shape)
    extents = tuple(shape) if good and isinstance(shape, list) else ()
    if not extents or math.prod(extents) > at_most:
        raise VectorError(f"{what} has the shape {_kind(shape)}; one to three positive extents are due.")
    return extents


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a .safetensors file, and its metadata.

    Raises:
        InputError: if there is no such file.
        VectorError: if it is no safetensors file.
    """
    return _safetensors(path, lambda file: {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118


def safetensors_names(path: Path) -> tuple[list[str], dict[str, str]]:
    """The names of the tensors of a .safetensors file alone, and its metadata; raises as the above."""
    return _safetensors(path, lambda file: list(file.keys()))


def _safetensors(path: Path, taken: Callable[[Any], T]) -> tuple[T, dict[str, str]]:
    try:
        with safe_open(existing(path), framework="pt", device="cpu") as file:
            return taken(file), dict(file.metadata() or {})
    except InputError:
        raise
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise VectorError(f"{path} is damaged or not a safetensors file: {error}.") from None


def _kind(value: object) -> str:
    """A value in a few words, whatever it is."""
    text = repr(value)
    return text if len(text) < 60 else f"{type(value).__name__} {text[:50]}…"
