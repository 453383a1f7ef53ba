"""Vectors of the package steering-vectors: its object, and a file that it can be made from without pickle.

    SteeringVector(layer_activations={layer: float32 [d_model]}, layer_type="decoder_block")

with ``multiplier * layer_activations[l]`` added to the output of block l, at every position of each
forward pass from ``min_token_index`` on, the prompt included. The package has no file format. This one is
safetensors:

    layer_activations.{l}    float32 [d_model];    metadata: layer_type

    tensors = safetensors.torch.load_file("v.safetensors")
    SteeringVector({int(name.split(".")[1]): tensor for name, tensor in tensors.items()})

Source: steering-vectors/steering-vectors, steering_vectors/steering_vector.py. Differs from the source:
objects are taken by their two fields, so the package need not be installed to read one. A ``layer_type``
other than decoder_block is refused: it names the output of a module, which on some families is not what
that module adds to the stream.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from safetensors.torch import save as to_bytes

from hooks.errors import InputError, VectorError
from hooks.files import whole
from interp.exchange.addition import KEY, MAX_LAYER, Addition, Content, Format, addition_of, packed, unpacked
from interp.exchange.wire import as_vector, layer_number, read_safetensors
from interp.steering_vector import SteeringVector

LAYER_TYPE, PREFIX = "decoder_block", "layer_activations."


def write(path: Path, addition: Addition, called: str) -> Sequence[str]:  # noqa: ARG001
    """Write the file of the first lines above."""
    tensors = {f"{PREFIX}{layer}": vector.clone() for layer, vector in sorted(addition.vectors.items())}
    metadata = {"layer_type": LAYER_TYPE, "model": addition.model, KEY: packed(addition)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as part:
        part.write_bytes(to_bytes(tensors, metadata=metadata))
    return ()


def read(path: Path) -> Addition:
    """What multiplier 1 adds.

    Raises:
        InputError: if there is no such file.
        VectorError: if it is not of that form.
    """
    tensors, metadata = read_safetensors(path)
    _check_type(metadata.get("layer_type"))
    vectors = {}
    for name, tensor in tensors.items():
        if not name.startswith(PREFIX):
            raise VectorError(f"{path} has a tensor {name!r}, which is no {PREFIX}N.")
        layer = layer_number(name.removeprefix(PREFIX), f"The layer of {name!r}")
        if layer in vectors:
            raise VectorError(f"{path} names layer {layer} twice.")
        vectors[layer] = as_vector(tensor, name)
    return Addition(vectors, model=metadata.get("model", ""), facts=unpacked(metadata.get(KEY)))


def to_object(
    vector: SteeringVector, *, layer: int | Sequence[int] | None = None, dose: float | None = None
) -> Any:
    """A ``steering_vectors.SteeringVector`` whose multiplier 1 is the edit.

    Raises:
        InputError: without the package steering-vectors.
        VectorError: as :func:`interp.exchange.export_vector`.
    """
    if find_spec("steering_vectors") is None:
        raise InputError(
            "The package steering-vectors is not installed: pip install steering-vectors. Without it, "
            "to_fields gives what its SteeringVector is made of."
        )
    return import_module("steering_vectors").SteeringVector(**to_fields(vector, layer=layer, dose=dose))


def to_fields(
    vector: SteeringVector, *, layer: int | Sequence[int] | None = None, dose: float | None = None
) -> dict[str, Any]:
    """The two fields that a ``steering_vectors.SteeringVector`` is made of.

    Raises:
        VectorError: as :func:`interp.exchange.export_vector`.
    """
    vectors = addition_of(vector, FORMAT, layer, dose).vectors
    return {"layer_activations": dict(vectors), "layer_type": LAYER_TYPE}


def from_object(steering: Any, *, model: str = "") -> Addition:
    """What multiplier 1 of an object with the two fields adds; for :func:`interp.exchange.vector_of`.

    Raises:
        VectorError: for another layer type, or layers that are not counted from 0.
    """
    activations = getattr(steering, "layer_activations", None)
    if not isinstance(activations, Mapping):
        raise VectorError(
            f"A {type(steering).__name__} has no layer_activations by layer; a SteeringVector is due."
        )
    _check_type(getattr(steering, "layer_type", LAYER_TYPE))
    vectors = {}
    for layer, values in activations.items():
        if type(layer) is not int or not 0 <= layer <= MAX_LAYER:
            raise VectorError(f"It has a vector at layer {layer!r}; layers are counted from 0 here.")
        vectors[layer] = as_vector(values.reshape(-1), f"The vector at layer {layer}")
    return Addition(vectors, model=model)


def _check_type(layer_type: object) -> None:
    if layer_type != LAYER_TYPE:
        raise VectorError(
            f"The layer type {layer_type!r} is not the output of a block, and only {LAYER_TYPE!r} can be "
            "imported: what other modules give out is not, on every family, what they add to the stream."
        )


def recognise(content: Content) -> bool:
    """By its metadata."""
    return content.container == "safetensors" and "layer_type" in content.metadata


FORMAT = Format(
    name="steering-vectors",
    suffix=".safetensors",
    program="steering-vectors",
    holds="any blocks, dose baked in; multiplier 1 adds what was exported",
    write=write,
    read=read,
    recognise=recognise,
    where="at every position of each forward pass, the prompt included",
)
