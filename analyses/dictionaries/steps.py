"""Does a response show an intermediate step, and how does accuracy compare at equal length?"""

import re

import numpy as np
from jaxtyping import Bool, Float

from interp.stats import Interval

NUMBER = r"[$€£]?\d[\d,]*(?:\.\d+)?%?"
STEP = re.compile(rf"{NUMBER}\s*(?:[-+*/×÷−x=]|plus|minus|times|divided by)\s*[(]?\s*{NUMBER}")

STRATA = 5
"""Strata of response length, of about as many responses each."""


def shows_step(text: str) -> bool:
    """Whether a response has two numbers with an operation, or an equals sign, between them."""
    return STEP.search(text) is not None


def at_equal_length(
    correct: Bool[np.ndarray, " problem"],
    tokens: Float[np.ndarray, " problem"],
    other_correct: Bool[np.ndarray, " problem"],
    other_tokens: Float[np.ndarray, " problem"],
    *,
    n_resamples: int = 2000,
    seed: int = 0,
) -> tuple[Interval | None, float]:
    """Difference of accuracy between responses of about the same length, and the share that has a like.

    Both conditions' responses are put into strata of length; within each the accuracies are compared, and
    the strata are weighted by the fewer of the two. Bootstrap over problems.

    Returns:
        The difference, None where no stratum has responses of both; and the share of all responses that
        is compared.
    """
    edges = np.quantile(np.concatenate([tokens, other_tokens]), np.linspace(0, 1, STRATA + 1)[1:-1])
    strata = np.digitize(tokens, edges), np.digitize(other_tokens, edges)

    def difference(pick: np.ndarray) -> tuple[float, int]:
        total, weight = 0.0, 0
        for stratum in range(STRATA):
            mine, theirs = pick[strata[0][pick] == stratum], pick[strata[1][pick] == stratum]
            few = min(len(mine), len(theirs))
            if few:
                total += few * (correct[mine].mean() - other_correct[theirs].mean())
                weight += few
        return (total / weight if weight else np.nan), weight

    everyone = np.arange(len(tokens))
    estimate, weight = difference(everyone)
    if not weight:
        return None, 0.0
    rng = np.random.default_rng(seed)
    drawn = [difference(rng.choice(everyone, len(everyone)))[0] for _ in range(n_resamples)]
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return Interval(float(estimate), float(low), float(high), len(tokens), 0.95), weight / len(tokens)
