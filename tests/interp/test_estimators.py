"""Planted directions are found, formulas hold, and no estimator depends on the choice of axes."""

import numpy as np
import pytest
from scipy.stats import ortho_group
from sklearn.covariance import ledoit_wolf
from sklearn.linear_model import LogisticRegression

from interp.estimators import ESTIMATORS, estimate, span
from interp.reliability import cosine

FITTED = [e for e in ESTIMATORS if e != "mean_difference"]


def clouds(n, d, *, apart=4.0, seed=0):
    """Two clouds whose means lie ``apart`` along a random unit vector, with a shared shape."""
    rng = np.random.default_rng(seed)
    u = rng.normal(size=d)
    u /= np.linalg.norm(u)
    shape = rng.normal(size=(d, d)) / np.sqrt(d)
    common = rng.normal(size=(n, d))  # what both responses of a pair share
    positive, negative = (
        common + rng.normal(size=(n, d)) @ shape + side * u for side in (apart / 2, -apart / 2)
    )
    return positive, negative, u


# --- planted truth


@pytest.mark.parametrize("d", [8, 200])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_planted_direction_is_found(estimator, d):
    rng = np.random.default_rng(0)
    u = np.eye(d)[1]
    positive, negative = (rng.normal(size=(60, d)) + side * u for side in (6, -6))
    assert cosine(estimate(estimator, positive, negative), u) > 0.95


def test_lda_sees_past_a_direction_that_both_poles_vary_in():
    """Where the mean difference is bent by chance along the widest axis, lda is not."""
    rng = np.random.default_rng(3)
    wide = np.diag([20.0, 1, 1, 1])
    u = np.array([0, 1.0, 0, 0])
    positive, negative = (rng.normal(size=(40, 4)) @ wide + side * u for side in (2, -2))
    assert cosine(estimate("lda", positive, negative), u) > 0.98
    assert cosine(estimate("mean_difference", positive, negative), u) < 0.95


# --- identities


@pytest.mark.parametrize("shape", [(30, 5), (12, 40)])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_vector_spans_the_gap_between_the_means_along_itself(estimator, shape):
    positive, negative, _ = clouds(*shape)
    v = estimate(estimator, positive, negative)
    gap = float((positive.mean(0) - negative.mean(0)) @ v) / float(np.linalg.norm(v))
    assert gap == pytest.approx(float(np.linalg.norm(v)), rel=1e-6)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_swapping_the_poles_turns_it_around(estimator):
    positive, negative, _ = clouds(30, 8)
    np.testing.assert_allclose(
        estimate(estimator, negative, positive), -estimate(estimator, positive, negative), atol=1e-3
    )


# --- independent code


def test_the_mean_difference_is_the_mean_of_the_differences():
    positive, negative, _ = clouds(30, 8)
    np.testing.assert_allclose(
        estimate("mean_difference", positive, negative), (positive - negative).mean(0), atol=1e-12
    )


@pytest.mark.parametrize("shape", [(30, 8), (12, 40)])
def test_pca_is_the_top_eigenvector_of_the_uncentred_differences(shape):
    positive, negative, _ = clouds(*shape)
    differences = positive - negative
    top = np.linalg.eigh(differences.T @ differences)[1][:, -1]
    expected = top * (top @ differences.mean(0))
    np.testing.assert_allclose(estimate("pca", positive, negative), expected, atol=1e-9)


def test_pca_does_not_see_which_pole_is_which_but_in_its_sign():
    positive, negative, _ = clouds(30, 8)
    swap = (np.arange(30) % 3 == 0)[:, None]
    mixed = estimate("pca", np.where(swap, negative, positive), np.where(swap, positive, negative))
    assert abs(cosine(mixed, estimate("pca", positive, negative))) == pytest.approx(1)


def test_lda_is_the_formula_with_each_classs_covariance_shrunk_to_the_identity():
    positive, negative, _ = clouds(30, 8)
    centred = np.concatenate([positive, negative])
    scale = np.sqrt(((centred - centred.mean(0)) ** 2).sum(1).mean())
    covariance = (ledoit_wolf(positive / scale)[0] + ledoit_wolf(negative / scale)[0]) / 2
    delta = positive.mean(0) - negative.mean(0)
    v = estimate("lda", positive, negative)
    assert cosine(v, np.linalg.solve(covariance, delta)) == pytest.approx(1, abs=1e-9)


def test_logistic_in_the_span_is_logistic_in_the_whole_space():
    positive, negative, _ = clouds(12, 40)
    rows = np.concatenate([positive, negative])
    rows = (rows - rows.mean(0)) / np.sqrt(((rows - rows.mean(0)) ** 2).sum(1).mean())
    whole = LogisticRegression(max_iter=10_000, tol=1e-8).fit(rows, np.repeat([1, 0], 12)).coef_[0]
    assert cosine(estimate("logistic", positive, negative), whole) > 0.9999


# --- invariance


@pytest.mark.parametrize("shape", [(30, 8), (12, 40)])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_turning_the_space_turns_the_vector(estimator, shape):
    positive, negative, _ = clouds(*shape)
    turn = ortho_group.rvs(shape[1], random_state=3)
    turned = estimate(estimator, positive @ turn, negative @ turn)
    straight = estimate(estimator, positive, negative) @ turn
    assert cosine(turned, straight) > 0.9999, f"{estimator} depends on the axes"
    np.testing.assert_allclose(turned, straight, atol=0.02 * np.linalg.norm(straight))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_direction_depends_neither_on_the_origin_nor_on_the_unit(estimator):
    positive, negative, _ = clouds(30, 8)
    v = estimate(estimator, positive, negative)
    moved = estimate(estimator, 1e-3 * (positive + 50), 1e-3 * (negative + 50))
    np.testing.assert_allclose(1e3 * moved, v, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("shape", [(30, 8), (12, 40)])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_single_precision_is_enough(estimator, shape):
    positive, negative, _ = clouds(*shape)
    single = estimate(estimator, positive.astype(np.float32), negative.astype(np.float32))
    np.testing.assert_allclose(single, estimate(estimator, positive, negative), rtol=2e-2, atol=1e-2)


# --- where there is nothing to find


@pytest.mark.parametrize("shape", [(6, 4), (4, 40)])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_equal_clouds_have_no_vector(estimator, shape):
    """All rows the same: what is read there does not depend on the text."""
    for value in (0.0, 2.0):
        rows = np.full(shape, value)
        assert not estimate(estimator, rows, rows).any()


@pytest.mark.parametrize("estimator", FITTED)
def test_clouds_with_one_mean_have_no_vector(estimator):
    positive, _, _ = clouds(30, 8)
    assert np.linalg.norm(estimate(estimator, positive, positive[::-1])) < 1e-12


# --- the span


def test_the_span_is_orthonormal_and_holds_the_rows():
    rows = np.random.default_rng(0).normal(size=(5, 30))
    rows = np.concatenate([rows, rows[:2] + rows[2:4]])  # rank 5
    basis = span(rows)
    assert basis.shape == (5, 30)
    np.testing.assert_allclose(basis @ basis.T, np.eye(5), atol=1e-12)
    np.testing.assert_allclose(rows @ basis.T @ basis, rows, atol=1e-12)


def test_the_span_of_more_rows_than_dimensions_is_the_space():
    assert np.array_equal(span(np.ones((9, 4))), np.eye(4))
    assert span(np.zeros((2, 4))).shape == (1, 4)
