"""Everything that is measured in a run, on whom, and what comes of it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from safetensors.torch import load_file

from analyses.layers.measures import Attributed, Chunk, Drop, EqualKL, Lens, Measure, Moved, Recovery
from analyses.layers.study import FAMILIES, Study
from analyses.layers.verdict import METHODS, Method, judge, summary
from analyses.pairs import POLES, Concept, builtin_pairs
from analyses.tasks import split_of, word_problems
from analyses.work import Work
from hooks.positions import response
from hooks.sites import Site
from interp.ablation import Means, mean_contributions
from interp.contrast import contrasts
from interp.controls import random_directions
from interp.prompt_pairs import Where
from interp.steering_vector import SteeringVector

N_STATES = 8
"""Clean prompts on which the dose of a wanted KL is found."""


def methods(study: Study) -> list[dict[str, Any]]:
    """Measure everything that is not on disk; every method's curves, statistic and verdict."""
    _measure(study, _measures(study))
    return judge([_summary(study, method) for method in METHODS])


def _measures(study: Study) -> list[tuple[Measure, int | None]]:
    """Everything that is measured, and on how many matched pairs (None: all)."""
    config = study.config
    few, seed = config.n_floor, config.seed
    made: list[tuple[Measure, int | None]] = [
        (Drop("block", "partner", "onward"), None),
        (Drop("block:floor", "partner", "onward", floor=seed), few),
    ]
    where: Where
    for where in ("subject", "last"):
        name = f"ablation_{where}"
        means = _means(study, where)
        made.append((Drop(name, "mean", where, means), None))
        made.append((Drop(f"{name}:floor", "mean", where, means, floor=seed), few))
    for where in ("subject", "last"):
        name = f"patching_{where}"
        made.append((Recovery(name, where), None))
        made.append((Recovery(f"{name}:floor", where, floor=seed), few))
    made.append((Attributed("attribution", config.steps), None))
    made.append((Attributed("attribution:floor", config.steps, floor=seed), few))
    vectors = {f"sensitivity_{concept}": _vector(study, concept) for concept in POLES}
    drawn = random_directions(vectors["sensitivity_reasoning"], config.n_random, seed=seed)
    every = {**vectors, **{f"random:{i}": vector for i, vector in enumerate(drawn)}}
    for name, doses in _doses(study, every).items():
        n = None if name in vectors else few
        made.append((Moved(name, every[name], config.dose, config.kl_target, doses), n))
    made.append((Lens(), None))
    return made


def _means(study: Study, where: Where) -> Means:
    """What each block adds to the prompts of both families, on average; kept in the run folder."""
    file = study.run.path / "means" / f"{where}.safetensors"
    if not file.exists():
        pairs = [pair for _, pair in study.pairs()]
        stage = study.start(f"means, {where}", len(pairs))
        made = mean_contributions(study.lm, pairs, where=where)
        stage.rows(len(pairs))
        study.run.save_tensors("means", file.name, {str(site): mean for site, mean in made.items()})
    return {Site.parse(name): mean for name, mean in load_file(file).items()}


def _doses(study: Study, vectors: Mapping[str, SteeringVector]) -> dict[str, tuple[float, ...]]:
    """Of each vector, the dose of each layer that has the wanted KL."""
    rows = tuple(pair.clean for _, pair in study.pairs()[:N_STATES])
    work: list[Work] = [
        ([("dose", name)], EqualKL(vector, rows, study.config.kl_target)) for name, vector in vectors.items()
    ]
    study.compute("equal KL", work)
    return {name: tuple(study.run.get("dose", name)["doses"]) for name in vectors}


def _vector(study: Study, concept: Concept) -> SteeringVector:
    """The contrast vector of worked solutions; kept in the run folder."""
    file = study.run.path / "vectors" / f"{concept}.safetensors"
    if not file.exists():
        problems = [problem for problem in word_problems() if split_of(problem) == "fit"]
        pairs = builtin_pairs(concept, problems, study.config.n_pairs, study.config.seed)
        stage = study.start(f"{concept} vector", 2 * len(pairs))
        made = contrasts(
            study.lm,
            pairs,
            reads=(response,),
            poles=POLES[concept],
            seed=study.config.seed,
            on_tokens=stage.tokens,
        )
        stage.rows(2 * len(pairs))
        (vector,) = made.values()
        study.run.save(file.name, vector)
    return SteeringVector.load(file, study.lm)


def _measure(study: Study, measures: Sequence[tuple[Measure, int | None]]) -> None:
    work: list[Work] = []
    for measure, n in measures:
        pairs = study.pairs(n)
        for start in range(0, len(pairs), study.config.chunk):
            part = pairs[start : start + study.config.chunk]
            keys = [(measure.name, item) for item, _ in part]
            work.append((keys, Chunk(measure, tuple(pair for _, pair in part))))
    study.compute("curves", work)


def _summary(study: Study, method: Method) -> dict[str, Any]:
    config, (name, curve) = study.config, method.floor
    names = [f"random:{i}" for i in range(config.n_random)] if name == "random" else [name]
    n = None if name == method.of[0] else config.n_floor
    return summary(
        method,
        {family: study.curves(family, method.of) for family in FAMILIES},
        {f: np.mean([study.curves(f, (name, curve), n) for name in names], axis=0) for f in FAMILIES},
        n_resamples=config.n_resamples,
        seed=config.seed,
    )
