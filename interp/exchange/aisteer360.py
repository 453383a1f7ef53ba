"""AISteer360's .svec: JSON of one direction a layer.

    {"model_type": "llama", "directions": {"14": [[...]]}}           multiplier * directions[l] is added

A direction is ``[K, d_model]`` and what K means is for the method that reads it; adding one vector
everywhere, as CAA does, is K = 1, and a flat list is read as that.
``CAA(steering_vector=SteeringVector.load("v.svec"), layer_id=14, multiplier=1.0)`` adds to the output of
block 14, by default after the prompt; without ``layer_id`` it takes the layer at 0.4 of the depth,
whatever the file holds, so the layer has to be named.

Source: IBM/AISteer360, state_control/_common/steering_vector.py and state_control/caa. Differs from the
source: several rows (one for each token, a plane, one for each head) are refused, as they are not one
vector that is added at every position.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hooks.errors import VectorError
from hooks.positions import response
from interp.exchange.addition import KEY, Addition, Content, Format, checked
from interp.exchange.wire import as_vector, layer_number, mapping, numbers, read_json, write_json


def write(path: Path, addition: Addition, called: str) -> Sequence[str]:  # noqa: ARG001
    """Write the file that ``SteeringVector.load`` reads."""
    directions = {str(layer): [vector.tolist()] for layer, vector in sorted(addition.vectors.items())}
    write_json(
        path, {"model_type": addition.model or "unknown", "directions": directions, KEY: addition.facts}
    )
    return (
        f"name the layer where it is read: CAA(steering_vector=..., layer_id={addition.layers[0]}, "
        f"multiplier=1.0)",
        "model_type holds the model's name, not its family; AISteer360 only asks that there is one",
    )


def read(path: Path) -> Addition:
    """What a multiplier of 1 adds.

    Raises:
        InputError: if there is no such file.
        VectorError: if it is no .svec, or of a method that does not add one vector.
    """
    data = mapping(read_json(path), f"{path}")
    directions = mapping(data.get("directions"), f"{path}: directions")
    if not isinstance(data.get("model_type"), str):
        raise VectorError(f"{path} has no model_type, and AISteer360 reads no file without it.")
    if data.get("num_heads") is not None or data.get("head_dim") is not None:
        raise VectorError(
            f"{path} holds directions of single heads (num_heads, head_dim), which are added before the "
            "heads are joined. Only vectors of the residual stream can be imported."
        )
    vectors = {}
    for key, rows in directions.items():
        layer = layer_number(key, f"{path}: a layer")
        if layer in vectors:
            raise VectorError(f"{path} names layer {layer} twice.")
        vectors[layer] = as_vector(_row(rows, f"{path}: the direction of layer {layer}"), f"Layer {layer}")
    return Addition(vectors, positions=response, model=data["model_type"], facts=checked(data.get(KEY)))


def _row(rows: object, what: str) -> np.ndarray:
    if isinstance(rows, list) and rows and isinstance(rows[0], list):
        if len(rows) != 1:
            raise VectorError(
                f"{what} has {len(rows)} rows: one for each token, or a plane. Only a single vector, which "
                "is added at every position alike, can be imported."
            )
        rows = rows[0]
    return numbers(rows, what)


def recognise(content: Content) -> bool:
    """By its keys."""
    return content.container == "json" and {"model_type", "directions"} <= content.names


FORMAT = Format(
    name="aisteer360",
    suffix=".svec",
    program="AISteer360",
    holds="any blocks, dose baked in; multiplier 1 adds what was exported",
    write=write,
    read=read,
    recognise=recognise,
    positions=response,
    where="after the prompt by default (token_scope), so not at the last prompt token, which produces the "
    "first generated one",
)
