"""A planted direction stands above its null, noise does not, and a literal loop gives the same numbers."""

import itertools

import numpy as np
import pytest
from scipy.stats import ortho_group
from sklearn.metrics import roc_auc_score

from interp.estimators import ESTIMATORS, estimate
from interp.reliability import Reliability, cosine, reliability


def noise(n, d, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), rng.normal(size=(n, d))


def planted(n, d, strength=3.0, seed=0):
    positive, negative = noise(n, d, seed)
    u = np.zeros(d)
    u[0] = strength
    return positive + u, negative - u


# --- planted truth


@pytest.mark.parametrize("d", [6, 80])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_planted_direction_is_trusted(estimator, d):
    n_null = 20 if estimator in ("mean_difference", "pca") else 5
    found = reliability(estimator, *planted(24, d, strength=6.0), n_null=n_null)
    assert found.trusted
    assert found.split_half > 0.8
    assert found.left_out > 0.5
    assert found.auroc > 0.98
    assert found.auroc > found.auroc_null


@pytest.mark.parametrize("estimator", ["mean_difference", "pca"])
def test_pure_noise_is_mostly_below_its_null(estimator):
    many = [reliability(estimator, *noise(16, 24, seed), seed=100 + seed) for seed in range(16)]
    assert sum(r.split_half > r.split_half_null for r in many) <= 4
    assert sum(r.left_out > r.left_out_null for r in many) <= 4
    assert sum(r.trusted for r in many) <= 3
    assert 0.4 < np.mean([r.auroc for r in many]) < 0.6


def test_noise_in_four_pairs_is_not_trusted_though_few_labels_can_be_shuffled():
    """Swapping exactly half of four pairs never draws the labels as they are, and passed noise in 26%."""
    many = [reliability("mean_difference", *noise(4, 16, seed), seed=100 + seed) for seed in range(30)]
    assert sum(r.trusted for r in many) <= 3


def test_the_null_of_a_strong_direction_is_centred():
    """Swapping exactly half would make the two halves' labels opposite: a null far below chance."""
    found = reliability("mean_difference", *planted(40, 12), n_null=60)
    assert 0.2 < found.split_half_null < 0.9
    assert 0.0 < found.left_out_null < 0.4
    assert 0.5 < found.auroc_null < 0.8


def test_an_axis_without_a_sign_is_not_trusted():
    """Pairs differ along one axis, this way and that: reliable as an axis, and about nothing."""
    rng = np.random.default_rng(0)
    trusted = []
    for seed in range(8):
        positive, negative = noise(16, 8, seed)
        positive[:, 0] += 8 * rng.choice([-1, 1], 16)
        trusted += [reliability(e, positive, negative).trusted for e in ("mean_difference", "pca")]
    assert sum(trusted) <= 3


# --- independent code


def test_left_out_of_the_mean_difference_is_the_literal_loop():
    positive, negative = planted(11, 7, 0.5)
    expected = []
    for i in range(11):
        rest = [j for j in range(11) if j != i]
        v = positive[rest].mean(0) - negative[rest].mean(0)
        d = positive[i] - negative[i]
        expected.append(d @ v / np.linalg.norm(d) / np.linalg.norm(v))
    assert reliability("mean_difference", positive, negative, n_null=1).left_out == pytest.approx(
        np.mean(expected)
    )


def test_split_half_is_the_mean_over_random_halves():
    """Against all halves there are, of eight pairs; 400 random ones come near."""
    positive, negative = planted(8, 7, 0.7)
    d = positive - negative
    every = [
        cosine(d[list(a)].mean(0), d[[i for i in range(8) if i not in a]].mean(0))
        for a in itertools.combinations(range(8), 4)
    ]
    found = reliability("mean_difference", positive, negative, n_splits=400, n_null=1)
    assert found.split_half == pytest.approx(np.mean(every), abs=0.05)


def test_auroc_is_scikit_learns_within_folds_of_pairs_left_out():
    """With ten folds of two pairs and a fixed seed, the folds are those of the seeded shuffle."""
    positive, negative = planted(20, 6, 0.4)
    positive, negative = positive.round(1), negative.round(1)
    rng = np.random.default_rng(5)
    for _ in range(10):
        rng.permutation(20)
    expected = []
    for fold in np.array_split(rng.permutation(20), 10):
        rest = np.setdiff1d(np.arange(20), fold)
        v = estimate("mean_difference", positive[rest], negative[rest])
        scores = np.concatenate([positive[fold] @ v, negative[fold] @ v])
        expected.append(roc_auc_score(np.repeat([1, 0], len(fold)), scores))
    found = reliability("mean_difference", positive, negative, n_null=1, seed=5)
    assert found.auroc == pytest.approx(np.mean(expected))


# --- invariance


@pytest.mark.parametrize("d", [6, 50])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_neither_swapping_the_poles_nor_turning_the_space_changes_anything(estimator, d):
    positive, negative = planted(12, d, 1.0)
    turn = ortho_group.rvs(d, random_state=1)
    one, two, three = (
        reliability(estimator, *poles, n_null=2).as_dict()
        for poles in ((positive, negative), (negative, positive), (positive @ turn, negative @ turn))
    )
    assert two == pytest.approx(one, abs=1e-3)
    assert three == pytest.approx(one, abs=1e-3)


def test_the_seed_fixes_the_answer():
    poles = planted(12, 6, 0.5)
    once, again = (reliability("mean_difference", *poles, seed=3) for _ in range(2))
    assert once == again
    assert once.split_half_null != reliability("mean_difference", *poles, seed=4).split_half_null


def test_where_nothing_differs_nothing_is_trusted():
    rows = np.ones((8, 5), np.float32)
    for estimator in ESTIMATORS:
        found = reliability(estimator, rows, rows, n_null=2)
        assert not found.trusted
        assert (found.split_half, found.left_out, found.auroc) == (0.0, 0.0, 0.5)


def test_both_the_halves_and_the_left_out_pairs_must_agree():
    fields = {"auroc": 1.0, "auroc_null": 0.6, "n_pairs": 9, "n_null": 20}
    for split_half, left_out, trusted in ((0.5, 0.3, True), (0.2, 0.3, False), (0.5, 0.1, False)):
        found = Reliability(split_half, 0.3, left_out, 0.2, **fields)
        assert found.trusted is trusted
        assert Reliability(**found.as_dict()) == found


def test_the_cosine_of_a_zero_vector_is_zero():
    assert cosine(np.zeros(3), np.ones(3)) == 0.0
    assert cosine(np.array([1.0, 0]), np.array([1.0, 1])) == pytest.approx(2**-0.5)
