"""What the records of one setting say, as arrays; and which of its responses another model reads."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from analyses.passk.draws import KEPT, Setting
from analyses.run_folder import Key, RunFolder
from analyses.tasks import Problem


@dataclass(frozen=True)
class Samples:
    """All draws of some problems under one setting."""

    correct: Bool[np.ndarray, "problem draw"]
    tokens: Float[np.ndarray, "problem draw"]
    truncated: Bool[np.ndarray, "problem draw"]
    failed: Bool[np.ndarray, "problem draw"]
    """The model's numbers were lost on the way; counted as wrong."""

    stated: list[list[str | None]]

    @staticmethod
    def of(run: RunFolder, setting: Setting, problems: Sequence[Problem], n: int) -> "Samples":
        """The first ``n`` draws of each problem."""
        drawn = [[run.get(*setting.key(problem, i)) for i in range(n)] for problem in problems]
        return Samples(
            correct=np.array([[r["correct"] for r in line] for line in drawn], dtype=bool),
            tokens=np.array([[r["tokens"] for r in line] for line in drawn], dtype=float),
            truncated=np.array([[r["finish"] == "length" for r in line] for line in drawn], dtype=bool),
            failed=np.array([[r["finish"] == "nan" for r in line] for line in drawn], dtype=bool),
            stated=[[r["stated"] for r in line] for line in drawn],
        )

    def right_forms(self, problem: int) -> set[str]:
        """The answers that were judged right, as stated."""
        said = zip(self.stated[problem], self.correct[problem], strict=True)
        return {stated for stated, right in said if right and stated is not None}


@dataclass(frozen=True)
class Trace:
    """One kept response."""

    setting: Setting
    problem: Problem
    draw: int
    correct: bool

    @property
    def key(self) -> Key:
        """Where it is."""
        return self.setting.key(self.problem, self.draw)

    @property
    def read(self) -> Key:
        """Where it is written how the base read it."""
        return "read", self.key[1]

    def tokens(self, run: RunFolder) -> tuple[int, ...]:
        return tuple(map(int, run.get(*self.key)["ids"].split()))


def traces(
    run: RunFolder, setting: Setting, problems: Sequence[Problem], n_samples: int, n: int
) -> list[Trace]:
    """The first right response, and the first wrong one of those kept, of the first ``n`` problems."""
    found = []
    for problem in problems[:n]:
        of = [(draw, run.get(*setting.key(problem, draw))) for draw in range(n_samples)]
        right = [draw for draw, record in of if record["correct"] and record["tokens"]]
        wrong = [draw for draw, record in of[:KEPT] if not record["correct"] and record["tokens"]]
        found += [Trace(setting, problem, draw, correct=True) for draw in right[:1]]
        found += [Trace(setting, problem, draw, correct=False) for draw in wrong[:1]]
    return found
