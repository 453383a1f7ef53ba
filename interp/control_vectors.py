"""Control vectors of llama.cpp: one GGUF file, read to the letter of what its loader does.

    direction.N    float32, one dimension, d_model numbers: added to the output of the 0-based block N >= 1

The loader reads nothing else: no metadata, no dose. Any tensor that is not of this form makes it refuse the
whole file, and block 0 cannot be steered, so ``direction.0`` is one of them. What it adds, it adds at every
position, the prompt included, times the strength of ``--control-vector-scaled FILE:STRENGTH``. So a dose is
baked in here: strength 1 is the dose that was exported,

    direction.N = dose * median residual norm at N * unit vector at N.

Source: llama.cpp, common/common.cpp and src/llama-adapter.cpp; repeng for the keys that other tools read.
Differs from the source: nothing. llama.cpp's own generator names the vector of block N ``direction.N+1``, one
block later than its loader applies it; see :func:`lint`.
"""

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader, GGUFValueType, GGUFWriter
from jaxtyping import Float
from torch import Tensor

from hooks.edits import Add
from hooks.errors import InputError, VectorError
from hooks.files import whole
from hooks.language_model import LanguageModel
from hooks.positions import everything
from hooks.sites import Site
from interp.steering_vector import SteeringVector

ARCHITECTURE = "controlvector"
HINT, LAYERS = f"{ARCHITECTURE}.model_hint", f"{ARCHITECTURE}.layer_count"
NAME = re.compile(r"direction\.(\d+)")

Directions = Mapping[int, Float[Tensor, " d_model"]]
"""What is added at strength 1, by 0-based block."""


@dataclass(frozen=True)
class Finding:
    """What is wrong with a file, and what :func:`repair` does about it."""

    what: str
    repair: str | None
    """None where nothing is done."""

    refused: bool
    """llama.cpp refuses the file for it; else it reads the file, to another effect than was meant."""


def export_control_vector(
    vector: SteeringVector, path: str | Path, *, layer: int | None = None, dose: float | None = None
) -> Path:
    """Write the edit ``vector.at(layer, dose=dose)`` as a control vector.

    Args:
        layer: None takes the recommended layer, and so does ``dose`` the recommended dose.

    Raises:
        VectorError: as :meth:`SteeringVector.at`; if the vector is not of block outputs; or is of block 0's,
            which llama.cpp cannot steer.
    """
    edit = vector.at(layer, dose=dose)
    block = _block(edit.site)
    (direction,) = edit.parameters()
    return _write(Path(path), {block: direction}, vector.model)


def read_control_vector(path: str | Path) -> dict[int, Float[Tensor, " d_model"]]:
    """What llama.cpp would add at strength 1, by 0-based block.

    Raises:
        InputError: if there is no such file.
        VectorError: if llama.cpp would refuse it, with the first reason.
    """
    file = _opened(Path(path))
    for finding in _findings(file):
        if finding.refused:
            raise VectorError(
                f"{path}: {finding.what} llama.cpp refuses such a file. `unlatch gguf-lint {path} --fix OUT` "
                "says what can be repaired."
            )
    return {
        int(tensor.name.partition(".")[2]): torch.from_numpy(np.array(tensor.data)) for tensor in file.tensors
    }


def control_vector_edits(path: str | Path, lm: LanguageModel, *, strength: float = 1.0) -> list[Add]:
    """The file as edits of a model here: what llama.cpp does with it, at every position.

    Raises:
        InputError, VectorError: as :func:`read_control_vector`; or if the model has another width, or not
            all of its blocks.
    """
    directions = read_control_vector(path)
    if beyond := [block for block in directions if block >= lm.n_layers]:
        raise VectorError(f"{path} steers block {beyond[0]}; {lm.name} has blocks 0..{lm.n_layers - 1}.")
    edits = [
        Add(Site(block, "resid_post"), direction, strength, everything)
        for block, direction in sorted(directions.items())
    ]
    for edit in edits:
        edit.check(lm)
    return edits


def lint(path: str | Path) -> list[Finding]:
    """What makes llama.cpp refuse a control vector, or misplace it; an empty list where nothing does.

    Raises:
        InputError: if there is no such file, or it is no GGUF file.
    """
    return _findings(_opened(Path(path)))


def repair(path: str | Path, out: str | Path) -> list[Finding]:
    """Write what can be kept of a control vector to a file that llama.cpp reads; and say what was wrong.

    Raises:
        InputError: as :func:`lint`.
        VectorError: if no direction is left.
    """
    file = _opened(Path(path))
    kept = dict(_usable(file))
    widths = {len(direction) for direction in kept.values()}
    if len(widths) != 1:
        raise VectorError(
            f"{path} cannot be repaired: "
            + (
                "it holds no direction of a block from 1."
                if not kept
                else f"it mixes widths {sorted(widths)}."
            )
        )
    _write(Path(out), kept, str(_value(file, HINT) or ""))
    return _findings(file)


def _block(site: Site) -> int:
    """The block whose output a site is."""
    block = site.layer if site.kind == "resid_post" else site.layer - 1
    if site.kind not in ("resid_post", "resid_pre"):
        raise VectorError(
            f"A control vector is added to a block's output, and this vector is of {site}. Estimate it at "
            "resid_post, or resid_pre, to export it."
        )
    if block < 1:
        raise VectorError(
            f"llama.cpp cannot steer {site}, the input or the output of block 0. Export a later layer."
        )
    return block


def _write(path: Path, directions: Directions, model_hint: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as part:
        writer = GGUFWriter(part, ARCHITECTURE)
        writer.add_string(HINT, model_hint)
        writer.add_uint32(LAYERS, len(directions))
        for block, direction in sorted(directions.items()):
            writer.add_tensor(f"direction.{block}", direction.detach().float().cpu().contiguous().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return path


def _opened(path: Path) -> GGUFReader:
    if not path.is_file():
        raise InputError(f"No file {path}. Pass the path of a .gguf control vector.")
    try:
        return GGUFReader(path)
    except (ValueError, KeyError, IndexError, OverflowError, OSError, struct.error) as error:
        raise InputError(f"{path} is no GGUF file that can be read: {error}") from None


def _findings(file: GGUFReader) -> list[Finding]:
    found = []
    for tensor in file.tensors:
        match, values = NAME.fullmatch(tensor.name), _numbers(tensor)
        if match is None:
            found.append(Finding(f"The tensor {tensor.name!r} is no direction.N.", "left out", True))
            continue
        if int(match[1]) == 0:
            found.append(Finding("It has direction.0, and block 0 cannot be steered.", "left out", True))
            continue
        if values is None:
            shape = tuple(int(n) for n in tensor.shape)
            found.append(
                Finding(
                    f"{tensor.name} has the shape {shape} in {tensor.tensor_type.name}, where one dimension "
                    "of finite numbers is due.",
                    "left out",
                    True,
                )
            )
            continue
        if tensor.tensor_type.name != "F32" or len(tensor.shape) != 1:
            found.append(
                Finding(
                    f"{tensor.name} is {tensor.tensor_type.name} of {len(tensor.shape)} dimensions, "
                    "not F32 of one.",
                    "written as F32 of one dimension",
                    True,
                )
            )
    widths = {len(direction) for _, direction in _usable(file)}
    if len(widths) > 1:
        found.append(Finding(f"Its directions have the widths {sorted(widths)}.", None, True))
    if not widths:
        found.append(Finding("It holds no direction of a block from 1.", None, True))
    if _value(file, HINT) is None:
        found.append(Finding(f"It has no {HINT}, which repeng asks for.", "set, and empty", False))
    if GGUFValueType.INT32 in _types(file, LAYERS):
        found.append(
            Finding(
                f"Its {LAYERS} is an int32, as only llama.cpp's own generator writes it: its vectors are "
                "those of the blocks one earlier than the loader adds them to.",
                None,
                False,
            )
        )
    return found


def _usable(file: GGUFReader) -> list[tuple[int, Tensor]]:
    """What can be kept of a file: the directions of blocks from 1 that are numbers of one dimension."""
    named = ((NAME.fullmatch(tensor.name), _numbers(tensor)) for tensor in file.tensors)
    return [
        (int(match[1]), torch.from_numpy(values))
        for match, values in named
        if match is not None and int(match[1]) >= 1 and values is not None
    ]


def _numbers(tensor: Any) -> Float[np.ndarray, " d_model"] | None:
    """A tensor as float32 of one dimension; None where it is none."""
    if tensor.tensor_type.name not in ("F32", "F16", "F64"):
        return None
    values = np.array(tensor.data, dtype=np.float32).squeeze()
    return values if values.ndim == 1 and np.isfinite(values).all() else None


def _value(file: GGUFReader, key: str) -> Any:
    field = file.get_field(key)
    return None if field is None else field.contents()


def _types(file: GGUFReader, key: str) -> list[Any]:
    field = file.get_field(key)
    return [] if field is None else list(field.types)
