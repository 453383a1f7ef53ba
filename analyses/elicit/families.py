"""The problems that keys are tried on: families, each on one rung of its ladder, in three splits."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from analyses.configs import ElicitConfig
from analyses.tasks import Problem, checked, find_rung, load_problems, rungs_of
from analyses.tasks.problem import by_split
from hooks.errors import InputError

Solve = Callable[[Sequence[Problem]], np.ndarray]

Parts = dict[str, list[Problem]]
"""Problems by their split."""

OTHER = 1
"""Added to the seed of the problems on which a rung is found: they are others than those that score."""


@dataclass(frozen=True)
class Families:
    """The problems of every family, in the three splits."""

    fit: list[Problem] = field(default_factory=list)
    select: list[Problem] = field(default_factory=list)
    confirm: list[Problem] = field(default_factory=list)
    rungs: dict[str, Any] = field(default_factory=dict)
    """Where a rung was looked for: what was found, by the family's name."""


def loaded(config: ElicitConfig) -> dict[str, Parts]:
    """The problems of every source before a model is: of a ladder, those of its easiest rung.

    Raises:
        InputError: if a source cannot be read, cannot tell a right answer, or has too few problems.
    """
    first = {
        source: _split(config, rungs_of(source)[0] if config.find_rung else source, set())
        for source in config.tasks
    }
    for parts in first.values():
        checked([problem for of_split in parts.values() for problem in of_split])
    return first


def families(config: ElicitConfig, first: Mapping[str, Parts], solve: Solve) -> Families:
    """All problems of the run, of what was loaded first; of a ladder, those of the rung that is found."""
    found = Families()
    for source in config.tasks:
        parts = first[source]
        if config.find_rung and len(rungs_of(source)) > 1:
            asked: list[Problem] = []

            def solved(problems: Sequence[Problem], asked: list[Problem] = asked) -> np.ndarray:
                asked += problems
                return solve(problems)

            climbed = find_rung(solved, source, n=config.n_rung, seed=config.seed + OTHER)
            parts = _split(config, climbed.source, {problem.prompt for problem in asked})
            found.rungs[source] = {
                "rung": climbed.source,
                "inside": climbed.inside,
                "n": config.n_rung,
                "accuracy": climbed.accuracy.as_dict(),
                "climbed": {name: x.as_dict() for name, x in climbed.accuracies.items()},
            }
        for name, problems in parts.items():
            getattr(found, name).extend(problems)
    checked([*found.fit, *found.select, *found.confirm])
    return found


def _split(config: ElicitConfig, source: str, seen: set[str]) -> Parts:
    """The problems of one source in their splits, less those whose prompts were seen."""
    wanted = {"fit": config.n_fit, "select": config.n_select, "confirm": config.n_confirm}
    problems = [p for p in load_problems(source, seed=config.seed) if p.prompt not in seen]
    parts: Parts = {}
    for name, of_split in by_split(problems).items():
        if not 1 <= wanted[name] <= len(of_split):
            raise InputError(
                f"{source} has {len(problems)} problems, {len(of_split)} of them in the {name} split; "
                f"{wanted[name]} were asked for. Pass --n-{name} of 1 to {len(of_split)}, or more problems."
            )
        parts[name] = of_split[: wanted[name]]
    return parts
