"""Put an interval, a p-value or a smallest detectable effect beside every number reported.

Thin functions over scipy and statsmodels, with the choices a report should not make twice: problems
are resampled, never tokens; two methods are compared on the same problems; a seed fixes the answer.
Samples are one value per problem, 0/1 or real. Lengths are checked here, so that a mismatch is
refused with a sentence rather than by a shape checker.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Shaped
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as exact_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.proportion import proportion_confint

from hooks.errors import InputError

Statistic = Literal["mean", "median"]
Count = int | np.integer
Number = float | int | np.number

_STATISTICS: dict[Statistic, Callable[..., Any]] = {"mean": np.mean, "median": np.median}
_BATCH_VALUES = 500_000
"""Values drawn at once; with it the peak was 16 MB at n = 300 and 10 000 resamples."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval."""

    estimate: float
    """The statistic on the data as observed."""

    low: float
    """Lower bound; NaN when the data cannot say (one observation, an undefined ratio)."""

    high: float
    """Upper bound; NaN when the data cannot say."""

    n: int
    """Problems behind it."""

    level: float = 0.95
    """Nominal coverage."""

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside the bounds; False when they are NaN."""
        return self.low > 0 or self.high < 0

    def as_dict(self) -> dict[str, float | int | None]:
        """The fields as plain JSON numbers, ``None`` for NaN."""
        return {
            "estimate": _json(self.estimate),
            "low": _json(self.low),
            "high": _json(self.high),
            "n": self.n,
            "level": self.level,
        }


@dataclass(frozen=True)
class McNemar:
    """Where two right-or-wrong methods part on the same problems, and how surprising that is."""

    only_a: int
    """Problems a gets right and b does not."""

    only_b: int
    """Problems b gets right and a does not."""

    p_value: float
    """Exact, two-sided."""

    n: int
    """Problems compared."""


@dataclass(frozen=True)
class Band:
    """Where a set of random controls falls."""

    median: float
    low: float
    high: float

    n: int
    """Controls behind it."""


# Intervals


def mean_interval(
    x: Shaped[np.ndarray, " n"],
    *,
    statistic: Statistic = "mean",
    n_resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The mean (or median) of one sample, with a percentile bootstrap interval.

    low, high = the (1 ± level)/2 quantiles of statistic(x[i]), i drawn n times with replacement.

    Data that are all one value give an interval of no width, which is then too narrow: for a
    proportion of 0 or 1 use ``wilson``. With one observation the bounds are NaN.

    Raises:
        InputError: if ``x`` is empty or not finite, or there are too few resamples for ``level``.

    Source: Efron 1979, "Bootstrap Methods: Another Look at the Jackknife";
    ``scipy.stats.bootstrap``.
    Differs from the source: nothing. The percentile interval undercovers in small samples (about
    0.90 for a nominal 0.95 at n = 10 normal values, 0.94 at 30).
    """
    x = _values("x", x)
    compute = _STATISTICS[statistic]
    resampled = _resample((x,), compute, n_resamples=n_resamples, level=level, seed=seed)
    return _percentile_interval(compute(x), resampled, n=len(x), level=level)


def paired_bootstrap(
    a: Shaped[np.ndarray, " a"],
    b: Shaped[np.ndarray, " b"],
    *,
    statistic: Statistic = "mean",
    n_resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """How much higher a is than b on the same problems, with a percentile bootstrap interval.

    estimate  = statistic(a) - statistic(b)
    low, high = the (1 ± level)/2 quantiles of statistic(a[i]) - statistic(b[i]),

    the same resampled problems i on both sides, so a problem hard for both adds no noise.
    ``statistic="median"`` is the difference of the medians, not the median difference. A constant
    difference of means gives an interval of no width; with one problem the bounds are NaN.

    Raises:
        InputError: if ``a`` and ``b`` differ in length, are empty or not finite, or there are too
            few resamples for ``level``.

    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapters 8 and 13.
    Differs from the source: nothing.
    """
    a, b = _paired(a, b)
    if statistic == "mean":  # means subtract, so one gather does for two
        return mean_interval(a - b, n_resamples=n_resamples, level=level, seed=seed)

    def difference(a: Any, b: Any, axis: int = -1) -> Any:
        return np.median(a, axis=axis) - np.median(b, axis=axis)

    resampled = _resample((a, b), difference, n_resamples=n_resamples, level=level, seed=seed)
    return _percentile_interval(difference(a, b), resampled, n=len(a), level=level)


def ratio_bootstrap(
    a: Shaped[np.ndarray, " a"],
    b: Shaped[np.ndarray, " b"],
    *,
    n_resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The relative change from b to a on the same problems: -0.67 is 67% less than b.

    estimate  = mean(a) / mean(b) - 1
    low, high = the (1 ± level)/2 quantiles of mean(a[i]) / mean(b[i]) - 1

    A ratio of means, so long answers weigh more than short ones; not the mean of ratios. Resamples
    whose b is all zero have no ratio and are left out; when more than (1 - level)/2 of them are,
    the bounds are NaN.

    Args:
        a: Amounts, none negative: tokens, seconds, 0/1 outcomes.
        b: The baseline's amounts, none negative, not all zero.

    Raises:
        InputError: if ``a`` and ``b`` differ in length, are empty, not finite or negative, if ``b``
            is all zero, or there are too few resamples for ``level``.

    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", section 10.3 (the patch
    data, a ratio of two paired means).
    Differs from the source: the percentile interval; undefined resamples left out.
    """
    a, b = _paired(a, b)
    for name, x in (("a", a), ("b", b)):
        if (x < 0).any():
            raise InputError(
                f"A relative change needs amounts; {name} has a negative value, {x.min():g}. "
                "Use paired_bootstrap for a difference."
            )
    if not b.any():
        raise InputError(
            f"A relative change needs a baseline above zero; all {len(b)} values of b are 0. "
            "Use paired_bootstrap for a difference."
        )

    def means(a: Any, b: Any, axis: int = -1) -> Any:
        return np.stack([np.mean(a, axis=axis), np.mean(b, axis=axis)])

    top, bottom = _resample((a, b), means, n_resamples=n_resamples, level=level, seed=seed)
    defined = bottom > 0
    ratios = top[defined] / bottom[defined]
    if np.mean(~defined) > (1 - level) / 2:
        ratios = np.array([math.nan])
    return _percentile_interval(a.mean() / b.mean() - 1, ratios - 1, n=len(a), level=level)


def gap_recovered(
    key: Shaped[np.ndarray, " key"],
    base: Shaped[np.ndarray, " base"],
    tuned: Shaped[np.ndarray, " tuned"],
    *,
    n_resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval | None:
    """The share of the gap from base to tuned that a key closes, on the same problems.

    estimate  = (mean(key) - mean(base)) / (mean(tuned) - mean(base))
    low, high = the (1 ± level)/2 quantiles of the same over resampled problems

    Below 0 where the key harms, above 1 where it does better than tuning. Resamples without a gap are left
    out.

    Returns:
        None where the interval of the gap covers zero: what there is none of has no share.

    Raises:
        InputError: as :func:`paired_bootstrap`.

    Source: Venhoff et al. 2025, arXiv:2510.07364, for the share of a gap.
    Differs from the source: the interval, and None.
    """
    gap = paired_bootstrap(tuned, base, n_resamples=n_resamples, level=level, seed=seed)
    if not gap.excludes_zero:
        return None
    (key, base), (tuned, _) = _paired(key, base), _paired(tuned, base)

    def differences(key: Any, base: Any, tuned: Any, axis: int = -1) -> Any:
        return np.stack([np.mean(key - base, axis=axis), np.mean(tuned - base, axis=axis)])

    closed, open_ = _resample(
        (key, base, tuned), differences, n_resamples=n_resamples, level=level, seed=seed
    )
    shares = closed[open_ != 0] / open_[open_ != 0]
    return _percentile_interval((key.mean() - base.mean()) / gap.estimate, shares, n=len(key), level=level)


def wilson(successes: Count, n: Count, *, level: float = 0.95) -> Interval:
    """A proportion with its Wilson score interval, sound near 0 and 1 and for small n.

    centre ± half = [p + z²/2n ± z √(p(1-p)/n + z²/4n²)] / (1 + z²/n),  p = successes/n.

    Raises:
        InputError: if ``n`` is below 1, or ``successes`` is not in 0..n.

    Source: Wilson 1927, "Probable Inference, the Law of Succession, and Statistical Inference";
    statsmodels ``proportion_confint(method="wilson")``.
    Differs from the source: the bound at 0 successes is exactly 0, at n successes exactly 1, where
    rounding would miss it.
    """
    _at_least("n", n, 1)
    _inside("level", level)
    if not 0 <= successes <= n:
        raise InputError(
            f"successes must be in 0..n; got successes={successes} with n={n}. "
            "Pass the count of successes, then the number of problems."
        )
    low, high = proportion_confint(int(successes), int(n), alpha=1 - level, method="wilson")
    return Interval(
        estimate=int(successes) / int(n),
        low=0.0 if successes == 0 else float(low),
        high=1.0 if successes == n else float(high),
        n=int(n),
        level=level,
    )


# Tests


def mcnemar(a: Shaped[np.ndarray, " a"], b: Shaped[np.ndarray, " b"]) -> McNemar:
    """Whether two methods differ in accuracy on the same problems, by McNemar's exact test.

    p = min(1, 2 · P[Binomial(only_a + only_b, ½) ≤ min(only_a, only_b)])

    Problems both get right, or both get wrong, say nothing and do not enter.

    Args:
        a: One outcome per problem, 0/1 or bool.
        b: The other method's, in the same order.

    Raises:
        InputError: if ``a`` and ``b`` differ in length, are empty, or hold anything but 0 and 1.

    Source: McNemar 1947, "Note on the sampling error of the difference between correlated
    proportions or percentages"; statsmodels ``contingency_tables.mcnemar(exact=True)``.
    Differs from the source: the exact binomial in place of chi-squared.
    """
    a, b = _paired(a, b)
    for name, x in (("a", a), ("b", b)):
        odd = x[(x != 0) & (x != 1)]
        if odd.size:
            raise InputError(
                f"McNemar's test compares right with wrong; {name} holds {odd[0]:g}. "
                "Pass 0/1 or bool, or use permutation_test for real values."
            )
    only_a, only_b = int((a > b).sum()), int((b > a).sum())
    result = exact_mcnemar([[0, only_a], [only_b, 0]], exact=True)
    return McNemar(only_a=only_a, only_b=only_b, p_value=float(result.pvalue), n=len(a))


def permutation_test(
    a: Shaped[np.ndarray, " a"],
    b: Shaped[np.ndarray, " b"],
    *,
    paired: bool,
    n_resamples: int = 10_000,
    seed: int = 0,
) -> float:
    """Two-sided p-value for mean(a) = mean(b), when only the labels a and b were assigned.

    p = min(1, 2 · min over both tails of the share of relabellings at least as extreme).

    ``paired`` swaps a and b within each problem; otherwise all values are pooled and dealt out
    again. Every relabelling is used once when there are no more than ``n_resamples`` of them;
    otherwise that many are drawn and one is added to numerator and denominator, so p is never zero.

    Raises:
        InputError: if a sample has fewer than two values or any is not finite, or if ``paired`` and
            the lengths differ, or ``n_resamples`` is below 1.

    Source: Fisher 1935, "The Design of Experiments", section 21; Phipson and Smyth 2010,
    "Permutation P-values Should Never Be Zero"; ``scipy.stats.permutation_test``.
    Differs from the source: nothing.
    """
    a, b = _paired(a, b) if paired else (_values("a", a), _values("b", b))
    _at_least("n_resamples", n_resamples, 1)
    for name, x in (("a", a), ("b", b)):
        if len(x) < 2:
            raise InputError(
                f"A permutation test needs at least 2 values per sample; {name} has {len(x)}. "
                "Add problems, or report the two values without a test."
            )

    def difference(a: Any, b: Any, axis: int = -1) -> Any:
        return np.mean(a, axis=axis) - np.mean(b, axis=axis)

    result = stats.permutation_test(
        (a, b),
        difference,
        permutation_type="samples" if paired else "independent",
        vectorized=True,
        n_resamples=n_resamples,
        batch=max(1, _BATCH_VALUES // (len(a) + len(b))),
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def permutation_p(observed: Number, null: Shaped[np.ndarray, " draws"]) -> float:
    """One-sided p-value of a statistic against draws under the null; large is extreme.

    p = (1 + #{null ≥ observed}) / (1 + draws), so never zero: 99 draws can show 0.01 at best.

    Negate both for the lower tail. Ties are compared exactly, as floats.

    Raises:
        InputError: if ``null`` is empty, or anything is not finite.

    Source: Phipson and Smyth 2010, "Permutation P-values Should Never Be Zero", arXiv:1603.05766.
    Differs from the source: nothing.
    """
    null = _values("null", null)
    if not math.isfinite(observed):
        raise InputError(f"observed must be a finite number; got {observed}.")
    return float((1 + np.count_nonzero(null >= observed)) / (1 + len(null)))


def holm(p: Shaped[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """p-values adjusted so that the chance of any false claim among them stays below the threshold.

    With p sorted ascending, adjusted_i = max over j ≤ i of min(1, (n - j + 1) p_j), in input order.

    Raises:
        InputError: if ``p`` is empty or leaves [0, 1].

    Source: Holm 1979, "A Simple Sequentially Rejective Multiple Test Procedure"; statsmodels
    ``multipletests(method="holm")``.
    Differs from the source: nothing.
    """
    return _adjusted(p, "holm")


def benjamini_hochberg(p: Shaped[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """p-values adjusted so that the expected share of false claims stays below the threshold.

    With p sorted ascending, adjusted_i = min over j ≥ i of min(1, n p_j / j), in input order.
    Assumes the tests are independent or positively dependent.

    Raises:
        InputError: if ``p`` is empty or leaves [0, 1].

    Source: Benjamini and Hochberg 1995, "Controlling the False Discovery Rate"; statsmodels
    ``multipletests(method="fdr_bh")``.
    Differs from the source: nothing.
    """
    return _adjusted(p, "fdr_bh")


# What could have been seen


def minimum_detectable_difference(
    n: Count,
    *,
    p: float | None = None,
    discordant: float | None = None,
    power: float = 0.8,
    level: float = 0.95,
) -> float:
    """The smallest difference of two paired accuracies that n problems would probably reveal.

    The δ that solves, for discordant share ψ (the problems exactly one method gets right),

    √n δ = z_α √ψ + z_β √(ψ - δ²),    z_α = Φ⁻¹((1 + level)/2), z_β = Φ⁻¹(power).

    A difference cannot exceed the discordance that makes it, so where the solution would, ψ grows
    with it: ψ = δ, every discordant problem on one side.

    Args:
        n: Problems both methods answer.
        p: An accuracy near both methods'; ψ is then 2p(1-p), two independent runs, the cautious
            end: problems hard for one are usually hard for the other, and ψ smaller.
        discordant: ψ itself, observed or expected. Pass this or ``p``, not both.
        power: Chance of detecting δ, in [0.5, 1).
        level: One minus the two-sided significance threshold.

    Returns:
        A fraction in (0, 1]; NaN when n is so small (3 or fewer at 0.95) that nothing would show.

    Raises:
        InputError: if not exactly one of ``p`` and ``discordant`` is given, or anything is out of
            range.

    Source: Connor 1987, "Sample Size for Testing Differences in Proportions for the Paired-Sample
    Design", Biometrics 43, equation for n, solved for δ.
    Differs from the source: ψ = max(ψ, δ). Normal theory, so ``mcnemar``, which is exact, needs
    slightly more.
    """
    _at_least("n", n, 1)
    _inside("level", level)
    _usable_power(power)
    if p is not None and discordant is None:
        name, rate = "p", p
    elif discordant is not None and p is None:
        name, rate = "discordant", discordant
    else:
        raise InputError(
            "Pass exactly one of p (an accuracy) and discordant (the share of problems exactly one "
            f"method gets right); got p={p} and discordant={discordant}."
        )
    if not 0 <= rate <= 1:
        raise InputError(f"{name} must be in [0, 1], a fraction and not a percentage; got {rate}.")
    psi = 2 * rate * (1 - rate) if name == "p" else rate
    z_a, z_b = float(stats.norm.isf((1 - level) / 2)), float(stats.norm.ppf(power))
    if n <= z_a**2:
        return math.nan
    delta = math.sqrt(psi) * (math.sqrt(n) * z_a + z_b * math.sqrt(n + z_b**2 - z_a**2))
    delta /= n + z_b**2
    if 0 < delta <= psi:
        return delta
    # ψ = δ: with s = √(1 - δ), n (1 - s²) = (z_a + z_b s)²
    root = math.sqrt((z_a * z_b) ** 2 + (n + z_b**2) * (n - z_a**2))
    return 1 - ((root - z_a * z_b) / (n + z_b**2)) ** 2


def minimum_detectable_effect(sd: Number, n: Count, *, power: float = 0.8, level: float = 0.95) -> float:
    """The smallest mean that n values of this spread would probably tell from zero, in their units.

    About (Φ⁻¹((1 + level)/2) + Φ⁻¹(power)) · sd / √n; here the exact figure for a two-sided t-test,
    larger when n is small. For a paired comparison ``sd`` is that of the differences.

    Raises:
        InputError: if ``n`` is below 2, ``sd`` negative or not finite, or power or level out of
            range.

    Source: Cohen 1988, "Statistical Power Analysis for the Behavioral Sciences", chapter 2;
    statsmodels ``TTestPower.solve_power``.
    Differs from the source: nothing.
    """
    _at_least("n", n, 2)
    _inside("level", level)
    _usable_power(power)
    if not (math.isfinite(sd) and sd >= 0):
        raise InputError(f"sd must be finite and not negative; got {sd}.")
    size = TTestPower().solve_power(nobs=int(n), alpha=1 - level, power=power)
    return float(sd) * float(size)


def band(values: Shaped[np.ndarray, " n"], low: float = 0.05, high: float = 0.95) -> Band:
    """The range random controls fall in, to set one real number against.

    The ``low`` and ``high`` quantiles of ``values``, linearly interpolated. It describes the
    controls; for a p-value use ``permutation_p``.

    Raises:
        InputError: if ``values`` is empty or not finite, or 0 ≤ low < high ≤ 1 fails.
    """
    values = _values("values", values)
    if not 0 <= low < high <= 1:
        raise InputError(
            f"A band needs 0 <= low < high <= 1; got low={low}, high={high}. "
            "They are quantile levels, such as 0.05 and 0.95."
        )
    bottom, median, top = np.quantile(values, [low, 0.5, high])
    return Band(median=float(median), low=float(bottom), high=float(top), n=len(values))


# Shared


def _resample(
    samples: tuple[np.ndarray, ...],
    statistic: Callable[..., Any],
    *,
    n_resamples: int,
    level: float,
    seed: int,
) -> np.ndarray:
    """The statistic on resampled problems; NaN for a single problem, which shows no spread."""
    n = len(samples[0])
    _inside("level", level)
    _at_least("n_resamples", n_resamples, math.ceil(2 / (1 - level) - 1e-9))  # two draws per tail
    if n == 1:
        return np.full((*np.shape(statistic(*samples)), 1), math.nan)
    result = stats.bootstrap(
        samples,
        statistic,
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=n_resamples,
        batch=max(1, _BATCH_VALUES // n),
        rng=np.random.default_rng(seed),
    )
    return np.asarray(result.bootstrap_distribution)


def _percentile_interval(estimate: Number, resampled: np.ndarray, *, n: int, level: float) -> Interval:
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(estimate), float(low), float(high), n, level)


def _adjusted(p: np.ndarray, method: str) -> np.ndarray:
    p = _values("p", p)
    outside = p[(p < 0) | (p > 1)]
    if outside.size:
        raise InputError(f"p-values lie in [0, 1]; p holds {outside[0]:g}. Pass them unadjusted.")
    return np.asarray(multipletests(p, method=method)[1])


def _values(name: str, x: np.ndarray) -> np.ndarray:
    if x.ndim != 1 or x.dtype.kind not in "biuf":
        raise InputError(
            f"{name} must be one row of real numbers or bools; got shape {x.shape} of {x.dtype}."
        )
    if not x.size:
        raise InputError(f"{name} is empty; pass at least one value.")
    x = x.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(x))
    if bad.size:
        raise InputError(
            f"{name} must be finite; {bad.size} of its {x.size} values are NaN or infinite, first "
            f"at index {bad[0]}. Drop those problems from every sample, and say how many."
        )
    return x


def _paired(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = _values("a", a), _values("b", b)
    if len(a) != len(b):
        raise InputError(
            f"A paired comparison needs the same problems on both sides; a has {len(a)} values and "
            f"b has {len(b)}. Keep the problems both answered, in one order."
        )
    return a, b


def _at_least(name: str, value: Count, least: int) -> None:
    if value < least:
        raise InputError(f"{name} must be at least {least}; got {value}.")


def _inside(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise InputError(f"{name} must lie strictly between 0 and 1, such as 0.95; got {value}.")


def _usable_power(power: float) -> None:
    if not 0.5 <= power < 1:
        raise InputError(f"power must be in [0.5, 1), such as 0.8; got {power}.")


def _json(value: float) -> float | None:
    return None if math.isnan(value) else value
