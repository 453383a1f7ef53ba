"""The rung of a ladder where a model is neither lost nor done: its accuracy between 10% and 60%."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analyses.tasks.generated import rungs_of
from analyses.tasks.problem import Problem
from analyses.tasks.sources import load_problems
from hooks.errors import InputError
from interp.stats import Interval, wilson

Solve = Callable[[Sequence[Problem]], np.ndarray]
"""From problems to whether each was solved, a boolean array ``(n,)``."""


@dataclass(frozen=True)
class Found:
    """The rung chosen, and what was measured on the way to it."""

    source: str
    """The rung's own source: ``"gym:chain_sum@3"``."""

    inside: bool
    """Its accuracy lies in the range that was asked for; False where no rung's does, and this one is the
    nearest to it."""

    accuracies: Mapping[str, Interval]
    """By source, every rung that was measured, easiest first; with Wilson's interval at 95%."""

    @property
    def accuracy(self) -> Interval:
        """Of the rung chosen. It was chosen by it, so measure again on other problems to report it."""
        return self.accuracies[self.source]


def find_rung(
    solve: Solve, source: str, *, n: int = 24, low: float = 0.1, high: float = 0.6, seed: int = 0
) -> Found:
    """The hardest rung of a ladder whose accuracy lies in ``low..high``.

    Climbs from the easiest rung, and stops above the first whose accuracy is below ``low``: what is
    harder is taken to be no easier.

    Args:
        solve: What solves problems, such as a model that answers and a judge of its answers.
        source: A ladder, as :func:`analyses.tasks.load_problems` takes it; a source without rungs is a
            ladder of one.
        n: Problems a rung.
        seed: Of the problems.

    Returns:
        The rung; where none lies inside, the one nearest to the range, the easier of two.

    Raises:
        InputError: if ``low..high`` is not a range within 0..1, the source cannot be loaded, or
            ``solve`` does not give a boolean a problem.
    """
    if not 0 <= low < high <= 1:
        raise InputError(f"low={low} and high={high} are no range of accuracies; 0.1 and 0.6 would work.")
    accuracies: dict[str, Interval] = {}
    for rung in rungs_of(source):
        problems = load_problems(rung, n=n, seed=seed)
        solved = np.asarray(solve(problems))
        if solved.shape != (n,) or solved.dtype != np.bool_:
            raise InputError(
                f"solve gave an array of {solved.dtype} and shape {solved.shape} for {n} problems of {rung}. "
                f"Booleans of shape ({n},) would work."
            )
        accuracies[rung] = wilson(int(solved.sum()), n)
        if accuracies[rung].estimate < low:
            break
    inside = [rung for rung, accuracy in accuracies.items() if low <= accuracy.estimate <= high]
    if inside:
        return Found(inside[-1], True, accuracies)
    return Found(min(accuracies, key=lambda r: _distance(accuracies[r], low, high)), False, accuracies)


def _distance(accuracy: Interval, low: float, high: float) -> float:
    return max(low - accuracy.estimate, accuracy.estimate - high)
