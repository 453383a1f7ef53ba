"""CKA has its known values, agrees with a loop over quadruples, and its controls catch what they should."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import ortho_group

from hooks.errors import InputError
from interp.similarity import CKACurve, _derangements, cka, cka_curve, fast_slow, hsic


def noise(n, d, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d))


def planted(n, k, d, strength, seed):
    """Two sets that share ``k`` directions, and the CKA that infinitely many items would have.

    Each is N(0, S) with S = diag(strength² + 1 on the shared, 1 elsewhere), their cross-covariance
    diag(strength² on the shared, 0), and linear CKA is |cross|² / (|S| |S|) in Frobenius norms.
    """
    rng = np.random.default_rng(seed)
    common = strength * rng.normal(size=(n, k))
    x, y = rng.normal(size=(2, n, d))
    x[:, :k] += common
    y[:, :k] += common
    return x, y, k * strength**4 / (k * (strength**2 + 1) ** 2 + d - k)


# --- independent code


def loop(k, m, w):
    """HSIC as a loop over quadruples of distinct items, each weighed by the product of its weights."""
    n, sums, counts = len(k), np.zeros(3), np.zeros(3)
    for i, j in itertools.permutations(range(n), 2):
        sums[0] += w[i] * w[j] * k[i, j] * m[i, j]
        counts[0] += w[i] * w[j]
    for i, j, q in itertools.permutations(range(n), 3):
        sums[1] += w[i] * w[j] * w[q] * k[i, j] * m[i, q]
        counts[1] += w[i] * w[j] * w[q]
    for i, j, q, r in itertools.permutations(range(n), 4):
        sums[2] += w[i] * w[j] * w[q] * w[r] * k[i, j] * m[q, r]
        counts[2] += w[i] * w[j] * w[q] * w[r]
    a, b, c = sums / counts
    return a - 2 * b + c


def test_hsic_is_the_mean_over_distinct_quadruples():
    """The kernel of the U-statistic: K_ij (L_ij + L_qr - 2 L_iq) over distinct i, j, q, r."""
    x, y = noise(7, 3), noise(7, 5, 1)
    k, m = x @ x.T, y @ y.T
    terms = [
        k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q]) for i, j, q, r in itertools.permutations(range(7), 4)
    ]
    assert hsic(k, m)[0] == pytest.approx(np.mean(terms))
    assert hsic(k, m)[0] == pytest.approx(loop(k, m, np.ones(7)))


@pytest.mark.parametrize("seed", range(4))
def test_a_weighted_hsic_is_the_weighted_loop(seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(2, 8, 3))
    k, m = x @ x.T, y @ y.T
    weights = rng.multinomial(8, np.full(8, 1 / 8), size=3).astype(float)
    for row, found in zip(weights, hsic(k, m, weights), strict=True):
        if np.count_nonzero(row) >= 4:
            assert found == pytest.approx(loop(k, m, row))
        else:
            assert math.isnan(found)


def test_hsic_is_the_closed_form_of_the_paper():
    x, y = noise(20, 4), noise(20, 6, 1)
    k, m = x @ x.T, y @ y.T
    k_, m_ = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    n, one = 20, np.ones(20)
    expected = np.trace(k_ @ m_) + (one @ k_ @ one) * (one @ m_ @ one) / ((n - 1) * (n - 2))
    expected = (expected - 2 / (n - 2) * (one @ k_ @ m_ @ one)) / (n * (n - 3))
    assert hsic(k, m)[0] == pytest.approx(expected)


# --- known values and invariances


@pytest.mark.parametrize("debiased", [True, False])
def test_cka_of_the_same_geometry_is_one(debiased):
    x = noise(30, 12)
    turned = 7.0 * x @ ortho_group.rvs(12, random_state=0) + noise(1, 12, 3)
    assert cka(x, x, debiased=debiased) == pytest.approx(1)
    assert cka(x, turned, debiased=debiased) == pytest.approx(1)


@pytest.mark.parametrize("debiased", [True, False])
def test_cka_does_not_see_rotation_scale_offset_or_order(debiased):
    x, y, _ = planted(30, 3, 12, 2, 0)
    value = cka(x, y, debiased=debiased)
    order = np.random.default_rng(1).permutation(30)
    for other in (-3.0 * y, y @ ortho_group.rvs(12, random_state=0), y + 100.0, np.hstack([y, 0 * y])):
        assert cka(x, other, debiased=debiased) == pytest.approx(value, abs=1e-9)
    assert cka(x[order], y[order], debiased=debiased) == pytest.approx(value)
    assert cka(y, x, debiased=debiased) == pytest.approx(value)
    stretched = y * np.linspace(0.1, 5, 12)
    assert abs(cka(x, stretched, debiased=debiased) - value) > 0.02


def test_tensors_of_any_dtype_are_read_in_float64():
    x, y, _ = planted(30, 3, 12, 2, 0)
    half = torch.tensor(x).bfloat16(), torch.tensor(y).bfloat16()
    expected = cka(*(t.double().numpy() for t in half))
    assert cka(*half) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("n", "biased"), [(50, 0.92), (200, 0.74), (1000, 0.37)])
def test_independent_gaussians_are_alike_only_to_the_biased_estimator(n, biased):
    pairs = [(noise(n, 576, 2 * i), noise(n, 576, 2 * i + 1)) for i in range(4 if n < 1000 else 2)]
    assert np.mean([cka(x, y, debiased=False) for x, y in pairs]) == pytest.approx(biased, abs=0.01)
    assert np.mean([cka(x, y) for x, y in pairs]) == pytest.approx(0, abs=0.03)


# --- planted truth


@pytest.mark.parametrize(("n", "strength"), [(40, 3.0), (40, 6.0), (120, 2.0)])
def test_a_planted_shared_subspace_is_measured_without_bias_where_items_are_few(n, strength):
    found = [planted(n, 3, 300, strength, seed) for seed in range(12)]
    truth = found[0][2]
    values = [cka(x, y) for x, y, _ in found]
    assert np.mean(values) == pytest.approx(truth, abs=3.5 * np.std(values) / math.sqrt(12) + 0.01)
    assert np.mean([cka(x, y, debiased=False) for x, y, _ in found]) > truth + 0.02


def test_the_interval_holds_the_truth_as_often_as_it_says():
    """Resampling rows as they are puts copies of an item beside each other: far too high at n < d."""
    held = 0
    for seed in range(60):
        x, y, truth = planted(40, 3, 200, 3, 1000 + seed)
        (interval,) = cka_curve(x[None], y[None], n_resamples=200, seed=seed).layers
        held += interval.low <= truth <= interval.high
        assert interval.low <= interval.estimate <= interval.high
    assert held >= 53  # 57 expected; fewer than 53 by chance in 1% of such tests


def test_drawing_an_item_twice_does_not_bring_the_bias_back():
    x, y = noise(40, 300), noise(40, 300, 1)
    (interval,) = cka_curve(x[None], y[None], n_resamples=400).layers
    order = np.random.default_rng(0).integers(0, 40, 40)
    assert cka(x[order], y[order]) > 0.4  # what a plain resample would say of independent conditions
    assert -0.35 < interval.low < 0 < interval.high < 0.35


def conditions(n=40, d=60, seed=0):
    """Layer 0 the same in all; 1 where only the slow prompt parts; 2 where every rewording parts."""
    rng = np.random.default_rng(seed)
    base = rng.normal(size=(3, n, d)) * np.r_[[4.0] * 4, [0.5] * (d - 4)]
    other = rng.normal(size=(3, n, d)) * np.r_[[4.0] * 4, [0.5] * (d - 4)]

    def near():
        return base + 0.3 * rng.normal(size=base.shape)

    paraphrased, slow, shuffled = near(), near(), near()
    slow[1] = other[1]
    shuffled[1] = other[1] + 0.3 * rng.normal(size=(n, d))
    for condition in (paraphrased, slow, shuffled):
        condition[2] = rng.normal(size=(n, d)) * np.r_[[4.0] * 4, [0.5] * (d - 4)]
    return {"fast": near(), "slow": slow, "paraphrased": paraphrased, "shuffled": shuffled}


def test_the_controls_tell_a_fall_that_is_reasoning_from_one_that_any_rewording_gives():
    given = conditions()
    found = fast_slow(given.pop("fast"), given.pop("slow"), **given, n_resamples=300)
    assert found.slow.values[0] > 0.9
    assert found.slow.values[1:] == pytest.approx([0, 0], abs=0.25)
    assert found.paraphrased.values[:2] == pytest.approx([1, 1], abs=0.1)
    assert found.beyond_paraphrase[1].low > 0.5
    assert not found.beyond_paraphrase[0].low > 0.05
    assert not found.beyond_paraphrase[2].excludes_zero
    assert not any(interval.excludes_zero for interval in found.beyond_shuffling[1:])
    for one in found.mispaired:
        assert abs(one.median) < 0.15
        assert one.n == 20


def test_in_the_third_control_no_question_meets_its_own_prompt():
    orders = _derangements(10, 50, seed=0)
    assert (np.sort(orders, axis=1) == np.arange(10)).all()
    assert not (orders == np.arange(10)).any()
    x = noise(12, 40)[None]
    found = fast_slow(x, x, paraphrased=x, shuffled=x, n_resamples=40)
    assert found.slow.values == pytest.approx([1])
    assert abs(found.mispaired[0].median) < 0.15


def test_a_curve_is_each_layers_cka():
    x, y = noise(5 * 20, 8).reshape(5, 20, 8), noise(5 * 20, 8, 1).reshape(5, 20, 8)
    y[3] = x[3] @ ortho_group.rvs(8, random_state=0)
    curve = cka_curve(x, torch.tensor(y), n_resamples=60)
    np.testing.assert_allclose(curve.values, [cka(a, b) for a, b in zip(x, y, strict=True)])
    assert curve.undefined == {}
    assert curve == cka_curve(x, y, n_resamples=60)
    assert curve.layers[3].low == pytest.approx(1)


# --- what is undefined


@pytest.mark.parametrize("rounding", [0, 1e-8])
def test_a_layer_at_which_the_items_are_all_the_same_is_undefined_and_says_so(rounding):
    x, y = noise(3 * 20, 8).reshape(3, 20, 8), noise(3 * 20, 8, 1).reshape(3, 20, 8)
    y[0] = 1.0 + rounding * y[0]
    curve = cka_curve(x, y, n_resamples=60)
    assert isinstance(curve, CKACurve)
    assert curve.undefined == {0: "y: its items are all the same"}
    assert [math.isnan(v) for v in curve.values] == [True, False, False]
    found = fast_slow(x, y, paraphrased=x, shuffled=y, n_resamples=60)
    assert math.isnan(found.mispaired[0].median)
    assert found.mispaired[0].n == 0
    assert math.isnan(found.beyond_paraphrase[0].low)
    assert not math.isnan(found.beyond_paraphrase[1].low)


def test_items_that_are_all_equally_far_apart_have_no_geometry_to_compare():
    x, y = np.eye(12)[None], noise(12, 3)[None]
    assert list(cka_curve(x, y, n_resamples=60).undefined) == [0]
    with pytest.raises(InputError, match="the items of one of the two are all equally far apart"):
        cka(x[0], y[0])


# --- refusals


def test_conditions_of_different_items_are_refused():
    with pytest.raises(InputError, match="x has 20 items and y 19; CKA compares the same items"):
        cka(noise(20, 3), noise(19, 3))
    with pytest.raises(InputError, match="x has 1 layers and y 2"):
        cka_curve(noise(20, 3)[None], np.stack([noise(20, 3)] * 2))


def test_too_few_items_are_refused():
    with pytest.raises(InputError, match="3 items are too few; pass 4 or more"):
        cka(noise(3, 3), noise(3, 3))
    with pytest.raises(InputError, match="9 items are too few; pass 10 or more"):
        cka_curve(noise(9, 3)[None], noise(9, 3)[None])


def test_activations_that_are_not_finite_are_refused():
    bad = noise(20, 3, 1)
    bad[3, 1] = np.nan
    with pytest.raises(InputError, match="y has NaN or infinite activations"):
        cka(noise(20, 3), bad)


def test_equal_items_are_refused():
    with pytest.raises(InputError, match="x: its items are all the same"):
        cka(np.ones((20, 3)), noise(20, 3))


def test_too_few_resamples_are_refused():
    with pytest.raises(InputError, match=r"n_resamples must be at least 40 at level 0\.95; got 39"):
        cka_curve(noise(20, 3)[None], noise(20, 3)[None], n_resamples=39)
    with pytest.raises(InputError, match="level must lie strictly between"):
        cka_curve(noise(20, 3)[None], noise(20, 3)[None], level=95.0)
    x = noise(20, 3)[None]
    with pytest.raises(InputError, match="n_pairings must be at least 1"):
        fast_slow(x, x, paraphrased=x, shuffled=x, n_pairings=0)
