"""Pair off two groups so that they are alike in what should not tell them apart.

    minimise  sum over pairs (a, b) of  sum_k ((x_ak - x_bk) / s_k)²,   s_k² = (var_a + var_b) / 2,

each member in one pair at most, within a stratum, no pair further apart than the caliper on any
covariate; among all such pairings those with the most pairs come first.

Only covariates are passed in, never an outcome: who is paired with whom cannot depend on the answer
to the question that the groups are for.

Sources: optimal pair matching, Rosenbaum 1989, "Optimal Matching for Observational Studies"; caliper
and standardised difference, Austin 2011, "An Introduction to Propensity Score Methods",
doi:10.1080/00273171.2011.568786.
Differs from the sources: the caliper is on each covariate, not on a propensity score.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment

from hooks.errors import InputError

CALIPER = 0.25
"""Widest difference within a pair, in standard deviations."""


def match(
    a: Float[np.ndarray, "n k"],
    b: Float[np.ndarray, "m k"],
    strata_a: Sequence[str],
    strata_b: Sequence[str],
    *,
    caliper: float = CALIPER,
) -> Int[np.ndarray, "pairs 2"]:
    """Indices into ``a`` and ``b`` of each pair, the closest pairs first.

    Args:
        a: Covariates of one group, a row a member.
        b: The same of the other.
        strata_a: What a member can only be paired with its like in.
        caliper: Widest difference on each covariate, in standard deviations ``s_k``.

    Raises:
        InputError: if the caliper is not positive or a covariate is not finite.
    """
    if not caliper > 0:
        raise InputError(f"caliper={caliper} was asked for; a positive number such as {CALIPER} would work.")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise InputError("A covariate is not finite, so nothing is near it. Leave that member out.")
    scale = spread(a, b)
    found: list[tuple[float, int, int]] = []
    for stratum in sorted(set(strata_a) & set(strata_b)):
        rows = np.flatnonzero(np.array(strata_a) == stratum)
        columns = np.flatnonzero(np.array(strata_b) == stratum)
        apart = np.abs(a[rows, None] - b[None, columns]) / scale
        near = (apart <= caliper).all(-1)
        cost = (apart**2).sum(-1)
        # one pair out of reach costs more than all that are within it: the most pairs come first
        out_of_reach = 1 + min(len(rows), len(columns)) * a.shape[1] * caliper**2
        for i, j in zip(*linear_sum_assignment(np.where(near, cost, out_of_reach)), strict=True):
            if near[i, j]:
                found.append((float(cost[i, j]), int(rows[i]), int(columns[j])))
    return np.array([pair for _, *pair in sorted(found)], dtype=np.int64).reshape(-1, 2)


def spread(a: Float[np.ndarray, "n k"], b: Float[np.ndarray, "m k"]) -> Float[np.ndarray, " k"]:
    """s_k, the pooled standard deviation of each covariate; 1 where neither group varies."""
    pooled = np.sqrt((a.var(0, ddof=min(1, len(a) - 1)) + b.var(0, ddof=min(1, len(b) - 1))) / 2)
    return np.where(pooled > 0, pooled, 1.0)


def standardised_difference(
    a: Float[np.ndarray, "n k"], b: Float[np.ndarray, "m k"], scale: Float[np.ndarray, " k"]
) -> Float[np.ndarray, " k"]:
    """(mean of a - mean of b) / s_k; below 0.1 is commonly called balanced.

    Args:
        scale: The spread before matching, for the groups before and after it alike.
    """
    return np.asarray((a.mean(0) - b.mean(0)) / scale)
