"""Planted truth: every method finds the block that answers a family, and the depth between two families."""

from functools import cache

import numpy as np
import pytest
from scipy.stats import binom

from interp.ablation import ablate
from interp.attribution import attribute
from interp.depth import depth_difference
from interp.lens import logit_lens
from interp.patching import patch
from tests.interp.planted import N_LAYERS, TASK, planted

PARTS = ("attn_out", "mlp_out")
N_PAIRS = 40
SLACK = 0.02
"""Layers. What the blocks of noise may move a centre of mass by; 0.006 in 264 curves of 12 models."""


@pytest.fixture(scope="module", params=[(1, 4), (4, 1), (3, 3)], ids=["below", "above", "in-one"])
def model(request):
    """Knowledge in a block below that of reasoning, above it, and in the same."""
    return planted(*request.param)


@pytest.fixture(params=list(TASK))
def family(request):
    return request.param


def pairs_of(model, family):
    return model.pairs[family][:N_PAIRS]


def found_at(curves, block):
    """Whether the mean curve peaks at the block, and is next to nothing at every other."""
    mean = curves.mean(0)
    return mean.argmax() == block and np.abs(np.delete(mean, block)).max() < 0.05 * mean[block]


# --- curves, [pairs, layers]


@cache
def steps(model, family, where, direction):
    """By how much the recovery rises from one layer to the next; at the subject, falls."""
    recovery = patch(model.lm, pairs_of(model, family), where=where, direction=direction).recovery
    return np.diff(recovery, prepend=0) if where == "last" else -np.diff(recovery, prepend=1)


@cache
def block_local(model, family, direction):
    """What the attention and the MLP of each block recover, each patched alone; summed."""
    return summed(patch(model.lm, pairs_of(model, family), kinds=PARTS, direction=direction).recovery)


@cache
def drop(model, family, replacement):
    return ablate(model.lm, pairs_of(model, family), replacement=replacement).drop


def summed(effect):
    return effect.reshape(len(effect), len(PARTS), N_LAYERS).sum(1)


CURVES = [
    *((drop, replacement) for replacement in ("zero", "mean", "resample")),
    *((block_local, direction) for direction in ("denoising", "noising")),
    *((steps, where, direction) for where in ("last", "subject") for direction in ("denoising", "noising")),
]
ONE_OF_EACH = [(drop, "mean"), (block_local, "denoising"), (steps, "last", "denoising")]


def named(curve):
    return "-".join([curve[0].__name__, *curve[1:]])


def both(model, curve):
    """Reasoning's, then knowledge's."""
    method, *how = curve
    return tuple(method(model, family, *how) for family in ("reasoning", "knowledge"))


# --- where a family is answered


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("where", ["subject", "last"])
def test_recovery_steps_at_the_planted_block(model, family, where, direction):
    step = steps(model, family, where, direction)
    assert found_at(step, model.block[family])
    assert step.mean(0)[model.block[family]] == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_the_planted_block_alone_recovers_the_answer(model, family, direction):
    assert found_at(block_local(model, family, direction), model.block[family])


@pytest.mark.parametrize("replacement", ["zero", "mean", "resample"])
def test_the_answer_is_lost_with_the_planted_block_alone(model, family, replacement):
    lost = drop(model, family, replacement)
    assert found_at(lost, model.block[family])
    assert lost.mean(0)[model.block[family]] > 1


def test_attribution_is_largest_at_the_planted_block(model, family):
    found = attribute(model.lm, pairs_of(model, family), kinds=PARTS, where="all", steps=8)
    assert found_at(summed(found.recovery), model.block[family])


def test_attribution_agrees_with_exact_patching(model, family):
    """The slope at the base run ranks all sites; its mean on the way to the source misjudges fewer nats.

    Ten of the twelve sites are noise, and their ranks most of a rank correlation: along the way, where no
    prompt is, noise is another than in either prompt.
    """
    pairs = pairs_of(model, family)
    one, many = (
        attribute(model.lm, pairs, kinds=PARTS, where="all", steps=n).against(model.lm, pairs, n=N_PAIRS)
        for n in (1, 8)
    )
    assert one.rank_correlation > 0.8
    assert many.rank_correlation > 0.5
    assert many.largest < 0.75 * one.largest
    assert one.at.layer == many.at.layer == model.block[family]


def test_the_lens_settles_at_the_planted_block(model, family):
    pairs = pairs_of(model, family)
    settled = logit_lens(model.lm, [p.clean for p in pairs], [p.answer for p in pairs]).settled
    assert settled.min() >= model.block[family]
    assert np.median(settled) == model.block[family]


# --- how much deeper reasoning is answered


@pytest.mark.parametrize("curve", CURVES, ids=named)
def test_the_depth_between_the_families_is_that_of_their_blocks(model, curve):
    """So its sign flips where the blocks are exchanged; of one block, it is zero."""
    found = depth_difference(*both(model, curve), paired=True, n_resamples=1000)
    planted_depth = model.block["reasoning"] - model.block["knowledge"]
    interval = found.difference
    assert interval.estimate == pytest.approx(planted_depth, abs=SLACK)
    assert interval.low - SLACK <= planted_depth <= interval.high + SLACK
    assert found.undefined is None
    if planted_depth:
        assert interval.excludes_zero
        assert found.p_value < 0.01


@pytest.mark.parametrize("curve", CURVES, ids=named)
def test_families_of_one_block_are_not_told_apart(curve):
    """Where the other blocks add exactly nothing, since noise is not the same to both; but for rounding."""
    model = planted(3, 3, noise=0.0)
    interval = depth_difference(*both(model, curve), paired=True, n_resamples=1000).difference
    assert interval.low - 1e-6 <= 0 <= interval.high + 1e-6
    assert interval.high - interval.low < 1e-5


def significant(curves, swapped):
    """Of 100 runs in which each pair's labels are swapped with this probability."""
    count = 0
    for seed in range(100):
        swap = np.random.default_rng(seed).random(N_PAIRS) < swapped
        relabelled = (np.where(swap[:, None], *order) for order in (curves, curves[::-1]))
        found = depth_difference(*relabelled, paired=True, n_resamples=199, seed=1000 + seed)
        count += found.p_value <= 0.05
    return count


@pytest.mark.parametrize("curve", ONE_OF_EACH, ids=named)
def test_shuffled_labels_are_significant_no_more_often_than_they_may_be(model, curve):
    """More than 13 of 100 come by chance in one such test of two thousand, none in one of 170."""
    assert 0 < significant(both(model, curve), 0.5) <= binom.ppf(0.999, 100, 0.05)


def test_labels_that_are_half_shuffled_are_caught():
    """The count above can fail: with one label in four false, most runs are significant."""
    assert significant(both(planted(1, 4), ONE_OF_EACH[0]), 0.25) > 50
