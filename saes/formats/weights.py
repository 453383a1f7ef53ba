"""Settings and tensors of files that anybody may have made: whole, of the right shape, finite; or refused."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from torch import Tensor, nn

from hooks.errors import InputError, VectorError

Weights = dict[str, Tensor]

T = TypeVar("T")
M = TypeVar("M", bound=nn.Module)

KINDS = {bool: "true or false", int: "a whole number", str: "text", dict: "an object"}


def read_settings(file: Path) -> dict[str, Any]:
    """A JSON file that holds one object.

    Raises:
        InputError: if it cannot be read.
        VectorError: if it is something else.
    """
    try:
        settings = json.loads(file.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"Cannot read {file}: {error.strerror}.") from None
    except (ValueError, RecursionError):
        raise VectorError(f"{file} is damaged: it is no JSON. Get the file again.") from None
    if not isinstance(settings, dict):
        raise VectorError(f"{file} holds no settings: it is {type(settings).__name__}, expected an object.")
    return settings


def setting(
    settings: Mapping[str, Any], name: str, kind: type[T], where: Path | str, default: T | None = None
) -> T:
    """One setting, of the kind that it must be.

    Raises:
        VectorError: if it is of another kind, or missing without a default.
    """
    value = settings.get(name, default)
    if not isinstance(value, kind) or isinstance(value, bool) != (kind is bool):
        found = f"{name}={value!r:.60}" if name in settings else f"no {name}"
        raise VectorError(f"{where} has {found}; {name} must be {KINDS[kind]}.")
    return value


def read_tensors(file: Path) -> Weights:
    """All tensors of a safetensors file, on the CPU.

    Raises:
        InputError: if there is no such file.
        VectorError: if it is damaged.
    """
    if not file.is_file():
        raise InputError(f"No file {file}, which holds the weights. Get the whole folder.")
    try:
        with safe_open(file, framework="pt", device="cpu") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except Exception as error:  # whatever the parser makes of bytes that are no safetensors
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise VectorError(
            f"{file} is damaged, cut off, or no safetensors file: {reason}. Get the file again."
        ) from None


def fitted(
    tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], where: Path | str
) -> Weights:
    """Tensors of these names and shapes, and no others, as float32.

    Raises:
        VectorError: naming what is missing, unknown, of another shape or not finite.
    """
    if missing := sorted(shapes.keys() - tensors.keys()):
        raise VectorError(
            f"{where} lacks {', '.join(missing)}; it holds {_some(sorted(tensors))}. With this architecture "
            f"it must hold {', '.join(shapes)}."
        )
    if unknown := sorted(tensors.keys() - shapes.keys()):
        raise VectorError(
            f"{where} holds {_some(unknown)}, which this architecture does not know and might need. It must "
            f"hold {', '.join(shapes)} alone."
        )
    for name, shape in shapes.items():
        if tuple(tensors[name].shape) != shape:
            raise VectorError(
                f"{where}: {name} has shape {tuple(tensors[name].shape)}, and the settings make it {shape}. "
                "The settings and the weights belong to different dictionaries; get both again."
            )
    return {name: _finite(tensors[name], name, where) for name in shapes}


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """The tensors that a module needs."""
    return {name: tuple(weight.shape) for name, weight in module.state_dict().items()}


def filled(module: M, weights: Weights) -> M:
    """The module with these weights, which are not copied; it is not for training."""
    module.load_state_dict(weights, assign=True)
    module.requires_grad_(False)
    module.eval()
    return module


def _finite(tensor: Tensor, name: str, where: Path | str) -> Tensor:
    if not tensor.is_floating_point():
        raise VectorError(f"{where}: {name} is {tensor.dtype}; weights are floating point.")
    weights = tensor.detach().to(torch.float32).contiguous()
    if bad := int((~torch.isfinite(weights)).sum()):
        raise VectorError(
            f"{where}: {bad} of the {weights.numel()} numbers of {name} are not finite in float32. The file "
            "is damaged, or its training diverged; get it again, or take another dictionary."
        )
    return weights


def _some(names: list[str]) -> str:
    more = f" … ({len(names) - 6} more)" if len(names) > 6 else ""
    return (", ".join(names[:6]) or "nothing") + more
