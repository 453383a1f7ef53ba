"""Vectors of repeng: the dict that its ControlVector is made of, and the GGUF file that it reads.

    ControlVector(model_type=..., directions={layer: float32 [d_model]})      coeff * directions[l] is added

``to_directions`` and ``from_directions`` are for objects in memory; the file is for
``ControlVector.import_gguf``. Layer l is the output of the 0-based block l, and block 0 is a layer like
others: such a file is repeng's and EasySteer's, and llama.cpp refuses it. ``controlvector.model_hint``
must be there. A ControlModel adds at every position but padding, the prompt included, at the layers that
it was made with, and looks each of them up: make it with the layers of the file.

    ControlModel(model, layer_ids=[15]).set_control(ControlVector.import_gguf("v.gguf"), 1.0)

Source: vgel/repeng, repeng/extract.py and repeng/control.py; ZJU-REAL/EasySteer, steering/loading.py, for
what it takes of the same file. Differs from the source: where one file names a layer twice, repeng keeps
the last, and EasySteer refuses; so does this.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from hooks.errors import VectorError
from interp.exchange.addition import MAX_LAYER, Addition, Content, Format, addition_of, packed, unpacked
from interp.exchange.gguf import HINT, PROVENANCE, opened, value, write_directions
from interp.exchange.wire import as_vector
from interp.steering_vector import SteeringVector


def write(path: Path, addition: Addition, called: str) -> Sequence[str]:  # noqa: ARG001
    """Write the file of ``ControlVector.import_gguf``."""
    write_directions(path, addition.vectors, addition.model, packed(addition))
    layers = addition.layers
    return (f"a ControlModel must be made with these layers: ControlModel(model, layer_ids={layers})",)


def read(path: Path) -> Addition:
    """What repeng adds at coefficient 1.

    Raises:
        InputError: if there is no such file, or it is no GGUF file.
        VectorError: if repeng would not import it, or it names a layer twice.
    """
    file = opened(path)
    hint = value(file, HINT)
    if not isinstance(hint, str):
        raise VectorError(f"{path} has no {HINT}, and repeng reads no file without it.")
    directions: dict[int, np.ndarray] = {}
    for tensor in file.tensors:
        head, _, rest = tensor.name.partition(".")
        if head != "direction":
            continue
        digits = rest.partition(".")[0]
        if not (digits.isascii() and digits.isdigit() and len(digits) < 8):
            raise VectorError(f"{path} has a tensor {tensor.name!r}, which names no layer.")
        if int(digits) in directions:
            raise VectorError(
                f"{path} names layer {int(digits)} twice: repeng keeps the last, llama.cpp adds them up. "
                "`unlatch gguf-lint` says which names, and --fix adds them up."
            )
        if tensor.tensor_type.name not in ("F32", "F16", "F64"):
            raise VectorError(
                f"{path}: {tensor.name} is {tensor.tensor_type.name}, which are no plain floats."
            )
        directions[int(digits)] = np.array(tensor.data)
    return from_directions(directions, model_type=hint, facts=unpacked(value(file, PROVENANCE)))


def to_directions(
    vector: SteeringVector, *, layer: int | Sequence[int] | None = None, dose: float | None = None
) -> dict[int, Float[np.ndarray, " d_model"]]:
    """What ``ControlVector(model_type, directions)`` takes: the edit, as coefficient 1 adds it.

    Raises:
        VectorError: as :func:`interp.exchange.export_vector`.
    """
    return {i: v.numpy() for i, v in addition_of(vector, FORMAT, layer, dose).vectors.items()}


def from_directions(
    directions: Mapping[Any, Any], *, model_type: str = "", facts: Mapping[str, Any] | None = None
) -> Addition:
    """What coefficient 1 of ``ControlVector.directions`` adds; for :func:`interp.exchange.vector_of`.

    Raises:
        VectorError: unless these are vectors of one width by 0-based layer.
    """
    made: dict[int, Tensor] = {}
    for layer, values in directions.items():
        if isinstance(layer, bool) or not isinstance(layer, int | np.integer) or not 0 <= layer <= MAX_LAYER:
            raise VectorError(f"A direction is of layer {layer!r}; layers are counted from 0.")
        made[int(layer)] = as_vector(values, f"The direction of layer {layer}")
    return Addition(made, model=model_type, facts=facts)


def recognise(content: Content) -> bool:
    """Any other GGUF file: one that llama.cpp refuses, for block 0 say."""
    return content.container == "gguf"


FORMAT = Format(
    name="repeng",
    suffix=".gguf",
    program="repeng",
    holds="any blocks, dose baked in; coefficient 1 adds what was exported; EasySteer reads the same file",
    write=write,
    read=read,
    recognise=recognise,
    where="at every position but padding, the prompt included",
)
