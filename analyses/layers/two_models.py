"""Two models of one family: where the weights changed, and how much of the change each graft carries."""

from typing import Any

from analyses.layers.study import Study
from hooks.language_model import LanguageModel
from interp.grafting import Shape, Side, graft, weight_change

SHAPES: tuple[Shape, ...] = ("layer", "prefix", "suffix")
HOSTS: tuple[Side, ...] = ("base", "tuned")


def two_models(study: Study, tuned: LanguageModel) -> dict[str, Any]:
    """Weight change by layer, and every graft into either model, on the matched items' prompts."""
    base, pairs = study.lm, [pair for _, pair in study.pairs()]
    change = weight_change(base, tuned)
    stage = study.start("grafting", len(SHAPES) * len(HOSTS) * len(pairs))
    grafts = []
    for into in HOSTS:
        for shape in SHAPES:
            found = graft(base, tuned, pairs, shape=shape, into=into, on_pairs=stage.rows)
            grafts.append(
                {
                    "into": into,
                    "shape": shape,
                    "undefined": found.undefined,
                    "kl_host": float(found.kl_host.mean()),
                    "carried_kl": [interval.as_dict() for interval in found.intervals()],
                }
            )
    return {
        "tuned": {"name": tuned.name, "fingerprint": tuned.fingerprint},
        "n": len(pairs),
        "change": {
            "blocks": change.blocks.tolist(),
            "attention": change.attention.tolist(),
            "mlp": change.mlp.tolist(),
            "outside": dict(change.outside),
        },
        "grafts": grafts,
    }
