"""Patching equals the slow loop, and what must be one or nought is."""

import numpy as np
import pytest
import torch

from hooks.capture import capture, run_to
from hooks.edits import Patch
from hooks.errors import InputError, SiteNotFoundError
from hooks.replay import Replay, Variant
from hooks.rows import Row, pad_left
from hooks.sites import Site
from interp.controls import redirected
from interp.patching import patch
from interp.prompt_pairs import PromptPair, answer_logprob, logit_difference


@torch.no_grad()
def by_hand(lm, pair, site, span, *, noising):
    """Both runs alone, unpadded; one hook on the model's own module writes the other's values."""
    source, base = (pair.corrupted, pair.clean) if noising else (pair.clean, pair.corrupted)
    runs = [pad_left([row], [0], pad_id=lm.pad_id, device=lm.device).inputs for row in (source, base)]
    with capture(lm, [site]) as acts:
        first = lm.model(**runs[0], use_cache=False).logits[:, -1]
    values = acts[site].clone()
    block = lm.anatomy.blocks[site.layer]
    module = {"attn_out": block.attention, "mlp_out": block.mlp, "resid_post": block.module}[site.kind]

    def write(_module, _args, out):
        hidden = (out[0] if isinstance(out, tuple) else out).clone()
        hidden[:, slice(*span)] = values[:, slice(*span)]
        return (hidden, *out[1:]) if isinstance(out, tuple) else hidden

    plain = lm.model(**runs[1], use_cache=False).logits[:, -1]
    handle = module.register_forward_hook(write)
    try:
        patched = lm.model(**runs[1], use_cache=False).logits[:, -1]
    finally:
        handle.remove()
    m = [float(logit_difference(logits, [pair])) for logits in (first, plain, patched)]
    return (m[2] - m[1]) / (m[0] - m[1]), float(answer_logprob(patched, [pair]))


@pytest.mark.parametrize("where", ["subject", "last", "all"])
@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_every_site_equals_a_loop_of_full_runs(lm, pairs, where, direction):
    kinds = ("attn_out", "mlp_out", "resid_post")
    made = patch(lm, pairs, kinds=kinds, layers=(0, 2), where=where, direction=direction)
    assert [str(s) for s in made.sites[:2]] == ["blocks.0.hook_attn_out", "blocks.2.hook_attn_out"]
    for i, pair in enumerate(pairs):
        for j, site in enumerate(made.sites):
            recovery, logprob = by_hand(lm, pair, site, pair.span(where), noising=direction == "noising")
            assert made.patched.logprob[i, j] == pytest.approx(logprob, abs=1e-3)
            if made.usable[i]:
                assert made.recovery[i, j] == pytest.approx(recovery, abs=2e-3, rel=2e-3)


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_a_whole_residual_stream_recovers_all_from_every_layer(lm, pairs, direction):
    made = patch(lm, pairs, kinds=("resid_pre", "resid_post"), where="all", direction=direction)
    assert made.usable.any()
    np.testing.assert_allclose(made.recovery[made.usable], 1, atol=5e-3)


def test_what_the_prompts_differ_in_recovers_all_before_the_first_block(lm, pairs):
    made = patch(lm, pairs, kinds=("resid_pre",), layers=[0], where="subject")
    np.testing.assert_allclose(made.recovery[made.usable], 1, atol=5e-3)


def test_the_last_token_recovers_all_after_the_last_block_and_nothing_before_the_first(lm, pairs):
    after = patch(lm, pairs, layers=[-1], where="last")
    np.testing.assert_allclose(after.recovery[after.usable], 1, atol=5e-3)
    before = patch(lm, pairs, kinds=("resid_pre",), layers=[0], where="last")
    np.testing.assert_allclose(before.recovery[before.usable], 0, atol=5e-3)


def test_noising_patches_the_run_that_denoising_patches_from(llama, pairs):
    one, other = (patch(llama, pairs, direction=direction) for direction in ("denoising", "noising"))
    np.testing.assert_allclose(one.base.logprob, other.source.logprob, atol=1e-4)
    np.testing.assert_allclose(one.source.logit_difference, other.base.logit_difference, atol=1e-4)


def test_it_does_not_depend_on_what_else_runs(llama, pairs):
    together = patch(llama, pairs, where="subject")
    for i, pair in enumerate(pairs):
        alone = patch(llama, [pair], where="subject")
        np.testing.assert_allclose(alone.patched.logprob[0], together.patched.logprob[i], atol=1e-4)


def test_two_runs_that_answer_alike_give_no_ratio(llama, pairs):
    pair = pairs[0]
    alike = PromptPair(pair.clean, pair.clean, pair.answer, pair.corrupted_answer, pair.subject)
    made = patch(llama, [alike, pairs[1]])
    assert made.usable.tolist() == [False, True]
    assert np.isnan(made.recovery[0]).all()
    assert "1 of 2 pairs" in repr(made)


def test_what_cannot_be_patched_is_refused(tiny, llama, pairs):
    with pytest.raises(InputError, match="at least one pair and one site"):
        patch(llama, [])
    with pytest.raises(SiteNotFoundError, match=r"layers 0\.\.2"):
        patch(llama, pairs, layers=[3])
    with pytest.raises(SiteNotFoundError, match="in parallel"):
        patch(tiny("phi"), pairs, kinds=("resid_mid",))


def test_prompts_that_do_not_match_are_refused():
    short, long = Row((8, 9), 2), Row((8, 9, 10), 3)
    with pytest.raises(InputError, match="patching needs equal lengths"):
        PromptPair(short, long, 1, 2, (0, 1))
    with pytest.raises(InputError, match="Both prompts of a pair ask for token 1"):
        PromptPair(short, short, 1, 1, (0, 1))
    with pytest.raises(InputError, match="subject 1:3 is not inside a prompt of 2 tokens"):
        PromptPair(short, short, 1, 2, (1, 3))


def test_the_floor_puts_in_a_change_of_the_same_norm(lm, pairs):
    """By hand: one pair, one layer, the change at the subject turned to the direction that was drawn."""
    site, (pair, *_) = Site(1, "resid_post"), pairs
    found = patch(lm, [pair], layers=[1], where="subject", floor=9)
    stop = pair.subject[1]
    clean, corrupted = (
        run_to(lm, pad_left([row], [0], pad_id=lm.pad_id, device=lm.device), [site])[site][0, :stop]
        for row in (pair.clean, pair.corrupted)
    )
    change = redirected(clean - corrupted, seed=9, draw=(0, 0))
    batch = pad_left([pair.corrupted], [0], pad_id=lm.pad_id, device=lm.device)
    by_hand = Replay(lm, batch).run(
        [Variant(0, (Patch(site, corrupted + change, pair.positions("subject")),))],
        lambda logits, _: logit_difference(logits, [pair]),
    )
    assert found.patched.logit_difference[0, 0] == pytest.approx(float(by_hand.values[0]), abs=1e-4)
    assert found.patched.logit_difference[0, 0] != pytest.approx(
        patch(lm, [pair], layers=[1], where="subject").patched.logit_difference[0, 0], abs=1e-4
    )
