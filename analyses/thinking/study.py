"""What every step of a thinking run needs: the model, the problems, the switch, and its folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Shaped

from analyses.configs import ThinkingConfig
from analyses.run_folder import Record, RunFolder
from analyses.tasks import Problem
from analyses.thinking.switch import Switch
from analyses.work import Start, Work, compute
from analyses.workers import Workers
from hooks import LanguageModel
from interp.stats import mean_interval


@dataclass(frozen=True)
class Study:
    """What every step needs."""

    config: ThinkingConfig
    lm: LanguageModel
    workers: Workers
    run: RunFolder
    problems: list[Problem]
    start: Start

    @property
    def switch(self) -> Switch:
        return Switch.of(self.config)

    def chunks(self, problems: Sequence[Problem]) -> list[Sequence[Problem]]:
        """The problems of each task."""
        size = self.config.chunk
        return [problems[start : start + size] for start in range(0, len(problems), size)]

    def compute(self, what: str, work: Sequence[Work]) -> None:
        """:func:`analyses.work.compute` by the study's workers, into its folder."""
        compute(what, work, self.workers, self.run, self.start)

    def records(self, condition: str, problems: Sequence[Problem]) -> list[Record]:
        return [self.run.get(condition, problem.id) for problem in problems]


def mean(values: Shaped[np.ndarray, " n"], seed: int) -> dict[str, Any]:
    """The mean with its bootstrap interval; without bounds where all values are one, which says too much."""
    told: dict[str, Any] = mean_interval(values, seed=seed).as_dict()
    return told if np.ptp(values) > 0 else {**told, "low": None, "high": None}


def difference(a: Shaped[np.ndarray, " n"], b: Shaped[np.ndarray, " n"], seed: int) -> dict[str, Any]:
    """:func:`mean` of a less b, problem by problem."""
    return mean(np.asarray(a, float) - np.asarray(b, float), seed)
