"""Neuronpedia's vectors: the body of ``POST /api/vector/new``, one vector at one layer.

    {"modelId": "gemma-2-2b", "layerNumber": 15, "hookType": "hook_resid_post",
     "vector": [at most 24576 numbers], "vectorDefaultSteerStrength": s, "vectorLabel": "..."}

A steering request adds strength * vector, or strength * vector / |vector| where it normalises. Here the
vector is the unit vector and the strength is the edit's norm, so that both are the edit:

    vector = a / |a|,    vectorDefaultSteerStrength = |a|,

in float64, whose product rounds to ``a`` to the bit. Strengths are limited to 300 either way (its
documentation says 100), so an edit that is longer is refused. It steers at every position, the prompt
included, special tokens only if asked.

Source: hijohnnylin/neuronpedia, apps/webapp/app/api/vector/new/route.ts, lib/utils/steer.ts,
apps/inference. Differs from the source: nothing. Older servers know ``hook_resid_pre`` alone.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hooks.errors import VectorError
from hooks.sites import SiteKind
from interp.exchange.addition import KEY, Addition, Content, Format, checked
from interp.exchange.wire import as_vector, layer_number, mapping, number, numbers, read_json, write_json

WIDEST, STRONGEST, DOCUMENTED = 24_576, 300.0, 100.0
HOOKS: dict[str, SiteKind] = {"hook_resid_pre": "resid_pre", "hook_resid_post": "resid_post"}


def write(path: Path, addition: Addition, called: str) -> Sequence[str]:
    """Write the body of the request.

    Raises:
        VectorError: for a vector that is too wide, or an edit that is too long.
    """
    ((layer, vector),) = addition.vectors.items()
    wide, norm = vector.double(), float(vector.double().norm())
    if len(vector) > WIDEST:
        raise VectorError(f"Neuronpedia takes {WIDEST} numbers, and this vector has {len(vector)}.")
    if norm > STRONGEST:
        raise VectorError(
            f"Neuronpedia takes strengths up to {STRONGEST:g}, and this edit has the norm {norm:.4g}. "
            f"Export a dose that is {norm / STRONGEST:.3g} times smaller, or an earlier layer."
        )
    model_id = addition.model.rpartition("/")[2].lower()
    body = {
        "modelId": model_id,
        "layerNumber": layer,
        "hookType": f"hook_{addition.kind}",
        "vector": (wide / norm).tolist(),
        "vectorDefaultSteerStrength": norm,
        "vectorLabel": called,
        KEY: addition.facts,
    }
    write_json(path, body)
    said = [
        f"modelId is {model_id!r}, made of the model's name: check that Neuronpedia calls it so",
        f"the vector is the unit vector and the strength is {norm:.4g}: strength 1 is not the exported dose",
    ]
    if norm > DOCUMENTED:
        said.append(f"its documentation allows strengths up to {DOCUMENTED:g}, its code up to {STRONGEST:g}")
    return said


def read(path: Path) -> Addition:
    """What the default strength adds.

    Raises:
        InputError: if there is no such file.
        VectorError: if it is not of that form, or beyond Neuronpedia's limits.
    """
    body = mapping(read_json(path), f"{path}")
    hook = body.get("hookType")
    if not isinstance(hook, str) or hook not in HOOKS:
        raise VectorError(f"{path} has the hookType {hook!r:.60}; {' and '.join(HOOKS)} are known.")
    strength = number(body.get("vectorDefaultSteerStrength"), f"{path}: vectorDefaultSteerStrength")
    vector = numbers(body.get("vector"), f"{path}: vector")
    if len(vector) > WIDEST or abs(strength) > STRONGEST:
        raise VectorError(
            f"{path} has {len(vector)} numbers and the strength {strength:g}; Neuronpedia takes {WIDEST} and "
            f"{STRONGEST:g}."
        )
    layer = layer_number(body.get("layerNumber"), f"{path}: layerNumber")
    with np.errstate(over="ignore"):
        added = as_vector(vector * strength, f"{path}: the vector at its strength")
    model = body.get("modelId")
    return Addition(
        {layer: added},
        kind=HOOKS[hook],
        model=model if isinstance(model, str) else "",
        facts=checked(body.get(KEY)),
    )


def recognise(content: Content) -> bool:
    """By its keys."""
    return content.container == "json" and {"modelId", "vector"} <= content.names


FORMAT = Format(
    name="neuronpedia",
    suffix=".json",
    program="Neuronpedia",
    holds=f"one layer, up to {WIDEST} numbers; unit vector and strength, up to {STRONGEST:g}",
    write=write,
    read=read,
    recognise=recognise,
    where="at every position, the prompt included, special tokens only if asked",
    kinds=("resid_pre", "resid_post"),
    many=False,
)
