"""Everything that is measured in a run, on whom, and what comes of it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from analyses.layers.measures import Attributed, Chunk, Drop, Lens, Measure, Moved, Recovery
from analyses.layers.study import FAMILIES, Study, Work
from analyses.layers.verdict import METHODS, Method, judge, summary
from analyses.pairs import POLES, Concept, builtin_pairs
from analyses.tasks import split_of, word_problems
from hooks.positions import response
from interp.ablation import mean_contributions
from interp.contrast import contrasts
from interp.controls import random_directions
from interp.dose import LastTokens, doses_for_kl
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
    config, lm = study.config, study.lm
    few, seed = config.n_floor, config.seed
    pairs = [pair for _, pair in study.pairs()]
    made: list[tuple[Measure, int | None]] = [
        (Drop("block", "partner", "onward"), None),
        (Drop("block:floor", "partner", "onward", floor=seed), few),
    ]
    where: Where
    for where in ("subject", "last"):
        name = f"ablation_{where}"
        means = {site: mean.cpu() for site, mean in mean_contributions(lm, pairs, where=where).items()}
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
    states = LastTokens(lm, [pair.clean for pair in pairs[:N_STATES]])
    stage = study.start("equal KL", len(vectors) + len(drawn))
    for name, vector in {**vectors, **{f"random:{i}": v for i, v in enumerate(drawn)}}.items():
        doses = tuple(doses_for_kl(states, vector, vector.layers, config.kl_target))
        n = None if name in vectors else few
        made.append((Moved(name, vector, config.dose, config.kl_target, doses), n))
        stage.rows()
    made.append((Lens(), None))
    return made


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
