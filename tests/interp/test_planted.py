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
from tests.interp.planted import N_LAYERS, TASK, planted  # noqa: TID251  (a helper of the tests)

PARTS = ("attn_out", "mlp_out")
SLACK = 0.02
"""Layers. What the blocks of noise may move a centre of mass by; 0.006 in 264 curves of 12 models."""


@pytest.fixture(scope="module", params=[(1, 4), (4, 1), (3, 3)], ids=["below", "above", "in-one"])
def model(request):
    """Knowledge in a block below that of reasoning, above it, and in the same."""
    return planted(*request.param)


@pytest.fixture(params=list(TASK))
def family(request):
    return request.param


def found_at(curves, block):
    """Whether the mean curve peaks at the block, and is next to nothing at every other."""
    mean = curves.mean(0)
    return mean.argmax() == block and np.abs(np.delete(mean, block)).max() < 0.05 * mean[block]


# --- curves, [pairs, layers]


@cache
def steps(model, family, where="last", direction="denoising"):
    """By how much the recovery rises from one layer to the next; at the subject, falls."""
    recovery = patch(model.lm, model.pairs[family], where=where, direction=direction).recovery
    return np.diff(recovery, prepend=0) if where == "last" else -np.diff(recovery, prepend=1)


@cache
def block_local(model, family, direction="denoising"):
    """What the attention and the MLP of each block recover, each patched alone; summed."""
    return summed(patch(model.lm, model.pairs[family], kinds=PARTS, direction=direction).recovery)


@cache
def drop(model, family, replacement="mean"):
    return ablate(model.lm, model.pairs[family], replacement=replacement).drop


def summed(effect):
    return effect.reshape(len(effect), len(PARTS), N_LAYERS).sum(1)


CURVES = {"ablation": drop, "block-local": block_local, "steps": steps}


@pytest.fixture(params=list(CURVES))
def curves(request, model):
    """Reasoning's, then knowledge's."""
    return tuple(CURVES[request.param](model, family) for family in ("reasoning", "knowledge"))


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
    found = attribute(model.lm, model.pairs[family], kinds=PARTS, where="all", steps=8)
    assert found_at(summed(found.recovery), model.block[family])


def test_attribution_agrees_with_exact_patching(model, family):
    """The slope at the base run ranks all sites; its mean on the way to the source misjudges fewer nats.

    Ten of the twelve sites are noise, and their ranks most of a rank correlation: along the way, where no
    prompt is, noise is another than in either prompt.
    """
    pairs = model.pairs[family][:32]
    one, many = (
        attribute(model.lm, pairs, kinds=PARTS, where="all", steps=n).against(model.lm, pairs, n=32)
        for n in (1, 8)
    )
    assert one.rank_correlation > 0.8
    assert many.rank_correlation > 0.5
    assert many.largest < 0.75 * one.largest
    assert one.at.layer == many.at.layer == model.block[family]


def test_the_lens_settles_at_the_planted_block(model, family):
    pairs = model.pairs[family]
    settled = logit_lens(model.lm, [p.clean for p in pairs], [p.answer for p in pairs]).settled
    assert settled.min() >= model.block[family]
    assert np.median(settled) == model.block[family]


# --- how much deeper reasoning is answered


def test_the_depth_between_the_families_is_that_of_their_blocks(model, curves):
    """So its sign flips where the blocks are exchanged; of one block, it is zero."""
    found = depth_difference(*curves, paired=True, n_resamples=1000)
    planted_depth = model.block["reasoning"] - model.block["knowledge"]
    interval = found.difference
    assert interval.estimate == pytest.approx(planted_depth, abs=SLACK)
    assert interval.low - SLACK <= planted_depth <= interval.high + SLACK
    assert found.undefined is None
    if planted_depth:
        assert interval.excludes_zero
        assert found.p_value < 0.01


def test_families_of_one_block_are_not_told_apart():
    """Nominally one interval of twenty misses zero; these share their items, and miss it together."""
    model = planted(3, 3)
    intervals = [
        depth_difference(*(curve(model, f, *how) for f in ("reasoning", "knowledge")), paired=True).difference
        for curve, ways in (
            (drop, [("zero",), ("mean",), ("resample",)]),
            (block_local, [("denoising",), ("noising",)]),
            (steps, [(w, d) for w in ("last", "subject") for d in ("denoising", "noising")]),
        )
        for how in ways
    ]
    assert sum(interval.excludes_zero for interval in intervals) <= 2


def significant(curves, swapped):
    """Of 100 runs in which each pair's labels are swapped with this probability."""
    count = 0
    for seed in range(100):
        swap = np.random.default_rng(seed).random(len(curves[0])) < swapped
        relabelled = (np.where(swap[:, None], *both) for both in (curves, curves[::-1]))
        found = depth_difference(*relabelled, paired=True, n_resamples=199, seed=1000 + seed)
        count += found.p_value <= 0.05
    return count


def test_shuffled_labels_are_significant_no_more_often_than_they_may_be(curves):
    """More than 12 of 100 come by chance in less than one such test of a thousand."""
    assert 0 < significant(curves, 0.5) <= binom.ppf(0.999, 100, 0.05)


def test_labels_that_are_shuffled_by_half_are_caught(model):
    """The count above can fail: with one label in four false, nearly every run is significant."""
    if model.block["reasoning"] != model.block["knowledge"]:
        assert significant((drop(model, "reasoning"), drop(model, "knowledge")), 0.25) > 90
