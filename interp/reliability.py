"""How far a contrast vector can be trusted: does it come out again, and does it tell poles apart?

For n pairs with differences d_i = p_i - m_i, and v(A) the vector estimated from the pairs in A:

    split_half   mean over random halves A, B of cos(v(A), v(B))
    left_out     mean over i of cos(d_i, v(pairs without i)); in ten folds for fitted estimators
    auroc        P(v . p_i > v . m_j) for pairs held out of the estimate of v, in folds

Beside each stands its null: the same number after swapping the poles of each pair by the toss of a
fair coin, as the 95th percentile of many draws. A vector below its null is a vector of nothing.

Differs from common practice: AUROC compares within a fold only, so a shift between folds cannot
separate the poles.
"""

from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float

from interp.estimators import Estimator, estimate, span


@dataclass(frozen=True)
class Reliability:
    """Of one vector at one layer. Each number stands beside its shuffled-label 95th percentile."""

    split_half: float
    split_half_null: float
    left_out: float
    left_out_null: float
    auroc: float
    auroc_null: float
    n_pairs: int
    n_null: int

    @property
    def trusted(self) -> bool:
        """Above its null in left-out cosine, and not below it in both halves.

        The direction of pca does not see the labels, only its sign does: a null draw in which one
        pole prevails then ties with the observed halves, and is no evidence against them.
        """
        return self.split_half >= self.split_half_null - 1e-6 and self.left_out > self.left_out_null

    def as_dict(self) -> dict[str, float | int]:
        return asdict(self)


def reliability(
    estimator: Estimator,
    positive: Float[np.ndarray, "pairs d"],
    negative: Float[np.ndarray, "pairs d"],
    *,
    n_splits: int = 10,
    n_null: int = 20,
    seed: int = 0,
) -> Reliability:
    """Split-half and left-out cosine and held-out AUROC of a vector, with their nulls."""
    rng = np.random.default_rng(seed)
    basis = span(np.concatenate([positive, negative]))  # an isometry: every cosine is unchanged
    positive, negative = positive @ basis.T, negative @ basis.T
    n = len(positive)
    halves = [rng.permutation(n) for _ in range(n_splits)]
    folds = np.array_split(rng.permutation(n), min(n, 10))
    observed = _measure(estimator, positive, negative, halves, folds)
    null = []
    for _ in range(n_null):
        swap = rng.random(n) < 0.5  # exactly half would leave the two halves' labels anti-correlated
        swapped = np.where(swap[:, None], negative, positive)
        others = np.where(swap[:, None], positive, negative)
        null.append(_measure(estimator, swapped, others, halves, folds))
    high = np.quantile(np.array(null), 0.95, axis=0)
    return Reliability(
        split_half=observed[0],
        split_half_null=float(high[0]),
        left_out=observed[1],
        left_out_null=float(high[1]),
        auroc=observed[2],
        auroc_null=float(high[2]),
        n_pairs=n,
        n_null=n_null,
    )


def _measure(
    estimator: Estimator,
    positive: Float[np.ndarray, "pairs d"],
    negative: Float[np.ndarray, "pairs d"],
    halves: list[np.ndarray],
    folds: list[np.ndarray],
) -> tuple[float, float, float]:
    n = len(positive)
    split = [
        cosine(
            estimate(estimator, positive[order[: n // 2]], negative[order[: n // 2]]),
            estimate(estimator, positive[order[n // 2 :]], negative[order[n // 2 :]]),
        )
        for order in halves
    ]
    left_out, auroc = [], []
    for fold in folds:
        rest = np.setdiff1d(np.arange(n), fold)
        vector = estimate(estimator, positive[rest], negative[rest])
        gap = (positive[fold] @ vector)[:, None] - (negative[fold] @ vector)[None]
        auroc.append(float((gap > 0).mean() + (gap == 0).mean() / 2))
        if estimator != "mean_difference":
            left_out += [cosine(positive[i] - negative[i], vector) for i in fold]
    if estimator == "mean_difference":
        difference = positive - negative
        without = (difference.sum(0) - difference) / (n - 1)
        left_out = [cosine(d, v) for d, v in zip(difference, without, strict=True)]
    return float(np.mean(split)), float(np.mean(left_out)), float(np.mean(auroc))


def cosine(a: Float[np.ndarray, " d"], b: Float[np.ndarray, " d"]) -> float:
    """Cosine of two vectors; 0 where either is zero."""
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / size if size > 0 else 0.0
