"""What thinking does to answers: the same items answered at once (fast) and after a thought (slow).

    knowledge    A_fast                              right at once
    adjustment   A_slow - A_fast = correction - overthinking
    correction   |fast wrong, slow right| / n        correction rate    ... / |fast wrong|
    overthinking |fast right, slow wrong| / n        overthinking rate  ... / |fast right|

Whoever guesses anew among m candidates, without a thought for the question, corrects 1/m of what was
wrong and loses 1 - 1/m of what was right: these floors stand beside the rates. A rate at its floor is
what flipping answers gives.

Source: Yang et al. 2025, "Decoupling Knowledge and Reasoning in LLMs", arXiv:2507.18178.
Differs from the source: intervals, and the floors.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from hooks.errors import InputError
from interp.stats import Interval, paired_bootstrap, ratio_bootstrap, wilson


@dataclass(frozen=True)
class Adjustment:
    """The six quantities, each a share of items, and what guessing would give."""

    fast: Interval
    """A_fast, which the source calls the contribution of knowledge."""

    slow: Interval
    """A_slow."""

    adjustment: Interval
    """``slow - fast``, paired over items."""

    correction: Interval
    overthinking: Interval
    correction_rate: Interval | None
    """Of the items that were wrong at once; None where none was."""

    overthinking_rate: Interval | None
    """Of the items that were right at once; None where none was."""

    guessed_correction_rate: float | None
    """Mean of 1/m over the items that were wrong at once and have candidates."""

    guessed_overthinking_rate: float | None
    """Mean of 1 - 1/m over the items that were right at once and have candidates."""


def adjustment(
    fast: Bool[np.ndarray, " fast"],
    slow: Bool[np.ndarray, " slow"],
    guess_rates: Sequence[float | None],
    *,
    n_resamples: int = 10_000,
    seed: int = 0,
) -> Adjustment:
    """The six quantities over paired items, with bootstrap intervals over items.

    Args:
        fast: Whether each item was right at once.
        slow: Whether it was right after a thought.
        guess_rates: 1/m for m candidates of each item; None where they are not known.

    Raises:
        InputError: for no items, or columns that differ in length.
    """
    if not len(fast) or not len(fast) == len(slow) == len(guess_rates):
        raise InputError(
            f"{len(fast)} fast answers, {len(slow)} slow ones and {len(guess_rates)} guess rates; pass one "
            "of each for every item, and at least one item."
        )
    corrected, lost = ~fast & slow, fast & ~slow

    def share(hits: Bool[np.ndarray, " n"], of: Bool[np.ndarray, " n"]) -> Interval | None:
        if not of.any():
            return None
        found = ratio_bootstrap(hits, of, n_resamples=n_resamples, seed=seed)
        return Interval(found.estimate + 1, found.low + 1, found.high + 1, int(of.sum()), found.level)

    def floor(of: Bool[np.ndarray, " n"]) -> float | None:
        known = [rate for rate, counted in zip(guess_rates, of, strict=True) if counted and rate is not None]
        return float(np.mean(known)) if known else None

    stays = floor(fast)
    return Adjustment(
        fast=wilson(int(fast.sum()), len(fast)),
        slow=wilson(int(slow.sum()), len(slow)),
        adjustment=paired_bootstrap(slow, fast, n_resamples=n_resamples, seed=seed),
        correction=wilson(int(corrected.sum()), len(fast)),
        overthinking=wilson(int(lost.sum()), len(fast)),
        correction_rate=share(corrected, ~fast),
        overthinking_rate=share(lost, fast),
        guessed_correction_rate=floor(~fast),
        guessed_overthinking_rate=None if stays is None else 1 - stays,
    )
