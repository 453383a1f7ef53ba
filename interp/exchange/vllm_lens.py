"""Steering vectors of vllm-lens: the JSON that its HTTP server takes, and its SteeringVector is validated
from.

    [{"activations": {"data": base64, "dtype": "float32", "shape": [n, d_model]},
      "layer_indices": [l, ...], "scale": 1.0, "norm_match": false, "position_indices": null}]

``scale * activations[i]`` is added to the output of block ``layer_indices[i]``, at every position, the
prompt included. Over HTTP the list goes, as a string, into ``vllm_xargs["apply_steering_vectors"]``; in
Python each member into ``SteeringVector.model_validate``.

Source: UKGovernmentBEIS/vllm-lens, vllm_lens/_helpers/types.py and _serialize.py. Differs from the
source: tensors are written uncompressed, which it reads, so nothing is needed to write them; its own zstd
is read where pyarrow is installed. Matched norms and vectors of single positions are refused: neither is
one vector that is added.
"""

import base64
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hooks.errors import InputError, VectorError
from interp.exchange.addition import KEY, Addition, Content, Format, checked
from interp.exchange.wire import (
    DTYPES,
    checked_shape,
    float32,
    from_base64,
    from_bytes,
    layer_number,
    mapping,
    number,
    read_json,
    write_json,
)


def write(path: Path, addition: Addition, called: str) -> Sequence[str]:  # noqa: ARG001
    """Write the list of one steering vector."""
    layers = addition.layers
    stacked = torch.stack([addition.vectors[layer] for layer in layers]).numpy().astype("<f4")
    data = base64.b64encode(stacked.tobytes()).decode("ascii")
    vector = {
        "activations": {"data": data, "dtype": "float32", "shape": list(stacked.shape)},
        "layer_indices": layers,
        "scale": 1.0,
        "norm_match": False,
        "position_indices": None,
        KEY: addition.facts,
    }
    write_json(path, [vector])
    return ()


def read(path: Path) -> Addition:
    """What is added as the file stands, ``scale`` included.

    Raises:
        InputError: if there is no such file; for a compressed one without pyarrow.
        VectorError: if it is not of that form, or asks for what is not one added vector.
    """
    members = read_json(path)
    members = members if isinstance(members, list) else [members]
    vectors: dict[int, Tensor] = {}
    facts = None
    for member in members:
        fields = mapping(member, f"{path}: a steering vector")
        if fields.get("norm_match", False) is not False:
            raise VectorError(
                f"{path} asks for norm_match: each token is scaled back to its old norm, which adding a "
                "vector does not do. Set it to false to import the vector alone."
            )
        if fields.get("position_indices") is not None:
            raise VectorError(
                f"{path} names position_indices: vectors of single positions cannot be imported."
            )
        rows = _tensor(mapping(fields.get("activations"), f"{path}: activations"), f"{path}: activations")
        layers = fields.get("layer_indices")
        if rows.dim() != 2:
            raise VectorError(
                f"{path} has activations of {rows.dim()} dimensions; [n_layers, d_model] is due."
            )
        if not isinstance(layers, list) or len(layers) != len(rows):
            raise VectorError(f"{path} has {len(rows)} vectors and layer_indices {layers!r:.60}.")
        scale = number(fields.get("scale", 1.0), f"{path}: scale")
        for layer, row in zip(layers, rows, strict=True):
            at = layer_number(layer, f"{path}: a layer")
            if at in vectors:
                raise VectorError(f"{path} names layer {at} twice. Add the two up first.")
            vectors[at] = float32(row * scale, f"{path}: layer {at} at its scale")
        facts = checked(fields.get(KEY)) if len(members) == 1 else None
    return Addition(vectors, facts=facts, model="" if facts is None else facts["model"])


def _tensor(fields: Mapping[str, Any], what: str) -> Float[Tensor, "..."]:
    """A tensor of vllm-lens, in float32."""
    dtype, original = fields.get("dtype", "float32"), fields.get("original_dtype")
    brain = original == "torch.bfloat16"
    if dtype not in DTYPES and not (dtype == "int16" and brain):
        raise VectorError(f"{what} are {dtype!r} ({original!r}); floats are due.")
    stored = "<i2" if brain else DTYPES[dtype]
    if fields.get("compression") is None:
        array = from_base64(fields.get("data"), fields.get("shape"), stored, what)
    elif fields.get("compression") == "zstd":
        shape = checked_shape(fields.get("shape"), what)
        array = from_bytes(_unzstd(fields.get("data"), shape, stored, what), shape, stored, what)
    else:
        raise VectorError(f"{what} are compressed by {fields['compression']!r}; zstd or nothing is known.")
    tensor = torch.from_numpy(array)
    return float32(tensor.view(torch.bfloat16) if brain else tensor, what)


def _unzstd(data: object, shape: tuple[int, ...], dtype: str, what: str) -> bytes:
    """At most one byte more than the shape asks for, however large the data would become."""
    if find_spec("pyarrow") is None:
        raise InputError(
            f"{what} are compressed by zstd, which takes pyarrow to read: pip install pyarrow, or write them "
            "without compression."
        )
    if not isinstance(data, str) or not data.isascii():
        raise VectorError(f"{what} hold no base64.")
    arrow = import_module("pyarrow")
    try:
        packed = arrow.BufferReader(base64.b64decode(data, validate=True))
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return bytes(arrow.CompressedInputStream(packed, "zstd").read(size + 1))
    except (ValueError, OSError) as error:
        raise VectorError(f"{what} are not zstd in base64: {error}.") from None


def recognise(content: Content) -> bool:
    """By its keys."""
    return content.container == "json" and {"activations", "layer_indices"} <= content.names


FORMAT = Format(
    name="vllm-lens",
    suffix=".json",
    program="vllm-lens",
    holds="any blocks, dose baked in; scale 1 adds what was exported",
    write=write,
    read=read,
    recognise=recognise,
)
