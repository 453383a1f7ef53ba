"""EasySteer's steering spec, with the vector in it: the body of ``POST /v1/steering``.

    {"spec": {"vectors": [{"data": {"version": 1, "kind": "direction",
                                    "tensors": {"layer.15": {"shape": [d_model], "data": base64 of float32}},
                                    "extra": {}, "sha256": ...},
                           "algorithm": "direct", "scale": 1.0, "layers": [15], "normalize": false,
                           "apply": {"prompt_positions": [-1], "generation": "all"}}]}}

``scale * v`` is added to the output of block l where ``apply`` says, and this clause says just what our
``generated`` does: the last prompt token and all that is generated. The ``spec`` alone is what a request
carries as its ``steering``, and what ``--steering-config`` reads. The hash is of kind, version, and each
tensor's name, shape and bytes.

Source: ZJU-REAL/EasySteer, docs/user-guide/steering.md and openai-server.md; its vLLM,
model_hooks/steering/api.py and payloads.py. Differs from the source: of its algorithms only ``direct`` is
read, and of its clauses the three that mean all, generated, and response here. A ``source`` is a path on
the server: import that file itself, as repeng.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from hooks.errors import VectorError
from hooks.positions import Positions, everything, generated, response
from interp.exchange.addition import KEY, Addition, Content, Format, checked
from interp.exchange.wire import as_vector, from_base64, layer_number, mapping, number, read_json, write_json

VERSION, KIND = 1, "direction"
APPLY: Mapping[Positions, Mapping[str, Any]] = {
    generated: {"prompt_positions": [-1], "generation": "all"},
    everything: {"prompt": "all", "generation": "all"},
    response: {"generation": "all"},
}


def write(path: Path, addition: Addition, called: str) -> Sequence[str]:  # noqa: ARG001
    """Write the body of the request."""
    tensors = {
        f"layer.{layer}": {
            "shape": list(vector.shape),
            "data": base64.b64encode(vector.numpy().astype("<f4").tobytes()).decode("ascii"),
        }
        for layer, vector in addition.vectors.items()
    }
    wire = {"version": VERSION, "kind": KIND, "tensors": tensors, "extra": {}, "sha256": _digest(tensors)}
    vector = {
        "data": wire,
        "algorithm": "direct",
        "scale": 1.0,
        "layers": addition.layers,
        "normalize": False,
        "apply": APPLY[generated],
    }
    write_json(path, {"spec": {"vectors": [vector]}, KEY: addition.facts})
    return ()


def read(path: Path) -> Addition:
    """What the spec adds, its scales included.

    Raises:
        InputError: if there is no such file.
        VectorError: if it is not of that form, or asks for anything but an added vector.
    """
    body = mapping(read_json(path), f"{path}")
    spec = mapping(body.get("spec", body), f"{path}: spec")
    members = spec.get("vectors")
    if not isinstance(members, list) or not members:
        raise VectorError(f"{path} holds no vectors.")
    vectors: dict[int, Tensor] = {}
    clauses = []
    for member in members:
        fields = mapping(member, f"{path}: a vector")
        clauses.append(_positions(fields.get("apply"), path))
        for layer, vector in _directions(fields, path).items():
            if layer in vectors:
                raise VectorError(
                    f"{path} has two vectors at layer {layer}; add them up, or import one at a time."
                )
            vectors[layer] = vector
    if any(clause != clauses[0] for clause in clauses):
        raise VectorError(f"{path} applies its vectors at different positions. Import one at a time.")
    return Addition(vectors, positions=clauses[0], facts=checked(body.get(KEY)))


def _directions(fields: Mapping[str, Any], path: Path) -> dict[int, Tensor]:
    """One vector of a spec, by layer, at its scale."""
    if fields.get("algorithm", "direct") != "direct":
        raise VectorError(f"{path} asks for {fields['algorithm']!r}; only direct adds a vector.")
    if fields.get("normalize", False) is not False:
        raise VectorError(
            f"{path} asks for normalize: each token is scaled back to its old norm, which adding a vector "
            "does not do. Set it to false to import the vector alone."
        )
    if fields.get("source") is not None:
        raise VectorError(
            f"{path} names the file {str(fields['source'])[:80]!r} of the server. Import that one, "
            "--format repeng."
        )
    wire = mapping(fields.get("data"), f"{path}: data")
    tensors = mapping(wire.get("tensors"), f"{path}: tensors")
    if wire.get("version") != VERSION or wire.get("kind") != KIND or wire.get("extra") != {}:
        raise VectorError(
            f"{path} holds a payload of kind {wire.get('kind')!r:.40}, version "
            f"{wire.get('version')!r:.40}; only a "
            f"{KIND} of version {VERSION} is one vector a layer."
        )
    scale = number(fields.get("scale", 1.0), f"{path}: scale")
    asked = fields.get("layers")
    if asked is not None and not isinstance(asked, list):
        raise VectorError(f"{path}: layers is no list.")
    only = None if asked is None else {layer_number(layer, f"{path}: layers") for layer in asked}
    made = {}
    for name, entry in tensors.items():
        tensor = mapping(entry, f"{path}: {name}")
        array = from_base64(tensor.get("data"), tensor.get("shape"), "<f4", f"{path}: {name}")
        head, _, digits = name.partition(".")
        layer = layer_number(digits, f"{path}: the layer of {name!r}")
        if head != "layer" or layer in made:
            raise VectorError(f"{path} has a tensor {name!r}, which is no layer.N, or a second one.")
        made[layer] = as_vector(as_vector(array, f"{path}: {name}") * scale, f"{path}: {name} at its scale")
    if wire.get("sha256") != _digest(tensors):
        raise VectorError(f"{path} was altered after it was written: its sha256 is of other numbers.")
    return {layer: vector for layer, vector in made.items() if only is None or layer in only}


def _positions(clause: object, path: Path) -> Positions:
    for positions, known in APPLY.items():
        if clause == known:
            return positions
    raise VectorError(
        f"{path} applies its vector at {clause!r:.100}. Only these clauses mean the same here: "
        f"{'; '.join(str(dict(known)) for known in APPLY.values())}."
    )


def _digest(tensors: Mapping[str, Mapping[str, Any]]) -> str:
    """What EasySteer knows a payload by."""
    digest = hashlib.sha256(f"{KIND}:{VERSION}".encode())
    for name, entry in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(str(tuple(entry["shape"])).encode())
        digest.update(base64.b64decode(entry["data"], validate=True))
    return digest.hexdigest()


def recognise(content: Content) -> bool:
    """By its keys."""
    return content.container == "json" and bool({"spec", "vectors"} & content.names)


FORMAT = Format(
    name="easysteer",
    suffix=".json",
    program="EasySteer",
    holds="any blocks, dose baked in, and the positions; scale 1 adds what was exported",
    write=write,
    read=read,
    recognise=recognise,
    positions=generated,
    where="at the last prompt token and every later one",
)
