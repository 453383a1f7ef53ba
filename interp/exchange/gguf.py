"""Control vectors of llama.cpp: one GGUF file, read to the letter of what its loader does.

    direction.N    float32, one dimension, d_model numbers: added to the output of the 0-based block N >= 1

The loader reads nothing else: no metadata, no dose. Any tensor that is not of this form makes it refuse
the whole file, and block 0 cannot be steered, so ``direction.0`` is one of them. What it adds, it adds at
every position, the prompt included, times the strength of ``--control-vector-scaled FILE:STRENGTH``. So a
dose is baked in here: strength 1 is the dose that was exported,

    direction.N = dose * median residual norm at N * unit vector at N.

N is whatever C++'s ``stoi`` makes of the text after the first dot, so ``direction.01`` and
``direction.1.weight`` are block 1 as well; and the vectors of one block are added up. Two tensors of the
very same name are refused before that, by the reader of GGUF files.

Source: llama.cpp, common/common.cpp, src/llama-adapter.cpp and ggml/src/gguf.cpp; repeng for the keys
that other tools read. Differs from the source: nothing. llama.cpp's own generator names the vector of
block N ``direction.N+1``, one block later than its loader applies it; see :func:`lint`. Our own facts are
one more metadata key, ``unlatch.provenance``, which nobody else looks at.
"""

import re
import struct
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader, GGUFValueType, GGUFWriter
from jaxtyping import Float
from torch import Tensor

from hooks.errors import InputError, VectorError
from hooks.files import whole
from interp.exchange.addition import KEY, Addition, Content, Format, existing, packed, unpacked

ARCHITECTURE = "controlvector"
HINT, LAYERS = f"{ARCHITECTURE}.model_hint", f"{ARCHITECTURE}.layer_count"
PROVENANCE = f"{KEY}.provenance"
STOI = re.compile(r"[ \t\n\v\f\r]*([+-]?[0-9]+)")
"""What C++'s stoi reads of a text: the number that it begins with."""

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


def write(path: Path, addition: Addition, called: str) -> Sequence[str]:  # noqa: ARG001
    """Write a control vector, with our facts as metadata."""
    write_directions(path, addition.vectors, addition.model, packed(addition))
    return ()


def read(path: Path) -> Addition:
    """What llama.cpp would add at strength 1.

    Raises:
        InputError: if there is no such file.
        VectorError: if llama.cpp would refuse it, with the first reason.
    """
    file = opened(path)
    for finding in _findings(file):
        if finding.refused:
            raise VectorError(
                f"{path}: {finding.what} llama.cpp refuses such a file. `unlatch gguf-lint {path} --fix OUT` "
                "says what can be repaired."
            )
    hint = value(file, HINT)
    return Addition(
        _summed(file),
        model=hint if isinstance(hint, str) else "",
        facts=unpacked(value(file, PROVENANCE)),
    )


def recognise(content: Content) -> bool:
    """A GGUF file that llama.cpp would load as a control vector."""
    return content.container == "gguf" and not any(f.refused for f in lint(content.path))


FORMAT = Format(
    name="gguf",
    suffix=".gguf",
    program="llama.cpp",
    holds="blocks 1 and later, dose baked in; --control-vector-scaled FILE:1 adds what was exported",
    write=write,
    read=read,
    recognise=recognise,
    first_layer=1,
)


def lint(path: str | Path) -> list[Finding]:
    """What makes llama.cpp refuse a control vector, or misplace it; an empty list where nothing does.

    Raises:
        InputError: if there is no such file, or it is no GGUF file.
    """
    return _findings(opened(Path(path)))


def repair(path: str | Path, out: str | Path) -> list[Finding]:
    """Write what can be kept of a control vector to a file that llama.cpp reads; and say what was wrong.

    Raises:
        InputError: as :func:`lint`.
        VectorError: if no direction is left.
    """
    file = opened(Path(path))
    usable = _usable(file)
    widths = {len(direction) for _, _, direction in usable}
    if len(widths) != 1:
        raise VectorError(
            f"{path} cannot be repaired: "
            + (
                "it holds no direction of a block from 1."
                if not usable
                else f"it mixes widths {sorted(widths)}."
            )
        )
    hint, facts = value(file, HINT), unpacked(value(file, PROVENANCE))
    kept = Addition(_summed(file), model=hint if isinstance(hint, str) else "", facts=facts)
    write_directions(Path(out), kept.vectors, kept.model, packed(kept) if kept.sealed else None)
    return _findings(file)


def opened(path: Path) -> GGUFReader:
    """A GGUF file.

    Raises:
        InputError: if there is no such file, or it is no GGUF file.
    """
    try:
        return GGUFReader(existing(path))
    except InputError as error:
        raise InputError(f"{error} A control vector ends in .gguf.") from None
    except (ValueError, KeyError, IndexError, OverflowError, TypeError, OSError, struct.error) as error:
        raise InputError(f"{path} is no GGUF file that can be read: {error}") from None


def value(file: GGUFReader, key: str) -> Any:
    """A metadata value, None where there is none or it cannot be read."""
    try:
        field = file.get_field(key)
        return None if field is None else field.contents()
    except (ValueError, IndexError, TypeError):
        return None


def write_directions(path: Path, directions: Directions, model_hint: str, facts: str | None) -> None:
    """Write any directions, block 0 included, which repeng and EasySteer take and llama.cpp does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as part:
        writer = GGUFWriter(part, ARCHITECTURE)
        writer.add_string(HINT, model_hint)
        writer.add_uint32(LAYERS, len(directions))
        if facts is not None:
            writer.add_string(PROVENANCE, facts)
        for block, direction in sorted(directions.items()):
            writer.add_tensor(f"direction.{block}", direction.detach().float().cpu().contiguous().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _block(name: str) -> int | None:
    """The block that llama.cpp's loader takes a tensor's name for; None where it refuses the file for it."""
    head, dot, rest = name.partition(".")
    match = STOI.match(rest)
    if head != "direction" or not dot or match is None:
        return None
    block = int(match[1]) if len(match[1]) < 12 else -1
    return block if 0 <= block < 2**31 else None


def _findings(file: GGUFReader) -> list[Finding]:
    found = []
    for tensor in file.tensors:
        block, numbers = _block(tensor.name), _numbers(tensor)
        if block is None:
            found.append(Finding(f"The tensor {tensor.name!r} is no direction.N.", "left out", True))
            continue
        if block == 0:
            found.append(Finding(f"It has {tensor.name}, and block 0 cannot be steered.", "left out", True))
            continue
        if numbers is None:
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
        if tensor.tensor_type.name != "F32" or _dimensions(tensor) != 1:
            found.append(
                Finding(
                    f"{tensor.name} is {tensor.tensor_type.name} of {_dimensions(tensor)} dimensions, "
                    "not F32 of one.",
                    "written as F32 of one dimension",
                    True,
                )
            )
    usable = _usable(file)
    found += _alike(usable)
    widths = {len(direction) for _, _, direction in usable}
    if len(widths) > 1:
        found.append(Finding(f"Its directions have the widths {sorted(widths)}.", None, True))
    if not widths:
        found.append(Finding("It holds no direction of a block from 1.", None, True))
    if value(file, HINT) is None:
        found.append(Finding(f"It has no {HINT}, which repeng asks for.", "set, and empty", False))
    field = file.get_field(LAYERS)
    if field is not None and GGUFValueType.INT32 in field.types:
        found.append(
            Finding(
                f"Its {LAYERS} is an int32, as only llama.cpp's own generator writes it: its vectors are "
                "those of the blocks one earlier than the loader adds them to.",
                None,
                False,
            )
        )
    return found


def _alike(usable: Sequence[tuple[str, int, Tensor]]) -> list[Finding]:
    """Names that are read as another one, and blocks that several name."""
    names = defaultdict(list)
    for name, block, _ in usable:
        names[block].append(name)
    found = []
    for block, these in sorted(names.items()):
        if len(these) > 1:
            found.append(
                Finding(
                    f"{', '.join(these)} all name block {block}: llama.cpp adds them up, and other programs "
                    "take one of them or refuse.",
                    f"added up, as direction.{block}",
                    False,
                )
            )
        elif these != [f"direction.{block}"]:
            found.append(
                Finding(
                    f"{these[0]!r} is read as block {block} by llama.cpp, and differently by other programs.",
                    f"written as direction.{block}",
                    False,
                )
            )
    return found


def _usable(file: GGUFReader) -> list[tuple[str, int, Tensor]]:
    """What can be kept of a file: the directions of blocks from 1 that are numbers of one dimension."""
    named = ((tensor.name, _block(tensor.name), _numbers(tensor)) for tensor in file.tensors)
    return [
        (name, block, torch.from_numpy(numbers))
        for name, block, numbers in named
        if block is not None and block >= 1 and numbers is not None
    ]


def _summed(file: GGUFReader) -> dict[int, Float[Tensor, " d_model"]]:
    """By block, what its directions add up to in float32, in the order of the file."""
    summed: dict[int, Tensor] = {}
    for _, block, direction in _usable(file):
        summed[block] = summed[block] + direction if block in summed else direction
    return summed


def _dimensions(tensor: Any) -> int:
    """As ggml counts them: the place of the last extent that is not one. GGUF gives the innermost first."""
    return max((place for place, extent in enumerate(tensor.shape, 1) if extent > 1), default=1)


def _numbers(tensor: Any) -> Float[np.ndarray, " d_model"] | None:
    """A tensor as float32 of one dimension; None where it is none."""
    if tensor.tensor_type.name not in ("F32", "F16", "F64"):
        return None
    with np.errstate(over="ignore"):
        values = np.atleast_1d(np.array(tensor.data, dtype=np.float32).squeeze())
    return values if values.ndim == 1 and np.isfinite(values).all() else None
