"""From two clouds of activations to one vector that points from the second to the first.

With rows p_i at the first pole and m_i at the second, and delta = mean(p) - mean(m):

    mean_difference   v = delta
    pca               u = first principal component of the differences p_i - m_i (not centred)
    logistic          u = normal of an L2-regularised logistic boundary between the clouds
    lda               u ~ S^-1 delta, S the within-class covariance, shrunk as Ledoit and Wolf do

The last three give a unit direction u, turned so that u . delta >= 0 and scaled by it: every
estimator's vector moves the mean of the second cloud as far along u as the first one lies.

Sources: Rimsky et al. 2024 (CAA), arXiv:2312.06681; Zou et al. 2023 (RepE), arXiv:2310.01405; Ledoit
and Wolf 2004, doi:10.1016/S0047-259X(03)00096-4; scikit-learn for the fits.
Differs from the sources: logistic and lda are fitted in the span of the given rows, an isometry, so
n pairs of a wide model cost as little as those of a narrow one. The logistic direction is the same
there; lda shrinks each class's covariance toward the identity of the span, not toward its diagonal as
scikit-learn's ``shrinkage="auto"`` does, so no estimator depends on the choice of axes.
"""

from typing import Literal, get_args

import numpy as np
from jaxtyping import Float
from sklearn.covariance import LedoitWolf
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression

Estimator = Literal["mean_difference", "pca", "logistic", "lda"]
ESTIMATORS: tuple[Estimator, ...] = get_args(Estimator)


def estimate(
    estimator: Estimator,
    positive: Float[np.ndarray, "pairs d"],
    negative: Float[np.ndarray, "pairs d"],
) -> Float[np.ndarray, " d"]:
    """The vector of one estimator; row i of both arrays is pair i.

    Returns:
        Zeros where the two clouds have the same mean and no direction can be told.
    """
    delta = positive.mean(0) - negative.mean(0)
    match estimator:
        case "mean_difference":
            return np.asarray(delta)
        case "pca":
            unit = np.linalg.svd(positive - negative, full_matrices=False)[2][0]
        case "logistic" | "lda":
            unit = _boundary(estimator, positive, negative)
    return np.asarray(unit * (unit @ delta))


def _boundary(
    estimator: Estimator,
    positive: Float[np.ndarray, "pairs d"],
    negative: Float[np.ndarray, "pairs d"],
) -> Float[np.ndarray, " d"]:
    rows = np.concatenate([positive, negative])
    centred = rows - rows.mean(0)
    basis = span(centred)
    x = centred @ basis.T
    scale = np.sqrt((x**2).sum(1).mean())
    if scale == 0:  # every row is the same
        return np.zeros_like(rows[0])
    y = np.repeat([1, 0], len(positive))
    model = (
        LogisticRegression(max_iter=1000)
        if estimator == "logistic"
        else LinearDiscriminantAnalysis(solver="lsqr", covariance_estimator=LedoitWolf())
    )
    normal = np.asarray(model.fit(x / scale, y).coef_[0]) @ basis
    return np.asarray(normal / max(float(np.linalg.norm(normal)), 1e-12))


def span(rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "rank d"]:
    """An orthonormal basis of the span of ``rows``; the whole space where rows outnumber it."""
    if len(rows) >= rows.shape[1]:
        return np.eye(rows.shape[1], dtype=rows.dtype)
    _, size, basis = np.linalg.svd(rows, full_matrices=False)
    return np.asarray(basis[: max(1, int((size > size[0] * 1e-6).sum()))])
