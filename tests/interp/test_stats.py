"""Each statistic against an identity, a closed form, a slow loop, or its own promise simulated."""

import itertools
import json
import math
import tracemalloc

import numpy as np
import pytest
from scipy import stats

from hooks.errors import InputError
from interp.stats import (
    Band,
    Interval,
    McNemar,
    band,
    benjamini_hochberg,
    gap_recovered,
    holm,
    mcnemar,
    mean_interval,
    minimum_detectable_difference,
    minimum_detectable_effect,
    paired_bootstrap,
    permutation_p,
    permutation_test,
    ratio_bootstrap,
    wilson,
)


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def slow_bootstrap(statistic, *samples, n_resamples, seed):
    """Percentile interval by an explicit loop over resamples, drawing with its own generator."""
    rng = np.random.default_rng(seed)
    n = len(samples[0])
    draws = []
    for _ in range(n_resamples):
        i = rng.choice(n, size=n, replace=True)
        draws.append(statistic(*(x[i] for x in samples)))
    return np.percentile(draws, 2.5), np.percentile(draws, 97.5)


# Interval


def test_an_interval_excludes_zero_only_when_both_bounds_lie_on_one_side():
    assert Interval(0.2, 0.1, 0.3, 9).excludes_zero
    assert Interval(-0.2, -0.3, -0.1, 9).excludes_zero
    assert not Interval(0.1, -0.1, 0.3, 9).excludes_zero
    assert not Interval(0.1, 0.0, 0.3, 9).excludes_zero
    assert not Interval(0.1, math.nan, math.nan, 1).excludes_zero


def test_an_interval_becomes_strict_json_with_null_for_nan():
    text = json.dumps(Interval(0.1, math.nan, 0.3, 9).as_dict(), allow_nan=False)
    assert json.loads(text) == {"estimate": 0.1, "low": None, "high": 0.3, "n": 9, "level": 0.95}


def test_a_computed_interval_holds_plain_python_numbers(rng):
    x = rng.normal(size=20).astype(np.float32)
    for interval in (mean_interval(x), wilson(np.int64(3), np.int64(20))):
        for value in interval.as_dict().values():
            assert type(value) in (int, float)


# Bootstrap


@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_the_paired_bootstrap_agrees_with_a_slow_loop(rng, statistic):
    a = rng.normal(size=41)
    b = 0.8 * a + rng.normal(size=41) * 0.5 + 0.3
    compute = {"mean": np.mean, "median": np.median}[statistic]
    fast = paired_bootstrap(a, b, statistic=statistic)
    low, high = slow_bootstrap(lambda a, b: compute(a) - compute(b), a, b, n_resamples=10_000, seed=1)
    assert fast.estimate == pytest.approx(compute(a) - compute(b), abs=1e-12)
    assert fast.n == 41
    tolerance = 0.05 * (high - low)
    assert fast.low == pytest.approx(low, abs=tolerance)
    assert fast.high == pytest.approx(high, abs=tolerance)


def test_the_ratio_bootstrap_agrees_with_a_slow_loop(rng):
    b = rng.gamma(4.0, 100.0, size=50)
    a = b * rng.uniform(0.2, 0.5, size=50)
    fast = ratio_bootstrap(a, b)
    low, high = slow_bootstrap(lambda a, b: a.mean() / b.mean() - 1, a, b, n_resamples=10_000, seed=1)
    assert fast.estimate == a.mean() / b.mean() - 1
    assert fast.low == pytest.approx(low, abs=0.05 * (high - low))
    assert fast.high == pytest.approx(high, abs=0.05 * (high - low))


def test_the_share_of_a_gap_agrees_with_a_slow_loop(rng):
    base, tuned = rng.random(80) < 0.2, rng.random(80) < 0.8
    key = np.where(rng.random(80) < 0.5, base, tuned)
    fast = gap_recovered(key, base, tuned, seed=3)
    loop = []
    for _ in range(4000):
        i = rng.integers(0, 80, 80)
        loop.append((key[i].mean() - base[i].mean()) / (tuned[i].mean() - base[i].mean()))
    low, high = np.quantile(loop, [0.025, 0.975])
    assert fast.estimate == pytest.approx((key.mean() - base.mean()) / (tuned.mean() - base.mean()))
    assert fast.low == pytest.approx(low, abs=0.06 * (high - low))
    assert fast.high == pytest.approx(high, abs=0.06 * (high - low))


def test_a_gap_whose_interval_covers_zero_has_no_share(rng):
    base, tuned = rng.random(30) < 0.5, rng.random(30) < 0.5
    assert gap_recovered(tuned, base, tuned) is None


def test_the_mean_interval_of_many_values_is_the_normal_one(rng):
    x = rng.exponential(size=3000)
    interval = mean_interval(x)
    half = stats.norm.ppf(0.975) * x.std() / math.sqrt(len(x))
    assert interval.estimate == x.mean()
    assert interval.low == pytest.approx(x.mean() - half, abs=0.06 * half)
    assert interval.high == pytest.approx(x.mean() + half, abs=0.06 * half)


def test_the_bootstrap_distribution_of_two_values_has_quantiles_known_in_closed_form():
    # Means of two draws from {0, 1}: 0 and 1 with chance 1/4 each, 1/2 otherwise.
    x = np.array([0.0, 1.0])
    assert mean_interval(x, level=0.4) == Interval(0.5, 0.5, 0.5, 2, 0.4)
    assert mean_interval(x, level=0.6) == Interval(0.5, 0.0, 1.0, 2, 0.6)


@pytest.mark.parametrize("compare", [paired_bootstrap, ratio_bootstrap])
def test_a_paired_interval_covers_the_truth_as_often_as_it_says(compare):
    rng = np.random.default_rng(3)
    truth = {paired_bootstrap: -30.0, ratio_bootstrap: -0.3}[compare]
    trials, covered = 400, 0
    for trial in range(trials):
        difficulty = rng.gamma(4.0, 25.0, size=60)  # mean 100
        a = 0.7 * difficulty + rng.normal(size=60) * 5
        interval = compare(np.abs(a), difficulty, n_resamples=400, seed=trial)
        covered += interval.low <= truth <= interval.high
    # 0.95 by design, about 0.935 at n = 60; three binomial standard errors either side
    assert 0.90 <= covered / trials <= 0.975


def test_pairing_removes_the_noise_two_methods_share(rng):
    difficulty = rng.normal(size=200) * 10
    a, b = difficulty + 0.5 + rng.normal(size=200), difficulty + rng.normal(size=200)
    paired = paired_bootstrap(a, b)
    shuffled = paired_bootstrap(a, rng.permutation(b))
    assert shuffled.high - shuffled.low > 5 * (paired.high - paired.low)


def test_swapping_the_methods_flips_the_interval(rng):
    a, b = rng.normal(size=30), rng.normal(size=30)
    one, other = paired_bootstrap(a, b), paired_bootstrap(b, a)
    assert one.estimate == pytest.approx(-other.estimate)
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))


def test_the_ratio_does_not_depend_on_the_unit(rng):
    a, b = rng.gamma(2.0, size=30), rng.gamma(2.0, size=30)
    one, other = ratio_bootstrap(a, b), ratio_bootstrap(a * 1000, b * 1000)
    assert (one.low, one.high) == pytest.approx((other.low, other.high))


def test_a_third_as_many_tokens_on_every_problem_is_exactly_two_thirds_fewer(rng):
    tokens = rng.integers(100, 900, size=40)
    interval = ratio_bootstrap(tokens, 3 * tokens)
    for value in (interval.estimate, interval.low, interval.high):
        assert value == pytest.approx(-2 / 3)


def test_the_same_seed_gives_the_same_interval_and_another_seed_another(rng):
    a, b = rng.normal(size=30), rng.normal(size=30)
    assert paired_bootstrap(a, b, seed=4) == paired_bootstrap(a, b, seed=4)
    assert paired_bootstrap(a, b, seed=4) != paired_bootstrap(a, b, seed=5)


def test_a_higher_level_gives_a_wider_interval(rng):
    x = rng.normal(size=30)
    narrow, wide = mean_interval(x, level=0.8), mean_interval(x, level=0.99)
    assert wide.low < narrow.low < narrow.high < wide.high
    assert wide.level == 0.99


def test_bools_ints_and_floats_give_one_answer(rng):
    a, b = rng.random(50) < 0.6, rng.random(50) < 0.4
    expected = paired_bootstrap(a.astype(float), b.astype(float))
    assert paired_bootstrap(a, b) == expected
    assert paired_bootstrap(a.astype(np.int8), b.astype(np.uint8)) == expected


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, 1e-9, 123.456])
@pytest.mark.parametrize("n", [2, 9, 300])
def test_constant_data_collapse_to_the_estimate_without_a_warning(value, n):
    x = np.full(n, value)
    for statistic in ("mean", "median"):
        same = mean_interval(x, statistic=statistic)
        assert same.low == same.estimate == same.high == pytest.approx(value)
        gap = paired_bootstrap(x, x - 1, statistic=statistic)
        assert gap.low == gap.estimate == gap.high == pytest.approx(1)
    ratio = ratio_bootstrap(x, x + 1)
    assert ratio.low == ratio.estimate == ratio.high


def test_identical_methods_differ_by_exactly_nothing(rng):
    x = rng.normal(size=50)
    assert paired_bootstrap(x, x) == Interval(0.0, 0.0, 0.0, 50)


def test_one_problem_gives_an_estimate_and_no_bounds():
    one, two = np.array([1.0]), np.array([2.0])
    intervals = (
        mean_interval(two),
        paired_bootstrap(two, one),
        paired_bootstrap(two, one, statistic="median"),
        ratio_bootstrap(two, one),
    )
    assert [i.estimate for i in intervals] == [2.0, 1.0, 1.0, 1.0]
    for interval in intervals:
        assert math.isnan(interval.low)
        assert math.isnan(interval.high)
        assert not interval.excludes_zero


def test_a_ratio_whose_baseline_is_often_zero_has_no_bounds():
    b = np.zeros(50)
    b[0] = 1  # all zero in a share (1 - 1/50)^50 = 0.36 of the resamples
    interval = ratio_bootstrap(np.ones(50), b)
    assert interval.estimate == pytest.approx(49)
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)


def test_a_ratio_whose_baseline_is_rarely_zero_keeps_its_bounds():
    b = np.zeros(50)
    b[:5] = 1  # all zero in a share (1 - 5/50)^50 = 0.005 of the resamples
    interval = ratio_bootstrap(np.ones(50), b)
    assert interval.estimate == pytest.approx(9)
    assert interval.low < 9 < interval.high <= 49


@pytest.mark.parametrize("n", [300, 20_000])
def test_the_bootstrap_holds_little_memory(n):
    a, b = np.random.default_rng(0).normal(size=(2, n))
    tracemalloc.start()
    paired_bootstrap(a, b, statistic="median", n_resamples=10_000 * 300 // n)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6


# Proportions


def test_the_wilson_interval_is_where_the_score_test_turns():
    for successes, n in [(60, 200), (1, 7), (19, 20)]:
        interval = wilson(successes, n)
        for bound in (interval.low, interval.high):
            z = (successes / n - bound) / math.sqrt(bound * (1 - bound) / n)
            assert abs(z) == pytest.approx(stats.norm.ppf(0.975))


def test_two_hundred_problems_at_thirty_percent_are_known_to_six_points():
    normal_half = stats.norm.ppf(0.975) * math.sqrt(0.3 * 0.7 / 200)
    assert round(100 * normal_half, 1) == 6.4  # methods.md 13.7
    interval = wilson(60, 200)
    assert (interval.high - interval.low) / 2 == pytest.approx(normal_half, abs=0.001)


def test_the_wilson_interval_covers_every_rate_about_as_often_as_it_says():
    n = 40
    intervals = [wilson(k, n) for k in range(n + 1)]
    coverage = []
    for p in np.linspace(0.02, 0.98, 97):
        chance = stats.binom.pmf(np.arange(n + 1), n, p)
        coverage.append(sum(c for c, i in zip(chance, intervals, strict=True) if i.low <= p <= i.high))
    assert np.mean(coverage) == pytest.approx(0.95, abs=0.01)
    assert min(coverage) > 0.83


@pytest.mark.parametrize("n", [1, 200, 10**6])
def test_no_success_is_bounded_by_exactly_zero_and_all_by_exactly_one(n):
    none, every = wilson(0, n), wilson(n, n)
    assert none.low == none.estimate == 0
    assert not none.excludes_zero
    assert every.high == every.estimate == 1
    assert none.high == pytest.approx(1 - every.low)


# Tests of a difference


def test_mcnemar_is_the_binomial_test_of_the_discordant_problems(rng):
    a, b = rng.random(80) < 0.7, rng.random(80) < 0.5
    result = mcnemar(a, b)
    only_a = sum(x and not y for x, y in zip(a, b, strict=True))
    only_b = sum(y and not x for x, y in zip(a, b, strict=True))
    assert (result.only_a, result.only_b, result.n) == (only_a, only_b, 80)
    reference = stats.binomtest(only_a, only_a + only_b, 0.5).pvalue
    assert result.p_value == pytest.approx(reference)
    assert (result.only_a - result.only_b) / 80 == pytest.approx(paired_bootstrap(a, b).estimate)


def test_six_problems_all_one_way_are_the_fewest_that_convince():
    b = np.zeros(100)
    five, six = np.zeros(100), np.zeros(100)
    five[:5], six[:6] = 1, 1
    assert mcnemar(five, b).p_value == pytest.approx(2 * 0.5**5)
    assert mcnemar(six, b).p_value == pytest.approx(2 * 0.5**6)
    assert mcnemar(six, b).p_value < 0.05 < mcnemar(five, b).p_value


def test_methods_that_never_or_equally_disagree_have_p_one():
    a = np.array([True, False, True, False])
    assert mcnemar(a, a) == McNemar(only_a=0, only_b=0, p_value=1.0, n=4)
    assert mcnemar(a, ~a) == McNemar(only_a=2, only_b=2, p_value=1.0, n=4)


def test_the_paired_permutation_test_counts_every_sign_flip(rng):
    a, b = rng.normal(size=9) + 0.4, rng.normal(size=9)
    d = a - b
    flips = np.array([np.mean(d * s) for s in itertools.product([1, -1], repeat=9)])
    tails = (flips >= d.mean() - 1e-12).mean(), (flips <= d.mean() + 1e-12).mean()
    assert permutation_test(a, b, paired=True) == pytest.approx(min(1, 2 * min(tails)))


def test_the_unpaired_permutation_test_counts_every_way_to_deal(rng):
    a, b = rng.normal(size=4) + 1, rng.normal(size=6)
    pooled = np.concatenate([a, b])
    deals = []
    for chosen in itertools.combinations(range(10), 4):
        rest = np.delete(pooled, chosen)
        deals.append(pooled[list(chosen)].mean() - rest.mean())
    observed = a.mean() - b.mean()
    tails = (
        np.mean(np.array(deals) >= observed - 1e-12),
        np.mean(np.array(deals) <= observed + 1e-12),
    )
    assert permutation_test(a, b, paired=False) == pytest.approx(min(1, 2 * min(tails)))


@pytest.mark.parametrize("paired", [True, False])
def test_with_many_values_the_permutation_test_agrees_with_the_t_test(rng, paired):
    a, b = rng.normal(size=(2, 150))
    a = a + 0.2
    t_test = stats.ttest_rel if paired else stats.ttest_ind
    p = permutation_test(a, b, paired=paired)
    assert p == pytest.approx(t_test(a, b).pvalue, abs=0.015)
    assert p == permutation_test(a, b, paired=paired)


@pytest.mark.parametrize("paired", [True, False])
def test_a_permutation_p_value_is_small_but_never_zero_and_one_for_identical_data(paired):
    x = np.arange(100.0)
    p = permutation_test(x + 1000, x, paired=paired, n_resamples=999)
    assert p == pytest.approx(2 / 1000)
    assert permutation_test(np.ones(30), np.ones(30), paired=paired, n_resamples=99) == 1


def test_when_nothing_differs_the_permutation_test_errs_as_often_as_it_says():
    rng = np.random.default_rng(5)
    trials = 500
    p = [permutation_test(*rng.exponential(size=(2, 8)), paired=True, n_resamples=256) for _ in range(trials)]
    # all 2^8 flips are used, so exact: at most 0.05, plus three binomial standard errors
    assert np.mean(np.array(p) <= 0.05) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / trials)
    assert np.mean(np.array(p) <= 0.5) == pytest.approx(0.5, abs=0.07)


def test_permutation_p_counts_the_observed_value_among_the_draws():
    null = np.arange(99)
    assert permutation_p(1000, null) == 1 / 100
    assert permutation_p(98.0, null) == 2 / 100  # a tie counts against
    assert permutation_p(np.float32(-1), null) == 1
    assert permutation_p(0.5, np.array([1.0])) == 1


def test_permutation_p_is_uniform_when_the_observed_value_is_one_more_draw(rng):
    draws = rng.normal(size=20)
    p = sorted(permutation_p(x, np.delete(draws, i)) for i, x in enumerate(draws))
    np.testing.assert_allclose(p, np.arange(1, 21) / 20)


# Several tests at once


def test_holm_agrees_with_stepping_down_by_hand(rng):
    p = rng.random(12) ** 3
    adjusted, running = np.empty(12), 0.0
    for rank, i in enumerate(np.argsort(p)):
        running = max(running, min(1.0, (12 - rank) * p[i]))
        adjusted[i] = running
    np.testing.assert_allclose(holm(p), adjusted)


def test_benjamini_hochberg_agrees_with_stepping_up_by_hand(rng):
    p = rng.random(12) ** 3
    adjusted, running = np.empty(12), 1.0
    for rank, i in reversed(list(enumerate(np.argsort(p), start=1))):
        running = min(running, 12 * p[i] / rank)
        adjusted[i] = running
    np.testing.assert_allclose(benjamini_hochberg(p), adjusted)
    np.testing.assert_allclose(benjamini_hochberg(p), stats.false_discovery_control(p))


def test_adjusting_never_lowers_a_p_value_and_holm_is_the_stricter(rng):
    p = rng.random(30) ** 4
    assert (holm(p) >= benjamini_hochberg(p)).all()
    assert (benjamini_hochberg(p) >= p).all()


@pytest.mark.parametrize("adjust", [holm, benjamini_hochberg])
def test_adjusting_follows_the_order_it_was_given_and_leaves_a_single_test_alone(rng, adjust):
    p = rng.random(10)
    order = rng.permutation(10)
    np.testing.assert_allclose(adjust(p[order]), adjust(p)[order])
    np.testing.assert_allclose(adjust(p[:1]), p[:1])
    np.testing.assert_array_equal(adjust(np.array([0, 1, 1])), [0, 1, 1])


# What could have been seen


@pytest.mark.parametrize(("n", "discordant"), [(200, 0.2), (200, 0.42), (1000, 0.1), (60, 0.5)])
def test_the_detectable_difference_solves_connors_equation(n, discordant):
    delta = minimum_detectable_difference(n, discordant=discordant)
    z_a, z_b = stats.norm.ppf(0.975), stats.norm.ppf(0.8)
    top = z_a * math.sqrt(discordant) + z_b * math.sqrt(discordant - delta**2)
    assert (top / delta) ** 2 == pytest.approx(n)


@pytest.mark.parametrize(("n", "discordant"), [(200, 0.02), (200, 0.0), (40, 0.1), (10, 0.3)])
def test_where_discordance_is_too_small_all_of_it_must_fall_one_way(n, discordant):
    delta = minimum_detectable_difference(n, discordant=discordant)
    assert delta > discordant
    z_a, z_b = stats.norm.ppf(0.975), stats.norm.ppf(0.8)
    top = z_a * math.sqrt(delta) + z_b * math.sqrt(delta - delta**2)
    assert (top / delta) ** 2 == pytest.approx(n)


def test_the_two_cases_of_the_detectable_difference_meet():
    grid = np.linspace(0, 0.3, 3001)
    deltas = [minimum_detectable_difference(100, discordant=float(d)) for d in grid]
    steps = np.diff(deltas)
    assert (steps >= 0).all()
    assert steps.max() < 5e-4


@pytest.mark.parametrize(("n", "discordant"), [(200, 0.42), (400, 0.2)])
def test_the_detectable_difference_is_detected_four_times_in_five(n, discordant):
    delta = minimum_detectable_difference(n, discordant=discordant)
    rng = np.random.default_rng(11)
    only_a, only_b, _ = rng.multinomial(
        n,
        [(discordant + delta) / 2, (discordant - delta) / 2, 1 - discordant],
        size=20_000,
    ).T
    z = (only_a - only_b) / np.sqrt(only_a + only_b)  # McNemar's statistic, normal form
    assert (np.abs(z) > stats.norm.ppf(0.975)).mean() == pytest.approx(0.8, abs=0.02)
    exact = stats.binom.cdf(np.minimum(only_a, only_b), only_a + only_b, 0.5) * 2
    assert 0.72 < (exact <= 0.05).mean() < 0.8


def test_knowing_only_the_accuracy_assumes_independent_runs():
    expected = minimum_detectable_difference(200, discordant=2 * 0.3 * 0.7)
    assert minimum_detectable_difference(200, p=0.3) == pytest.approx(expected)
    assert minimum_detectable_difference(200, p=0.7) == pytest.approx(expected)
    assert expected == pytest.approx(0.1276, abs=1e-4)


def test_more_problems_detect_less_and_more_power_asks_more():
    by_n = [minimum_detectable_difference(n, p=0.5) for n in (4, 10, 50, 200, 1000, 10**6)]
    assert by_n == sorted(by_n, reverse=True)
    assert by_n[0] <= 1
    by_power = [minimum_detectable_difference(200, p=0.5, power=w) for w in (0.5, 0.8, 0.95)]
    assert by_power == sorted(by_power)


def test_three_problems_can_detect_nothing():
    assert math.isnan(minimum_detectable_difference(3, p=0.5))
    assert not math.isnan(minimum_detectable_difference(4, p=0.5))


@pytest.mark.parametrize("n", [2, 5, 30, 200])
def test_the_detectable_effect_gives_the_noncentral_t_its_power(n):
    effect = minimum_detectable_effect(3.0, n)
    shift = effect / 3.0 * math.sqrt(n)
    threshold = stats.t.ppf(0.975, n - 1)
    power = stats.nct.sf(threshold, n - 1, shift) + stats.nct.cdf(-threshold, n - 1, shift)
    assert power == pytest.approx(0.8, abs=1e-6)


def test_for_large_n_the_detectable_effect_is_the_sum_of_two_normal_quantiles():
    expected = (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) * 2.0 / math.sqrt(5000)
    assert minimum_detectable_effect(2, np.int64(5000)) == pytest.approx(expected, rel=1e-3)
    assert minimum_detectable_effect(0.0, 50) == 0


def test_a_band_holds_the_middle_of_the_controls(rng):
    controls = rng.permutation(101).astype(float)
    assert band(controls) == Band(median=50.0, low=5.0, high=95.0, n=101)
    assert band(controls, 0.0, 1.0) == Band(median=50.0, low=0.0, high=100.0, n=101)
    assert band(np.array([2])) == Band(median=2.0, low=2.0, high=2.0, n=1)


# Refusals

PAIRED = {
    "paired_bootstrap": paired_bootstrap,
    "ratio_bootstrap": ratio_bootstrap,
    "mcnemar": mcnemar,
    "permutation_test": lambda a, b: permutation_test(a, b, paired=True),
}
SINGLE = {
    "mean_interval": mean_interval,
    "permutation_p": lambda x: permutation_p(0.0, x),
    "holm": holm,
    "benjamini_hochberg": benjamini_hochberg,
    "band": band,
}


@pytest.mark.parametrize("compare", PAIRED.values(), ids=PAIRED)
def test_samples_of_unequal_length_are_refused(compare):
    with pytest.raises(InputError, match=r"a has 3 values and b has 2. Keep the problems both"):
        compare(np.ones(3), np.ones(2))


@pytest.mark.parametrize("compare", PAIRED.values(), ids=PAIRED)
def test_empty_or_missing_pairs_are_refused(compare):
    with pytest.raises(InputError, match="a is empty; pass at least one value"):
        compare(np.array([]), np.array([]))
    with pytest.raises(InputError, match=r"b must be finite; 1 of its 2 values .* index 1. Drop"):
        compare(np.ones(2), np.array([1.0, np.nan]))


@pytest.mark.parametrize("compute", SINGLE.values(), ids=SINGLE)
def test_an_empty_or_missing_sample_is_refused(compute):
    with pytest.raises(InputError, match="is empty; pass at least one value"):
        compute(np.array([]))
    with pytest.raises(InputError, match=r"must be finite; 2 of its 3 values .* index 0. Drop"):
        compute(np.array([np.nan, 0.5, np.inf]))


def test_an_unpaired_test_takes_unequal_lengths_but_not_missing_values():
    assert permutation_test(np.arange(3), np.arange(4), paired=False) == pytest.approx(
        permutation_test(np.arange(4), np.arange(3), paired=False)
    )
    with pytest.raises(InputError, match="b must be finite"):
        permutation_test(np.ones(2), np.array([np.nan, 1, 2]), paired=False)


@pytest.mark.parametrize("paired", [True, False])
def test_a_permutation_test_of_single_values_is_refused(paired):
    with pytest.raises(InputError, match=r"at least 2 values per sample; a has 1. Add problems"):
        permutation_test(np.ones(1), np.zeros(1), paired=paired)


def test_values_that_are_not_real_numbers_are_refused():
    with pytest.raises(InputError, match="x must be one row of real numbers or bools; got shape"):
        mean_interval(np.array(["right", "wrong"]))
    with pytest.raises(InputError, match=r"x must be one row .* of complex128"):
        mean_interval(np.array([1j]))


def test_mcnemar_refuses_anything_but_right_and_wrong():
    with pytest.raises(InputError, match=r"b holds 0.5. Pass 0/1 or bool, or use permutation_test"):
        mcnemar(np.array([0.0, 1.0]), np.array([0.5, 1.0]))


def test_a_ratio_to_nothing_or_of_negative_amounts_is_refused():
    with pytest.raises(InputError, match=r"all 3 values of b are 0. Use paired_bootstrap"):
        ratio_bootstrap(np.ones(3), np.zeros(3))
    with pytest.raises(InputError, match=r"a has a negative value, -2. Use paired_bootstrap"):
        ratio_bootstrap(np.array([1.0, -2.0]), np.ones(2))


def test_impossible_counts_are_refused():
    with pytest.raises(InputError, match="n must be at least 1; got 0"):
        wilson(0, 0)
    with pytest.raises(InputError, match="got successes=5 with n=4"):
        wilson(5, 4)
    with pytest.raises(InputError, match="got successes=-1 with n=4"):
        wilson(-1, 4)


def test_too_few_resamples_for_the_level_are_refused():
    x = np.arange(5.0)
    assert mean_interval(x, n_resamples=40).n == 5
    with pytest.raises(InputError, match="n_resamples must be at least 40; got 39"):
        mean_interval(x, n_resamples=39)
    with pytest.raises(InputError, match="n_resamples must be at least 200; got 100"):
        paired_bootstrap(x, x, n_resamples=100, level=0.99)
    with pytest.raises(InputError, match="n_resamples must be at least 1; got 0"):
        permutation_test(x, x, paired=True, n_resamples=0)


def test_a_level_given_as_a_percentage_is_refused():
    message = r"level must lie strictly between 0 and 1, such as 0.95; got 95"
    with pytest.raises(InputError, match=message):
        mean_interval(np.arange(5.0), level=95.0)
    with pytest.raises(InputError, match=message):
        wilson(1, 2, level=95.0)
    with pytest.raises(InputError, match=message):
        minimum_detectable_difference(10, p=0.5, level=95.0)
    with pytest.raises(InputError, match=message):
        minimum_detectable_effect(1.0, 10, level=95.0)


def test_p_values_outside_zero_to_one_are_refused():
    with pytest.raises(InputError, match=r"p holds 1.5. Pass them unadjusted"):
        holm(np.array([0.5, 1.5]))
    with pytest.raises(InputError, match="observed must be a finite number; got nan"):
        permutation_p(math.nan, np.ones(3))


def test_a_detectable_difference_needs_exactly_one_account_of_the_discordance():
    with pytest.raises(InputError, match=r"exactly one of p .* got p=None and discordant=None"):
        minimum_detectable_difference(200)
    with pytest.raises(InputError, match=r"exactly one of p .* got p=0.3 and discordant=0.2"):
        minimum_detectable_difference(200, p=0.3, discordant=0.2)
    with pytest.raises(InputError, match=r"p must be in .* not a percentage; got 30"):
        minimum_detectable_difference(200, p=30.0)
    with pytest.raises(InputError, match=r"discordant must be in .* not a percentage; got -0.1"):
        minimum_detectable_difference(200, discordant=-0.1)


def test_planning_refuses_too_few_values_and_impossible_power():
    with pytest.raises(InputError, match="n must be at least 1; got 0"):
        minimum_detectable_difference(0, p=0.3)
    with pytest.raises(InputError, match="n must be at least 2; got 1"):
        minimum_detectable_effect(1.0, 1)
    with pytest.raises(InputError, match="sd must be finite and not negative; got -1"):
        minimum_detectable_effect(-1.0, 10)
    for power in (0.4, 1.0):
        with pytest.raises(InputError, match=r"power must be in \[0.5, 1\)"):
            minimum_detectable_difference(200, p=0.3, power=power)
        with pytest.raises(InputError, match=r"power must be in \[0.5, 1\)"):
            minimum_detectable_effect(1.0, 200, power=power)


def test_a_band_with_its_ends_swapped_is_refused():
    with pytest.raises(InputError, match=r"got low=0.95, high=0.05. They are quantile levels"):
        band(np.arange(5), 0.95, 0.05)
