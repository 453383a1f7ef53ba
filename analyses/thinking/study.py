"""What every step of a thinking run needs: the model, the problems, the switch, and its folder."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Shaped

from analyses.configs import ThinkingConfig
from analyses.progress import Stage
from analyses.run_folder import Key, Record, RunFolder
from analyses.tasks import Problem
from analyses.thinking.switch import Switch
from analyses.workers import Task, Workers
from hooks import LanguageModel
from interp.stats import mean_interval

Work = tuple[Sequence[Key], Task]
"""A task, and what its records are of, in order."""


@dataclass(frozen=True)
class Study:
    """What every step needs."""

    config: ThinkingConfig
    lm: LanguageModel
    workers: Workers
    run: RunFolder
    problems: list[Problem]
    start: Callable[[str, int], Stage]

    @property
    def switch(self) -> Switch:
        return Switch.of(self.config)

    def chunks(self, problems: Sequence[Problem]) -> list[Sequence[Problem]]:
        """The problems of each task."""
        size = self.config.chunk
        return [problems[start : start + size] for start in range(0, len(problems), size)]

    def compute(self, what: str, work: Sequence[Work]) -> None:
        """Do what is not on disk yet, and write its records as they come."""
        todo = [(keys, task) for keys, task in work if self.run.missing(keys, chunk=len(keys))]
        stage = self.start(what, len(work))
        stage.rows(len(work) - len(todo))
        for place, fields in self.workers.map([task for _, task in todo], stage.tokens):
            self.run.add(todo[place][0], fields)
            stage.rows()

    def records(self, condition: str, problems: Sequence[Problem]) -> list[Record]:
        return [self.run.get(condition, problem.id) for problem in problems]

    def fields(self, condition: str, item: str) -> dict[str, Any]:
        """What is recorded under a condition and an item, without these."""
        record = self.run.get(condition, item)
        return {name: value for name, value in record.items() if name not in ("condition", "item")}


def known(value: float) -> float | None:
    """The number, or None for NaN, which is no JSON."""
    return None if math.isnan(value) else float(value)


def mean(values: Shaped[np.ndarray, " n"], seed: int) -> dict[str, Any]:
    """The mean with its bootstrap interval; without bounds where all values are one, which says too much."""
    told: dict[str, Any] = mean_interval(values, seed=seed).as_dict()
    return told if np.ptp(values) > 0 else {**told, "low": None, "high": None}


def difference(a: Shaped[np.ndarray, " n"], b: Shaped[np.ndarray, " n"], seed: int) -> dict[str, Any]:
    """:func:`mean` of a less b, problem by problem."""
    return mean(np.asarray(a, float) - np.asarray(b, float), seed)
