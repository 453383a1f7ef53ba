"""Does a response show an intermediate step, and how does accuracy compare at equal length?"""

import re

import numpy as np
from jaxtyping import Bool, Float

from interp.stats import Interval

NUMBER = r"[$€£]?\d[\d,]*(?:\.\d+)?%?"
STEP = re.compile(rf"{NUMBER}\s*(?:[-+*/×÷−x=]|plus|minus|times|divided by)\s*[(]?\s*{NUMBER}")

STRATUM = 1.25
"""The longest response of a stratum over its shortest."""


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

    Both conditions' responses are put into strata of length, each a quarter longer than the one before;
    within each the accuracies are compared, and the strata are weighted by the fewer of the two. Bootstrap
    over problems.

    Returns:
        The difference, None where no stratum has responses of both; and the share of all responses that
        is compared.
    """
    strata = tuple(np.floor(np.log1p(t) / np.log(STRATUM)).astype(int) for t in (tokens, other_tokens))
    n_strata = 1 + max(int(of.max()) for of in strata)

    def difference(pick: np.ndarray) -> tuple[float, int]:
        sums = [
            (np.bincount(of[pick], minlength=n_strata), np.bincount(of[pick], right[pick], n_strata))
            for of, right in zip(strata, (correct, other_correct), strict=True)
        ]
        (n, mine), (m, theirs) = sums
        few = np.minimum(n, m)
        shared = few > 0
        gaps = mine[shared] / n[shared] - theirs[shared] / m[shared]
        weight = int(few.sum())
        return (float(few[shared] @ gaps) / weight if weight else np.nan), weight

    everyone = np.arange(len(tokens))
    estimate, weight = difference(everyone)
    if not weight:
        return None, 0.0
    rng = np.random.default_rng(seed)
    drawn = [difference(rng.choice(everyone, len(everyone)))[0] for _ in range(n_resamples)]
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return Interval(float(estimate), float(low), float(high), len(tokens), 0.95), weight / len(tokens)
