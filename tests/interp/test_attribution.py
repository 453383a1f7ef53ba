"""Attribution is the slope of patching; integrated, it adds up."""

import numpy as np
import pytest
import torch

from hooks.capture import run_to
from hooks.edits import Add
from hooks.errors import InputError
from hooks.inject import inject
from hooks.positions import first
from hooks.rows import pad_left
from interp.attribution import attribute
from interp.patching import patch
from interp.prompt_pairs import logit_difference


@torch.no_grad()
def test_it_is_the_derivative_of_patching_on_every_family(lm, pairs):
    """A small step from base to source at one site changes the logit difference by step x attribution."""
    pair, size = pairs[0], 1e-3
    kinds = ("attn_out", "mlp_out", "resid_pre", "resid_post")
    found = attribute(lm, [pair], kinds=kinds, where="all")
    batches = [
        pad_left([row], [0], pad_id=lm.pad_id, device=lm.device) for row in (pair.clean, pair.corrupted)
    ]
    clean, corrupted = (run_to(lm, batch, found.sites) for batch in batches)
    for column, site in enumerate(found.sites):
        shift = clean[site][0] - corrupted[site][0]
        ends = []
        for sign in (1, -1):
            edits = [
                Add(site, shift[i], scale=sign * size, positions=_at(i))
                for i in range(len(pair))
                if shift[i].any()
            ]
            with inject(lm, edits):
                logits = lm.model(**batches[1].inputs, use_cache=False).logits[:, -1]
            ends.append(float(logit_difference(logits, [pair])))
        slope = (ends[0] - ends[1]) / (2 * size)
        assert found.effect[0, column] == pytest.approx(slope, rel=5e-2, abs=5e-2), site


def _at(i):
    return first(i + 1) - first(i) if i else first(1)


def test_integrated_over_the_input_it_adds_up_to_the_gap(lm, pairs):
    """Of the first pair, whose line of inputs keeps clear of zero, where a norm turns sharply."""
    one, many = (
        attribute(lm, pairs[:1], kinds=("resid_pre",), layers=[0], where="all", steps=n) for n in (1, 200)
    )
    np.testing.assert_allclose(many.effect[:, 0], many.gap, rtol=0.05, atol=0.05)
    assert abs(one.effect[0, 0] - one.gap[0]) > abs(many.effect[0, 0] - many.gap[0])


def test_where_the_model_is_linear_it_is_exact_patching(llama, pairs):
    """After the last block, at the last token, a small patch is all that there is but for the norm."""
    exact = patch(llama, pairs, layers=[-1], where="last")
    one, many = (attribute(llama, pairs, layers=[-1], where="last", steps=n) for n in (1, 64))
    np.testing.assert_allclose(
        many.gap, exact.source.logit_difference - exact.base.logit_difference, atol=1e-3
    )
    assert one.effect.shape == (3, 1)


def test_the_spans_of_a_prompt_add_up(llama, pairs):
    every = attribute(llama, pairs, where="all").effect
    last, subject = (attribute(llama, pairs, where=where).effect for where in ("last", "subject"))
    assert not np.allclose(last, every)
    assert not np.allclose(subject, every)
    alone = [attribute(llama, [pair], where="subject").effect[0] for pair in pairs]
    np.testing.assert_allclose(alone, subject, atol=1e-3, rtol=1e-3)


def test_it_is_held_against_exact_patching(llama, pairs):
    kinds = ("attn_out", "mlp_out")
    found = attribute(llama, pairs, kinds=kinds, where="last")
    agreement = found.against(llama, pairs)
    exact = patch(llama, pairs, kinds=kinds, where="last")
    off = np.abs(found.effect - (exact.patched.logit_difference - exact.base.logit_difference[:, None]))
    assert agreement.n == 3
    assert agreement.largest == pytest.approx(off.max(), abs=1e-3)
    assert agreement.at == found.sites[int(off.max(0).argmax())]
    assert -1 <= agreement.rank_correlation <= 1
    assert "largest disagreement" in str(agreement)


def test_the_model_keeps_no_gradient(llama, pairs, hook_count):
    before = hook_count(llama.model)
    attribute(llama, pairs)
    assert hook_count(llama.model) == before
    assert all(parameter.grad is None for parameter in llama.model.parameters())


def test_what_cannot_be_attributed_is_refused(llama, pairs):
    with pytest.raises(InputError, match="one pair, one site and one step"):
        attribute(llama, pairs, steps=0)
    with pytest.raises(InputError, match="2 pairs for an attribution of 3"):
        attribute(llama, pairs).against(llama, pairs[:2])


def test_the_floor_has_no_sign_and_is_smaller_than_what_a_meant_change_does(lm, pairs):
    """A random direction has a slope of mean zero; over many draws neither sign wins."""
    sites = {"kinds": ("resid_post",), "where": "all"}
    drawn = np.stack([attribute(lm, pairs, **sites, floor=seed).effect for seed in range(20)])
    meant = attribute(lm, pairs, **sites).effect
    spread = drawn.std(0)
    assert (np.abs(drawn.mean(0)) < 4 * spread / np.sqrt(20)).mean() > 0.9
    assert not np.allclose(drawn[0], meant)
    np.testing.assert_array_equal(drawn[3], attribute(lm, pairs, **sites, floor=3).effect)
