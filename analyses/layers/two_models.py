"""Two models of one family: where the weights changed, and how much of the change each graft carries.

The second model is in this process alone, so the work is done here, whoever does that of the other steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from analyses.layers.study import Study
from analyses.run_folder import Record
from analyses.work import Work, compute
from analyses.workers import LocalWorker, Progress
from hooks.language_model import LanguageModel
from interp.grafting import Grafting, Shape, Side, graft, weight_change
from interp.prompt_pairs import Outcomes, PromptPair

SHAPES: tuple[Shape, ...] = ("layer", "prefix", "suffix")
HOSTS: tuple[Side, ...] = ("base", "tuned")
GRAFTS = tuple(product(HOSTS, SHAPES))
"""The host, and the blocks of the other that are grafted into it."""


@dataclass(frozen=True)
class Changed:
    """One task: how far the weights went."""

    tuned: LanguageModel

    def compute(self, lm: LanguageModel, on_tokens: Progress) -> list[dict[str, Any]]:  # noqa: ARG002
        """One record."""
        change = weight_change(lm, self.tuned)
        parts = {name: getattr(change, name).tolist() for name in ("blocks", "attention", "mlp")}
        return [{**parts, "outside": dict(change.outside)}]


@dataclass(frozen=True)
class Grafted:
    """One task: some pairs under the graft at each layer."""

    tuned: LanguageModel
    pairs: tuple[PromptPair, ...]
    shape: Shape
    into: Side

    def compute(self, lm: LanguageModel, on_tokens: Progress) -> list[dict[str, Any]]:
        """One record a pair: KLs in nats, and the two measures of each run."""
        found = graft(lm, self.tuned, self.pairs, shape=self.shape, into=self.into)
        on_tokens(sum(map(len, self.pairs)) * lm.n_layers)
        runs = {name: getattr(found, name).values for name in ("grafted", "host", "donor")}
        return [
            {
                "kl": found.kl[place].tolist(),
                "kl_host": float(found.kl_host[place]),
                **{name: values[place].tolist() for name, values in runs.items()},
            }
            for place in range(len(self.pairs))
        ]


def two_models(study: Study, tuned: LanguageModel) -> dict[str, Any]:
    """Weight change by layer, and every graft into either model, on the matched items' prompts."""
    pairs, chunk, weights = study.pairs(), study.config.chunk, ("weights", "change")
    made: list[Work] = [([weights], Changed(tuned))]
    for into, shape in GRAFTS:
        for start in range(0, len(pairs), chunk):
            part = pairs[start : start + chunk]
            keys = [(f"graft:{into}:{shape}", item) for item, _ in part]
            made.append((keys, Grafted(tuned, tuple(pair for _, pair in part), shape, into)))
    compute("two models", made, LocalWorker(study.lm), study.run, study.start)
    grafts = []
    for into, shape in GRAFTS:
        found = _grafting(shape, into, [study.run.get(f"graft:{into}:{shape}", item) for item, _ in pairs])
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
        "change": study.fields(weights),
        "grafts": grafts,
    }


def _grafting(shape: Shape, into: Side, records: Sequence[Record]) -> Grafting:
    """The graft of all pairs, from the records of each."""
    names = ("kl", "kl_host", "grafted", "host", "donor")
    kl, kl_host, *runs = (np.array([record[name] for record in records]) for name in names)
    grafted, host, donor = map(Outcomes.of, runs)
    return Grafting(shape, into, grafted=grafted, host=host, donor=donor, kl=kl, kl_host=kl_host)
