"""Is a missing number noticed, at which layer, and does the direction that says so make the model ask?

Triples of one half of the templates estimate the direction and choose its layer; those of the other half
score the probes of every layer and what injecting the direction does. See :mod:`interp.missing`. The layer
is the one whose direction, estimated from other fit triples, tells missing from irrelevant best.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analyses.configs import ThinkingConfig
from analyses.tasks.missing_number import missing_number
from analyses.thinking.short_thoughts import short_thoughts
from analyses.thinking.study import Study
from analyses.work import Work
from analyses.workers import Progress
from hooks.errors import InputError
from hooks.language_model import LanguageModel
from interp.missing import Asking, Triple, asking, missing_direction, noticed
from interp.stats import benjamini_hochberg, mean_interval
from interp.steering_vector import SteeringVector

FOLDS = 5
TOGETHER = 8
"""Layers that one task probes, in one pass."""

FILE = "missing.safetensors"


@dataclass(frozen=True)
class Triples:
    """Those that choose and those that score; no template is in both."""

    fit: list[Triple]
    confirm: list[Triple]


def triples_of(config: ThinkingConfig) -> Triples | None:
    """The triples of a run; None where it has none.

    Raises:
        InputError: if there are too few for the folds of a probe, or too few of them are asked.
    """
    n = config.n_confirm_triples
    if n == 0:
        return None
    made = missing_number(2 * max(config.n_fit_triples, n) + 60, config.seed)
    templates = sorted({t.group for t in made})
    random.Random(config.seed).shuffle(templates)
    half = set(templates[: len(templates) // 2])
    fit = [t for t in made if t.group in half][: config.n_fit_triples]
    confirm = [t for t in made if t.group not in half][:n]
    for name, some, asked in (("fit", fit, config.n_fit_triples), ("confirm", confirm, n)):
        if len({t.group for t in some}) < FOLDS or len(some) < asked:
            raise InputError(
                f"n_{name}_triples={asked}: {len(some)} were made, of {len({t.group for t in some})} "
                f"templates; a probe needs {FOLDS} or more. Pass --n-{name}-triples of 16 to 150"
                + (", or 0 to leave this out." if name == "confirm" else ".")
            )
    if not 2 <= config.n_asked <= n or config.n_random < 1 or not config.doses:
        raise InputError(
            f"n_asked={config.n_asked} of {n} confirm triples, n_random={config.n_random}, "
            f"doses={config.doses}: ask 2 or more of them, with a random direction and a dose or more."
        )
    return Triples(fit, confirm)


@dataclass(frozen=True)
class Probed:
    """One task: what probes of every layer tell apart."""

    triples: tuple[Triple, ...]
    layers: tuple[int, ...]
    seed: int

    def compute(self, lm: LanguageModel, on_tokens: Progress) -> list[dict[str, Any]]:  # noqa: ARG002
        """One record a layer."""
        found = noticed(lm, self.triples, layers=self.layers, folds=FOLDS, seed=self.seed)
        names = ("missing", "irrelevant", "beyond")
        return [
            {"layer": layer, **{name: getattr(of, name).as_dict() for name in names}, "p": of.p_value}
            for layer, of in found.items()
        ]


@dataclass(frozen=True)
class Injected:
    """One task: what the direction does to asking at one dose, beside random ones."""

    triples: tuple[Triple, ...]
    vector: SteeringVector
    layer: int
    dose: float
    n_random: int
    seed: int

    def compute(self, lm: LanguageModel, on_tokens: Progress) -> list[dict[str, Any]]:
        """One record."""
        found: Asking = asking(
            lm,
            self.triples,
            self.vector,
            layer=self.layer,
            dose=self.dose,
            n_random=self.n_random,
            seed=self.seed,
            on_tokens=on_tokens,
        )
        names = ("missing", "irrelevant", "injected", "beyond_random")
        return [
            {
                "dose": self.dose,
                **{name: getattr(found, name).as_dict() for name in names},
                "random": list(found.random),
                "random_mean": mean_interval(np.array(found.random), seed=self.seed).as_dict(),
                "p": found.p_value,
            }
        ]


def missing(study: Study, triples: Triples | None) -> dict[str, Any] | None:
    """Probes by layer, the direction, what it does, and what a short thought does to asking."""
    if triples is None:
        return None
    config = study.config
    layers = tuple(sorted({i % study.lm.n_layers for i in config.layers}) or range(study.lm.n_layers))
    sets = {"fit": triples.fit, "confirm": triples.confirm}
    work: list[Work] = []
    for start in range(0, len(layers), TOGETHER):
        some = layers[start : start + TOGETHER]
        keys = [("noticed", str(layer)) for layer in some]
        work.append((keys, Probed(tuple(triples.confirm), some, config.seed)))
    study.compute("probes", work)
    vector = _direction(study, triples.fit, layers)
    layer = max(layers, key=lambda i: (vector.reliability[i].auroc, vector.reliability[i].left_out))
    asked = triples.confirm[: config.n_asked]
    study.compute(
        "asking",
        [
            (
                [("asking", f"{dose:g}")],
                Injected(tuple(asked), vector, layer, dose, config.n_random, config.seed),
            )
            for dose in config.doses
        ],
    )
    return {
        "n": {
            name: {"triples": len(some), "templates": len({t.group for t in some})}
            for name, some in sets.items()
        },
        "n_asked": len(asked),
        "layers": _with_q([study.run.fields("noticed", str(layer)) for layer in layers]),
        "layer": layer,
        "rule": "the layer whose direction tells missing from irrelevant best, on fit triples it was not "
        "estimated from",
        "reliability": {
            "trusted": vector.reliability[layer].trusted,
            **vector.reliability[layer].as_dict(),
            **vector.length_control.get(layer, {}),
        },
        "n_random": config.n_random,
        "asking": [study.run.fields("asking", f"{dose:g}") for dose in config.doses],
        "short_thoughts": short_thoughts(study, triples.fit, asked, vector, layer),
        "example": vars(asked[0]),
    }


def _direction(study: Study, triples: Sequence[Triple], layers: Sequence[int]) -> SteeringVector:
    """From irrelevant to missing, at every layer; written once."""
    file = study.run.path / "vectors" / FILE
    if not file.exists():
        study.run.save(FILE, missing_direction(study.lm, triples, layers=layers, seed=study.config.seed))
    return SteeringVector.load(file, study.lm)


def _with_q(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with p adjusted over layers by Benjamini and Hochberg."""
    q = benjamini_hochberg(np.array([row["p"] for row in rows]))
    return [{**row, "q": float(value)} for row, value in zip(rows, q, strict=True)]
