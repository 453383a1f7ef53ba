"""Where along the depth of a model an effect sits, and whether reasoning sits deeper than knowledge.

For the curve c of an effect over layers l = 0 .. n - 1, averaged over the items of a family,

    COM = sum_l l max(c_l, 0) / sum_l max(c_l, 0),

its centre of mass in layers; the statistic is COM of reasoning less COM of knowledge. Negative means
are cut to zero after averaging over items, never item by item, which would turn noise into mass.

Noise that is left in a mean curve, once cut, is mass still, and pulls COM toward the middle: so the
difference errs toward zero. Resampling adds the same pull again, so the interval is the reflected one,

    low, high = 2 COM - the (1 ± level)/2 quantiles of the resampled COM,

which takes it off, and may then leave the estimate outside. Measured, at 12 layers, 70 items and a
nominal 0.95: 0.94 with families 2 layers apart and little noise, 0.90 with noise half the peak in each
item, 0.75 with families 8 layers apart in that noise; percentiles give 0.84, 0.81 and 0.05.

A curve with no positive layer has no COM: the result is NaN and says which family and why. So is a
resample's; where those are more than a tail holds, the interval is NaN.

Source: the pre-registered statistic of this toolkit; Davison and Hinkley 1997, "Bootstrap Methods and
their Application", section 5.2 (the basic interval); Phipson and Smyth 2010, arXiv:1603.05766, for the
permutation's p-value.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64

from hooks.errors import InputError
from interp.stats import Interval, benjamini_hochberg

_BATCH = 1000
"""Resamples or relabellings at once."""


@dataclass(frozen=True)
class LayerDifference:
    """Reasoning less knowledge at one layer."""

    difference: Interval
    p_value: float
    """Two-sided, over the same relabellings as the statistic's."""

    q_value: float
    """Adjusted over the layers as Benjamini and Hochberg do."""


@dataclass(frozen=True)
class DepthDifference:
    """Where the effect sits in each family, and how much deeper for reasoning than for knowledge."""

    reasoning: Interval
    """COM in layers."""

    knowledge: Interval
    """COM in layers."""

    difference: Interval
    """``reasoning - knowledge``, in layers; above zero, reasoning sits deeper. ``n`` counts its items."""

    p_value: float
    """Two-sided, over relabellings of the items; NaN where the difference is undefined."""

    layers: tuple[LayerDifference, ...]
    paired: bool
    undefined: str | None
    """Why ``difference``, ``p_value`` or a bound is NaN; None where all are numbers."""

    @property
    def normalised(self) -> float:
        """The difference as a share of the depth, in [-1, 1]: 1 is from the first layer to the last."""
        return self.difference.estimate / (len(self.layers) - 1)


def center_of_mass(curve: Float[np.ndarray, "*batch layer"]) -> Float64[np.ndarray, "*batch"]:
    """``sum_l l max(c_l, 0) / sum_l max(c_l, 0)`` over the last axis, in layers; NaN without positive mass.

    Unchanged by the scale of the curve, as long as it is positive.
    """
    mass = np.clip(curve.astype(np.float64), 0, None)
    total = mass.sum(-1)
    mass = mass / np.where(total > 0, total, np.nan)[..., None]
    return np.asarray((mass * np.arange(curve.shape[-1])).sum(-1))


def center_interval(
    curve: Float[np.ndarray, " layer"],
    drawn: Float[np.ndarray, "draw layer"],
    *,
    n: int,
    level: float = 0.95,
) -> Interval:
    """The centre of mass of a curve, with the reflected interval of those of its resamples.

    For a curve that is no mean over items, such as the accuracy of a probe.

    Args:
        drawn: The curve of each resample.
        n: Items, or groups of them, that were resampled.
    """
    return _interval(center_of_mass(curve[None]), center_of_mass(drawn), n, level)


def depth_difference(
    reasoning: Float[np.ndarray, "_reasoning _layer"],
    knowledge: Float[np.ndarray, "_knowledge _layer"],
    *,
    paired: bool,
    n_resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> DepthDifference:
    """How much deeper the effect sits for reasoning than for knowledge: interval, p-value, and by layer.

    The interval is a reflected bootstrap over items: within each family, or over pairs where ``paired``.
    The p-value is the share of relabellings with a difference as far from zero, one added to both counts:
    labels are swapped within pairs, or dealt out anew over all items. A relabelling whose difference is
    undefined counts as far from zero.

    Args:
        reasoning: The effect on each item at each layer.
        knowledge: The same for the other family.
        paired: Whether item i of one family is matched to item i of the other.

    Raises:
        InputError: if the families differ in layers (or, paired, in items), have fewer than two of either
            or a value that is not finite, or there are too few resamples for ``level``.
    """
    reasoning, knowledge = _checked(reasoning, knowledge, paired, n_resamples, level)
    n, m = len(reasoning), len(knowledge)
    both = n if paired else n + m
    pooled = np.concatenate([reasoning, knowledge])
    rng = np.random.default_rng(seed)
    observed = np.stack([reasoning.mean(0), knowledge.mean(0)])[:, None]
    resampled, relabelled = (
        np.concatenate([make(n, m, paired, k, rng) @ pooled for k in _batches(n_resamples)], axis=1)
        for make in (_resample, _relabel)
    )
    (com, deeper), (drawn, drawn_deeper), (_, null) = map(_deeper, (observed, resampled, relabelled))
    gap, drawn_gap, null_gap = (curves[0] - curves[1] for curves in (observed, resampled, relabelled))
    p_layer = np.array([_p_value(gap[0, i], null_gap[:, i]) for i in range(pooled.shape[1])])
    found = {
        "reasoning": _interval(com[0], drawn[0], n, level),
        "knowledge": _interval(com[1], drawn[1], m, level),
        "difference": _interval(deeper, drawn_deeper, both, level),
    }
    return DepthDifference(
        **found,
        p_value=_p_value(deeper[0], null),
        layers=tuple(
            LayerDifference(_interval(gap[:, i], drawn_gap[:, i], both, level), float(p), float(q))
            for i, (p, q) in enumerate(zip(p_layer, benjamini_hochberg(p_layer), strict=True))
        ),
        paired=paired,
        undefined=_why(found, drawn),
    )


Curves = Float64[np.ndarray, "family draw layer"]
"""The mean curve of reasoning, then that of knowledge, under every draw."""

Weights = Float64[np.ndarray, "family draw item"]
"""What each item of both families counts for in each of the two mean curves."""


def _deeper(
    curves: Curves,
) -> tuple[Float64[np.ndarray, "family draw"], Float64[np.ndarray, " draw"]]:
    """The two centres of mass, and the first less the second."""
    com = center_of_mass(curves)
    return com, np.asarray(com[0] - com[1])


def _resample(n: int, m: int, paired: bool, draws: int, rng: np.random.Generator) -> Weights:
    weights = np.zeros((2, draws, n + m))
    weights[0, :, :n] = rng.multinomial(n, np.full(n, 1 / n), size=draws) / n
    weights[1, :, n:] = weights[0, :, :n] if paired else rng.multinomial(m, np.full(m, 1 / m), size=draws) / m
    return weights


def _relabel(n: int, m: int, paired: bool, draws: int, rng: np.random.Generator) -> Weights:
    labels = np.repeat([[True] * n + [False] * m], draws, axis=0)
    if paired:
        swap = rng.random((draws, n)) < 0.5
        labels ^= np.hstack([swap, swap])
    else:
        labels = rng.permuted(labels, axis=1)
    return np.stack([labels / n, ~labels / m])


def _batches(n_resamples: int) -> list[int]:
    whole, rest = divmod(n_resamples, _BATCH)
    return [_BATCH] * whole + [rest] * bool(rest)


def _p_value(observed: float, null: Float64[np.ndarray, " draw"]) -> float:
    if math.isnan(observed):
        return math.nan
    far = np.isnan(null) | (np.abs(null) >= abs(observed) * (1 - 1e-9))  # as far, but for rounding
    return float((1 + far.sum()) / (1 + len(null)))


def _interval(
    observed: Float64[np.ndarray, " one"], drawn: Float64[np.ndarray, " draw"], n: int, level: float
) -> Interval:
    tail = (1 - level) / 2
    defined = drawn[~np.isnan(drawn)]
    if np.isnan(observed[0]) or _too_few(drawn, level):
        return Interval(float(observed[0]), math.nan, math.nan, n, level)
    low, high = 2 * observed[0] - np.quantile(defined, [1 - tail, tail])
    return Interval(float(observed[0]), float(low), float(high), n, level)


def _too_few(drawn: Float64[np.ndarray, " draw"], level: float) -> bool:
    return bool(np.isnan(drawn).mean() > (1 - level) / 2)


def _why(found: dict[str, Interval], drawn: Float64[np.ndarray, "family draw"]) -> str | None:
    reasons = []
    for name, draws in zip(("reasoning", "knowledge"), drawn, strict=True):
        if math.isnan(found[name].estimate):
            reasons.append(f"the mean curve of {name} is above zero at no layer")
        elif math.isnan(found[name].low):
            share = np.isnan(draws).mean()
            reasons.append(f"the mean curve of {name} is above zero at no layer in {share:.0%} of resamples")
    if not reasons and math.isnan(found["difference"].low):
        reasons.append("together the two families have no positive layer in too many resamples")
    return "; ".join(reasons) or None


def _checked(
    reasoning: Float[np.ndarray, "_reasoning _layer"],
    knowledge: Float[np.ndarray, "_knowledge _layer"],
    paired: bool,
    n_resamples: int,
    level: float,
) -> tuple[Float64[np.ndarray, "_reasoning layer"], Float64[np.ndarray, "_knowledge layer"]]:
    if reasoning.shape[1] != knowledge.shape[1]:
        raise InputError(
            f"reasoning has {reasoning.shape[1]} layers and knowledge {knowledge.shape[1]}; pass the "
            "curves of one model."
        )
    if reasoning.shape[1] < 2:
        raise InputError("A model of one layer has no depth to compare; pass curves of two layers or more.")
    if paired and len(reasoning) != len(knowledge):
        raise InputError(
            f"Paired families need as many items; got {len(reasoning)} and {len(knowledge)}. Keep the items "
            "that have a partner, or pass paired=False."
        )
    for name, curves in (("reasoning", reasoning), ("knowledge", knowledge)):
        if len(curves) < 2:
            raise InputError(f"{name} has {len(curves)} items; an interval over items needs 2 or more.")
        if not np.isfinite(curves).all():
            item = int(np.flatnonzero(~np.isfinite(curves).all(1))[0])
            raise InputError(
                f"{name} has a NaN or infinite effect, first of item {item}. Leave that item out, and its "
                "partner with it."
            )
    if not 0 < level < 1:
        raise InputError(f"level must lie strictly between 0 and 1, such as 0.95; got {level}.")
    if n_resamples < (fewest := math.ceil(2 / (1 - level) - 1e-9)):
        raise InputError(f"n_resamples must be at least {fewest} at level {level}; got {n_resamples}.")
    return reasoning.astype(np.float64), knowledge.astype(np.float64)
