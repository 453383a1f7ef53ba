"""Can the answer be read off the last token at each layer? Probes on all items of a family that survived.

Answers that recur are the labels, and an answer that too few subjects have is left out. What a probe
reads may be what is asked, which makes some answers likely: ``by_kind`` is the accuracy of the commonest
answer of each kind of item, and belongs beside the probe's.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analyses.configs import LayersConfig
from analyses.items import Item, Survivor
from analyses.items.item import Family
from analyses.layers.study import FAMILIES, Study
from analyses.run_folder import Record
from analyses.work import Work
from analyses.workers import Progress
from hooks.errors import InputError
from hooks.language_model import LanguageModel
from hooks.rows import Row
from hooks.sites import Site
from interp.depth import center_interval
from interp.probes import INNER_FOLDS, probe_layers
from interp.stats import Interval
from interp.token_activations import token_activations

SHARED = 2
"""Groups that share an answer, for each fold: folds are of groups, and not evenly filled."""

PROBE_LAYERS = 5
"""Layers that are probed in one task."""


@dataclass(frozen=True)
class Readable:
    """Prompts whose answers recur, in aligned columns."""

    rows: tuple[Row, ...]
    labels: tuple[int, ...]
    """The answer's token."""

    groups: tuple[str, ...]
    """What is asked: all prompts of one are on one side of a split."""

    kinds: tuple[str, ...]

    @property
    def by_kind(self) -> float:
        """Accuracy of answering each kind with its commonest answer."""
        answers: dict[str, Counter[int]] = defaultdict(Counter)
        for kind, label in zip(self.kinds, self.labels, strict=True):
            answers[kind][label] += 1
        return sum(max(count.values()) for count in answers.values()) / len(self.rows)


def readable(survivors: Sequence[Survivor], folds: int) -> Readable:
    """The prompts of items and partners whose answer enough groups share for every fold to have it."""
    asked = []
    for s in survivors:
        asked.append((s.pair.clean, s.pair.answer, _group(s.item), s.item.kind))
        asked.append((s.pair.corrupted, s.pair.corrupted_answer, _group(s.partner), s.item.kind))
    sharing: dict[int, set[str]] = defaultdict(set)
    for _, label, group, _ in asked:
        sharing[label].add(group)
    fewest = SHARED * max(folds, INNER_FOLDS)
    kept = [prompt for prompt in dict.fromkeys(asked) if len(sharing[prompt[1]]) >= fewest]
    columns = zip(*kept, strict=True) if kept else [()] * 4
    return Readable(*(tuple(column) for column in columns))


def _group(item: Item) -> str:
    """What is asked: a fact of a subject, however it is put; or one question over its context."""
    asked = item.subject if item.family == "knowledge" else item.prompt.rsplit("\n", 1)[-1]
    return f"{item.kind}/{asked}"


@dataclass(frozen=True)
class Probed:
    """One task: probes at some layers."""

    prompts: Readable
    layers: tuple[int, ...]
    folds: int
    n_control: int
    seed: int

    def compute(self, lm: LanguageModel, on_tokens: Progress) -> list[dict[str, Any]]:
        """One record a layer."""
        sites = [Site(layer, "resid_post") for layer in self.layers]
        features = token_activations(lm, self.prompts.rows, sites)
        on_tokens(sum(len(row.tokens) for row in self.prompts.rows))
        try:
            probes = probe_layers(
                features,
                self.prompts.labels,
                self.prompts.groups,
                folds=self.folds,
                n_control=self.n_control,
                seed=self.seed,
            )
        except InputError as error:  # how labels fall into folds is not known before
            return [{"why": str(error)} for _ in sites]
        return [
            {
                "accuracy": probe.accuracy.as_dict(),
                "control": probe.control,
                "selectivity": probe.selectivity.as_dict(),
                "gain": self._by_group(probe.gain),
            }
            for probe in probes
        ]

    def _by_group(self, gain: np.ndarray) -> list[float]:
        """The mean gain of each group, in the order in which they first come."""
        of: dict[str, list[float]] = defaultdict(list)
        for group, value in zip(self.prompts.groups, gain.tolist(), strict=True):
            of[group].append(value)
        return [float(np.mean(values)) for values in of.values()]


def probes(study: Study) -> dict[str, Any]:
    """Probes of each family, on all its survivors; or why there are none."""
    config = study.config
    prompts = {
        family: readable(study.survivors.filtered.of(family), config.probe_folds) for family in FAMILIES
    }
    able = {family: p for family, p in prompts.items() if len(set(p.labels)) > 1}
    layers = range(study.lm.n_layers)
    work: list[Work] = [
        (
            [(f"probe:{family}", str(layer)) for layer in some],
            Probed(p, tuple(some), config.probe_folds, config.n_control, config.seed),
        )
        for family, p in able.items()
        for some in (layers[i : i + PROBE_LAYERS] for i in range(0, len(layers), PROBE_LAYERS))
    ]
    study.compute("probes", work)
    return {family: _probe(study, family, p) for family, p in prompts.items()}


def _probe(study: Study, family: Family, prompts: Readable) -> dict[str, Any]:
    facts = {"rows": len(prompts.rows), "answers": len(set(prompts.labels))}
    if facts["answers"] < 2:
        fewest = SHARED * max(study.config.probe_folds, INNER_FOLDS)
        why = f"fewer than two answers are shared by {fewest} subjects or more"
        return {**facts, "layers": None, "why": why}
    records = [study.run.get(f"probe:{family}", str(layer)) for layer in range(study.lm.n_layers)]
    if whys := [record["why"] for record in records if "why" in record]:
        return {**facts, "layers": None, "why": whys[0]}
    return {
        **facts,
        "groups": len(set(prompts.groups)),
        "by_kind": prompts.by_kind,
        "layers": [{key: r[key] for key in ("accuracy", "control", "selectivity")} for r in records],
        "center_of_mass": _center(records, prompts, study.config).as_dict(),
    }


def _center(records: Sequence[Record], prompts: Readable, config: LayersConfig) -> Interval:
    """Where selectivity rises: the centre of mass of its steps, with a bootstrap over groups."""
    count = np.array(list(Counter(prompts.groups).values()))  # in the order of the groups in a record
    gain = count * np.array([record["gain"] for record in records])  # [layer, group]
    picks = np.random.default_rng(config.seed).multinomial(
        len(count), np.full(len(count), 1 / len(count)), size=config.n_resamples
    )
    weights = np.vstack([np.ones(len(count)), picks])  # the groups as they are, then every resample
    steps = np.diff(weights @ gain.T / (weights @ count)[:, None], prepend=0.0)
    return center_interval(steps[0], steps[1:], n=len(count))
