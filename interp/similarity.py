"""How alike two conditions are at each layer: linear CKA without its bias, beside three controls.

With K = X Xᵀ and L = Y Yᵀ over the same n items,

    CKA = HSIC(K, L) / sqrt( HSIC(K, K) HSIC(L, L) ),

    HSIC = mean of K_ij L_ij  -  2 · mean of K_ij L_iq  +  mean of K_ij L_qr,

each mean over distinct items i, j, q, r: the U-statistic, so HSIC of independent X and Y is zero on
average at any width d. The usual estimator keeps i = j, and with it gives 0.92 for independent
Gaussians at n = 50 and d = 576; this one gives 0.0 on average, and so can be negative.

An interval resamples items. An item that is drawn twice would be its own neighbour, and bring back
the bias that leaving out i = j took away; so a resample is a weight w_i, the times that item i was
drawn, in each mean over distinct items: products of the weights of i, j, q, r, over their sum.

Source: Song et al. 2012, "Feature Selection via Dependence Maximization", JMLR 13, equation 5;
Kornblith et al. 2019, arXiv:1905.00414; Nguyen et al. 2021, arXiv:2010.15327, for its use in CKA. The
question and the first pair of conditions: Yang et al. 2025, "Decoupling Knowledge and Reasoning in
LLMs", arXiv:2507.18178.
Differs from the sources: weights; Yang et al. use the biased estimator, give no interval and no control.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Float64, Int
from torch import Tensor

from hooks.errors import InputError
from interp.stats import Band, Interval, band

Gram = Float64[np.ndarray, "item item"]
Layers = Float[np.ndarray, "_layer _item _d"] | Float[Tensor, "_layer _item _d"]
"""Activations of the same items, in the same order, at every layer."""

ROUNDING = 1e-6
"""Items that vary by less than this share of their norm are the same but for float32 rounding."""

SMALLEST = 1e-9
"""A debiased HSIC of a condition with itself that counts as zero, where its mean squared norm is one. It is
never below zero but for rounding, and in d dimensions it is 1/d or more on average."""

FEWEST = 10
"""Items below which no interval is given: too few resamples have four distinct ones."""


@dataclass(frozen=True)
class CKACurve:
    """Debiased CKA of two conditions at each layer."""

    layers: tuple[Interval, ...]
    """One for each layer; NaN where it is undefined."""

    undefined: dict[int, str]
    """The layers where it is, and why."""

    @property
    def values(self) -> Float64[np.ndarray, " layer"]:
        return np.array([interval.estimate for interval in self.layers])


@dataclass(frozen=True)
class FastSlow:
    """Whether what a slow prompt changes is more than any other change of the prompt would."""

    slow: CKACurve
    """The fast prompt and the slow one, of the same question."""

    paraphrased: CKACurve
    """Control 1: the fast prompt and the same in other words. A fall here is not reasoning."""

    shuffled: CKACurve
    """Control 2: the fast prompt and the slow one with its thoughts shuffled. As low as ``slow``, it is
    the presence of thoughts and not what they say."""

    mispaired: tuple[Band, ...]
    """Control 3: the fast prompt and the slow one of another question, over random pairings: what a
    layer gives when the question says nothing. All NaN where undefined."""

    beyond_paraphrase: tuple[Interval, ...]
    """``paraphrased - slow`` on the same resampled items: above zero, slow differs more than a paraphrase."""

    beyond_shuffling: tuple[Interval, ...]
    """``shuffled - slow`` on the same resampled items."""


def cka(
    x: Float[np.ndarray, "_item d"] | Float[Tensor, "_item d"],
    y: Float[np.ndarray, "_item e"] | Float[Tensor, "_item e"],
    *,
    debiased: bool = True,
) -> float:
    """Linear CKA of two sets of activations of the same items.

    1 for the same geometry, whatever its rotation, offset and scale; 0 on average for independent ones.

    Args:
        debiased: False gives the usual estimator, for comparison: far above zero where d exceeds n.

    Raises:
        InputError: if the items differ in number, are fewer than 4 or not finite, or if those of one set
            are all the same or all equally far apart.
    """
    _check_items(4, x=x, y=y)
    weights = np.ones((1, len(x)))
    here = {name: _condition(values, weights) for name, values in (("x", x), ("y", y))}
    drawn = _between(here, "x", "y")
    if not debiased and not isinstance(drawn, str):
        k, m = _gram(x), _gram(y)  # of centred items
        return float((k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum()))
    if isinstance(drawn, str) or np.isnan(drawn[0]):
        why = drawn if isinstance(drawn, str) else _NO_GEOMETRY
        raise InputError(f"CKA is undefined: {why}. Read another layer or token, or pass more items.")
    return float(drawn[0])


def hsic(
    k: Gram, m: Gram, weights: Float64[np.ndarray, "draw item"] | None = None
) -> Float64[np.ndarray, " draw"]:
    """The unbiased HSIC of two symmetric Gram matrices, for each row of weights (by default, of ones).

    NaN where fewer than four distinct items have weight. Takes two products of the weights with an
    n x n matrix, and no loop over items.
    """
    w = np.ones((1, len(k))) if weights is None else weights
    return _hsic(_Condition(_off_diagonal(k), w), _Condition(_off_diagonal(m), w))


def cka_curve(
    x: Layers, y: Layers, *, n_resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> CKACurve:
    """Debiased CKA of two conditions at each layer, with a percentile bootstrap over items.

    The same resampled items serve every layer, so the curve's bumps can be read together. Where the
    conditions are independent, and CKA near zero, the interval is wider than it need be.

    Raises:
        InputError: if the conditions differ in layers or items, have fewer than 10 items or any that is
            not finite, or there are too few resamples for ``level``.
    """
    _check_layers(n_resamples, level, x=x, y=y)
    weights = _draws(x.shape[1], n_resamples, seed)
    found = []
    for at_x, at_y in zip(x, y, strict=True):
        here = {"x": _condition(at_x, weights), "y": _condition(at_y, weights)}
        found.append(_between(here, "x", "y"))
    return _curve(found, x.shape[1], level)


def fast_slow(
    fast: Layers,
    slow: Layers,
    *,
    paraphrased: Layers,
    shuffled: Layers,
    n_resamples: int = 1000,
    n_pairings: int = 20,
    level: float = 0.95,
    seed: int = 0,
) -> FastSlow:
    """Debiased CKA of a fast and a slow prompt at each layer, with its three controls.

    Args:
        fast: Activations under the prompt that asks for the answer at once.
        slow: Under the prompt that thinks first, at a token after its thoughts.
        paraphrased: Under the fast prompt in other words.
        shuffled: Under the slow prompt with its thoughts shuffled.
        n_pairings: Random pairings of each question with another one's slow prompt.

    Raises:
        InputError: as :func:`cka_curve`, or if ``n_pairings`` is below 1.
    """
    given = {"fast": fast, "slow": slow, "paraphrased": paraphrased, "shuffled": shuffled}
    _check_layers(n_resamples, level, **given)
    if n_pairings < 1:
        raise InputError(f"n_pairings must be at least 1; got {n_pairings}.")
    n = fast.shape[1]
    weights = _draws(n, n_resamples, seed)
    pairings = _derangements(n, n_pairings, seed)
    curves: dict[str, list[_Drawn]] = {"slow": [], "paraphrased": [], "shuffled": []}
    mispaired = []
    for layer in range(len(fast)):
        here = {name: _condition(values[layer], weights) for name, values in given.items()}
        for name, found in curves.items():
            found.append(_between(here, "fast", name))
        mispaired.append(_mispaired(here["fast"], here["slow"], pairings))
    return FastSlow(
        slow=_curve(curves["slow"], n, level),
        paraphrased=_curve(curves["paraphrased"], n, level),
        shuffled=_curve(curves["shuffled"], n, level),
        mispaired=tuple(mispaired),
        beyond_paraphrase=_difference(curves["paraphrased"], curves["slow"], n, level),
        beyond_shuffling=_difference(curves["shuffled"], curves["slow"], n, level),
    )


# One condition at one layer


@dataclass(frozen=True, eq=False)
class _Condition:
    """A Gram matrix without its diagonal, under the weights of every draw; the first draw is the data."""

    off: Gram
    weights: Float64[np.ndarray, "draw item"]

    @cached_property
    def along(self) -> Float64[np.ndarray, "draw item"]:
        return np.asarray(self.weights @ self.off)

    @cached_property
    def own(self) -> Float64[np.ndarray, " draw"]:
        return _hsic(self, self)


_Drawn = Float64[np.ndarray, " draw"] | str
"""CKA under every draw, or why it is undefined."""

_NO_GEOMETRY = "the items of one of the two are all equally far apart"


def _condition(
    x: Float[np.ndarray, "item d"] | Float[Tensor, "item d"], weights: Float64[np.ndarray, "draw item"]
) -> _Condition | str:
    gram = _gram(x)
    if not gram.any():
        return "its items are all the same"
    return _Condition(_off_diagonal(gram), weights)


def _between(here: dict[str, _Condition | str], a: str, b: str) -> _Drawn:
    for name in (a, b):
        if isinstance(why := here[name], str):
            return f"{name}: {why}"
    one, other = here[a], here[b]
    assert isinstance(one, _Condition)
    assert isinstance(other, _Condition)
    return _ratio(_hsic(one, other), one.own, other.own)


def _mispaired(
    fast: _Condition | str, slow: _Condition | str, pairings: Int[np.ndarray, "pairing item"]
) -> Band:
    if isinstance(fast, str) or isinstance(slow, str):
        return Band(np.nan, np.nan, np.nan, n=0)
    one = np.ones((1, len(fast.off)))
    values = [
        _ratio(hsic(fast.off, slow.off[np.ix_(order, order)], one), fast.own[:1], slow.own[:1])[0]
        for order in pairings
    ]
    return Band(np.nan, np.nan, np.nan, n=0) if np.isnan(values).any() else band(np.array(values))


def _ratio(
    cross: Float64[np.ndarray, " draw"],
    own: Float64[np.ndarray, " draw"],
    others: Float64[np.ndarray, " draw"],
) -> Float64[np.ndarray, " draw"]:
    defined = (own > SMALLEST) & (others > SMALLEST)
    size = np.sqrt(np.where(defined, own * others, 1))
    return np.asarray(np.where(defined, cross / size, np.nan))


def _hsic(x: _Condition, y: _Condition) -> Float64[np.ndarray, " draw"]:
    """Sums over distinct items are sums over all, less those in which two are one.

    With M = K ∘ L, a = K w, b = L w and p_r the sum of the w_i to the power r:

        over i j        w' M w                                                            p1² - p2
        over i j q      sum w a b - w' M w²                                     p1³ - 3 p1 p2 + 2 p3
        over i j q r    (w' a)(w' b) - 4 sum w² a b + 2 w²' M w²      p1⁴ - 6 p1² p2 + 3 p2² + 8 p1 p3 - 6 p4
    """
    w, square, a, b = x.weights, x.weights**2, x.along, y.along
    product = x.off * y.off
    m_w, m_square = w @ product, square @ product
    p1, p2, p3, p4 = (_sum(w**power) for power in (1, 2, 3, 4))
    two = _sum(w * m_w), p1**2 - p2
    three = _sum(w * a * b) - _sum(w * m_square), p1**3 - 3 * p1 * p2 + 2 * p3
    four = (
        _sum(w * a) * _sum(w * b) - 4 * _sum(square * a * b) + 2 * _sum(square * m_square),
        p1**4 - 6 * p1**2 * p2 + 3 * p2**2 + 8 * p1 * p3 - 6 * p4,
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        means = [np.where(count > 0.5, total / count, np.nan) for total, count in (two, three, four)]
    return np.asarray(means[0] - 2 * means[1] + means[2])


def _sum(x: Float64[np.ndarray, "draw item"]) -> Float64[np.ndarray, " draw"]:
    return np.asarray(x.sum(1))


def _gram(x: Float[np.ndarray, "item d"] | Float[Tensor, "item d"]) -> Gram:
    """Of centred items, which changes no HSIC and keeps its digits; zeros where they are all the same."""
    wide = _array(x)
    centred = wide - wide.mean(0)
    size = float((centred**2).sum())
    if size <= ROUNDING**2 * float((wide**2).sum()):
        return np.zeros((len(wide), len(wide)))
    return np.asarray(centred @ centred.T / (size / len(wide)))


def _off_diagonal(gram: Gram) -> Gram:
    return np.asarray(gram - np.diag(np.diag(gram)))


def _array(x: Float[np.ndarray, "..."] | Float[Tensor, "..."]) -> Float64[np.ndarray, "..."]:
    """In float64, also where the device that the activations are on has none."""
    return x.detach().cpu().double().numpy() if isinstance(x, Tensor) else x.astype(np.float64)


# Draws


def _draws(n: int, n_resamples: int, seed: int) -> Float64[np.ndarray, "draw item"]:
    """How often each item is drawn: once each, then in every resample."""
    rng = np.random.default_rng(seed)
    return np.vstack([np.ones(n), rng.multinomial(n, np.full(n, 1 / n), size=n_resamples)])


def _derangements(n: int, number: int, seed: int) -> Int[np.ndarray, "pairing item"]:
    """Random orders in which no item is in its place."""
    rng = np.random.default_rng(seed)
    found: list[np.ndarray] = []
    while len(found) < number:
        order = rng.permutation(n)
        if (order != np.arange(n)).all():
            found.append(order)
    return np.stack(found)


def _curve(found: Sequence[_Drawn], n: int, level: float) -> CKACurve:
    undefined = {layer: drawn for layer, drawn in enumerate(found) if isinstance(drawn, str)}
    intervals = []
    for layer, drawn in enumerate(found):
        if isinstance(drawn, str):
            intervals.append(Interval(np.nan, np.nan, np.nan, n, level))
            continue
        if np.isnan(drawn[0]):
            undefined[layer] = _NO_GEOMETRY
        intervals.append(_interval(drawn, n, level))
    return CKACurve(tuple(intervals), undefined)


def _difference(
    found: Sequence[_Drawn], less: Sequence[_Drawn], n: int, level: float
) -> tuple[Interval, ...]:
    return tuple(
        Interval(np.nan, np.nan, np.nan, n, level)
        if isinstance(a, str) or isinstance(b, str)
        else _interval(a - b, n, level)
        for a, b in zip(found, less, strict=True)
    )


def _interval(drawn: Float64[np.ndarray, " draw"], n: int, level: float) -> Interval:
    """Undefined resamples are left out; where they are more than a tail holds, the bounds are NaN."""
    tail = (1 - level) / 2
    resampled = drawn[1:]
    defined = resampled[~np.isnan(resampled)]
    if np.isnan(drawn[0]) or len(defined) < (1 - tail) * len(resampled):
        return Interval(float(drawn[0]), np.nan, np.nan, n, level)
    low, high = np.quantile(defined, [tail, 1 - tail])
    return Interval(float(drawn[0]), float(low), float(high), n, level)


# Checks


def _check_layers(n_resamples: int, level: float, **conditions: Layers) -> None:
    (first, one), *others = conditions.items()
    for name, other in others:
        if len(other) != len(one):
            raise InputError(f"{first} has {len(one)} layers and {name} {len(other)}; pass the same ones.")
    if not len(one):
        raise InputError("The conditions have no layers; pass at least one.")
    _check_items(FEWEST, **{name: values.swapaxes(0, 1) for name, values in conditions.items()})
    if not 0 < level < 1:
        raise InputError(f"level must lie strictly between 0 and 1, such as 0.95; got {level}.")
    if n_resamples < (fewest := math.ceil(2 / (1 - level) - 1e-9)):
        raise InputError(f"n_resamples must be at least {fewest} at level {level}; got {n_resamples}.")


def _check_items(
    fewest: int, **conditions: Float[np.ndarray, "_item ..."] | Float[Tensor, "_item ..."]
) -> None:
    (first, one), *others = conditions.items()
    for name, other in others:
        if len(other) != len(one):
            raise InputError(
                f"{first} has {len(one)} items and {name} {len(other)}; CKA compares the same items in the "
                "same order."
            )
    if len(one) < fewest:
        raise InputError(f"{len(one)} items are too few; pass {fewest} or more.")
    for name, values in conditions.items():
        if not np.isfinite(_array(values)).all():
            raise InputError(
                f"{name} has NaN or infinite activations; leave those items out of every condition."
            )
