"""Ablation equals the slow loop; a part that does nothing loses nothing."""

import numpy as np
import pytest
import torch

from hooks.capture import run_to
from hooks.errors import InputError
from hooks.load import adopt
from hooks.rows import pad_left
from hooks.sites import Site
from interp.ablation import ablate, mean_contributions
from interp.controls import redirected
from interp.prompt_pairs import answer_logprob


@torch.no_grad()
def by_hand(lm, pair, layer, part, span, values):
    """One unpadded run in which hooks on the model's own modules write ``values[kind]``."""
    inputs = pad_left([pair.clean], [0], pad_id=lm.pad_id, device=lm.device).inputs
    block, handles = lm.anatomy.blocks[layer], []

    def writer(value):
        def write(_module, _args, out):
            hidden = (out[0] if isinstance(out, tuple) else out).clone()
            hidden[:, slice(*span)] = value
            return (hidden, *out[1:]) if isinstance(out, tuple) else hidden

        return write

    for kind, module in (("attn_out", block.attention), ("mlp_out", block.mlp)):
        if part in (kind, "both"):
            handles.append(module.register_forward_hook(writer(values[kind])))
    try:
        logits = lm.model(**inputs, use_cache=False).logits[:, -1]
    finally:
        for handle in handles:
            handle.remove()
    return float(answer_logprob(logits, [pair]))


def contributions(lm, pair, layer, span):
    batch = pad_left([pair.clean], [0], pad_id=lm.pad_id, device=lm.device)
    sites = {kind: Site(layer, kind) for kind in ("attn_out", "mlp_out")}
    acts = run_to(lm, batch, sites.values())
    return {kind: acts[site][0, slice(*span)] for kind, site in sites.items()}


@pytest.mark.parametrize("part", ["attn_out", "mlp_out", "both"])
@pytest.mark.parametrize("where", ["subject", "last", "all"])
def test_zero_and_mean_equal_a_loop_of_full_runs(lm, pairs, part, where):
    layers = (0, 2)
    found = {
        r: ablate(lm, pairs, part=part, replacement=r, where=where, layers=layers) for r in ("zero", "mean")
    }
    for j, layer in enumerate(layers):
        each = [contributions(lm, pair, layer, pair.span(where)) for pair in pairs]
        mean = {kind: torch.cat([c[kind] for c in each]).mean(0) for kind in ("attn_out", "mlp_out")}
        for i, pair in enumerate(pairs):
            for replacement, values in (("zero", dict.fromkeys(mean, 0.0)), ("mean", mean)):
                expected = by_hand(lm, pair, layer, part, pair.span(where), values)
                assert found[replacement].ablated.logprob[i, j] == pytest.approx(expected, abs=2e-3)


def test_resampling_takes_another_prompts_contribution(lm, pairs):
    two = pairs[:2]
    found = ablate(lm, two, part="both", replacement="resample", where="last", layers=[1])
    for i, pair in enumerate(two):
        n = len(two[1 - i])
        values = contributions(lm, two[1 - i], 1, (n - 1, n))
        expected = by_hand(lm, pair, 1, "both", (len(pair) - 1, len(pair)), values)
        assert found.ablated.logprob[i, 0] == pytest.approx(expected, abs=2e-3)


def test_the_partner_gives_what_the_block_adds_in_the_other_prompt(lm, pairs):
    found = ablate(lm, pairs, replacement="partner", where="all", layers=[0, 2])
    for i, pair in enumerate(pairs):
        for j, layer in enumerate((0, 2)):
            values = contributions(lm, pair.swapped, layer, (0, len(pair)))
            expected = by_hand(lm, pair, layer, "both", (0, len(pair)), values)
            assert found.ablated.logprob[i, j] == pytest.approx(expected, abs=2e-3)


def test_means_of_other_prompts_can_be_put_in(lm, pairs):
    others = mean_contributions(lm, pairs[1:], where="last")
    found = ablate(lm, pairs[:1], where="last", means=others, layers=[1])
    values = {kind: others[Site(1, kind)] for kind in ("attn_out", "mlp_out")}
    n = len(pairs[0])
    expected = by_hand(lm, pairs[0], 1, "both", (n - 1, n), values)
    assert found.ablated.logprob[0, 0] == pytest.approx(expected, abs=2e-3)
    assert not np.allclose(found.ablated.logprob, ablate(lm, pairs[:1], layers=[1]).ablated.logprob)


def test_the_floor_is_a_change_of_the_same_norm(lm, pairs):
    pair, span = pairs[1], pairs[1].subject
    found = ablate(lm, [pair], part="mlp_out", replacement="zero", where="subject", layers=[1], floor=5)
    own = contributions(lm, pair, 1, span)["mlp_out"]
    change = torch.cat([torch.zeros(span[0], own.shape[1]), -own])
    values = {"mlp_out": own + redirected(change, seed=5, draw=(0, 0))[span[0] :]}
    expected = by_hand(lm, pair, 1, "mlp_out", span, values)
    assert found.ablated.logprob[0, 0] == pytest.approx(expected, abs=2e-3)


def test_a_block_that_adds_nothing_loses_nothing_and_the_one_that_answers_loses_all(
    model_of, tokenizer_with, pairs
):
    """Planted: the answer is written by the last MLP alone, as a constant; the others add nothing."""
    lm = adopt(model_of("gpt2"), tokenizer_with())
    pair = pairs[0]
    with torch.no_grad():
        for block in lm.anatomy.blocks:
            for out in (block.attention.c_proj, block.mlp.c_proj):
                out.weight.zero_()
                out.bias.zero_()
        head = lm.model.get_output_embeddings().weight
        lm.anatomy.blocks[2].mlp.c_proj.bias.copy_(5 * head[pair.answer] / head[pair.answer].norm())
    drop = ablate(lm, [pair], part="mlp_out", replacement="zero").drop[0]
    assert np.abs(drop[:2]).max() < 1e-5
    assert drop[2] > 1
    assert np.abs(ablate(lm, pairs, part="mlp_out", replacement="mean").drop).max() < 1e-4, (
        "constant: its own mean"
    )
    assert np.abs(ablate(lm, [pair], part="attn_out", replacement="zero").drop).max() < 1e-5


def test_it_does_not_depend_on_what_else_runs(llama, pairs):
    together = ablate(llama, pairs, replacement="zero", where="subject").drop
    apart = [ablate(llama, [pair], replacement="zero", where="subject").drop[0] for pair in pairs]
    np.testing.assert_allclose(together, apart, atol=1e-4)


def test_what_cannot_be_ablated_is_refused(llama, pairs):
    with pytest.raises(InputError, match="at least one pair"):
        ablate(llama, [])
    with pytest.raises(InputError, match="pass two or more pairs"):
        ablate(llama, pairs[:1], replacement="resample")
