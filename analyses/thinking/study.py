"""What every step of a thinking run needs: the model, the problems, the switch, and its folder."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from analyses.configs import ThinkingConfig
from analyses.progress import Stage
from analyses.run_folder import Key, Record, RunFolder
from analyses.tasks import Problem
from analyses.thinking.switch import Switch
from analyses.workers import Task, Workers
from hooks import LanguageModel

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


def known(value: float) -> float | None:
    """The number, or None for NaN, which is no JSON."""
    return None if math.isnan(value) else float(value)
