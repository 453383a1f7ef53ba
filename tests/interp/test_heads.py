"""Both engines agree where they overlap, a planted head is found, and the user's model is left as it was."""

import copy
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import HeliumConfig, HeliumForCausalLM

from hooks import Add, Patch, Site, adopt, capture, inject, load
from hooks.errors import InputError, ModelRefusedError
from hooks.positions import everything, first, last
from hooks.rows import Row
from interp import heads as module
from interp.heads import bridge, patch_heads, shared_copy
from interp.prompt_pairs import PromptPair, logit_difference

pytest.importorskip("transformer_lens")

WHERE = {
    "last": lambda _: last(1),
    "subject": lambda p: first(p.subject[1]) - first(p.subject[0]),
    "all": lambda _: everything,
}


def make_pairs(*lengths, seed=0, d_vocab=111):
    """Pairs of random prompts that differ in positions 1 and 2, with random answers."""
    rng = np.random.default_rng(seed)
    pairs = []
    for length in lengths:
        clean = rng.integers(6, d_vocab, length).tolist()
        corrupted = [*clean[:1], *rng.integers(6, d_vocab, 2).tolist(), *clean[3:]]
        a, b = (int(i) for i in rng.choice(d_vocab, 2, replace=False))
        pairs.append(PromptPair(Row(tuple(clean), length), Row(tuple(corrupted), length), a, b, (1, 3)))
    return pairs


PAIRS = make_pairs(7, 9, 7)


def difference(lm, row, pair):
    with torch.no_grad():
        return float(
            logit_difference(lm.model(torch.tensor([row.tokens]), use_cache=False).logits[:, -1], [pair])[0]
        )


def recovery(lm, pair, edit):
    """By our own engine: the recovery of the logit difference under an edit of the corrupted run."""
    clean, corrupted = difference(lm, pair.clean, pair), difference(lm, pair.corrupted, pair)
    with inject(lm, [edit]):
        patched = difference(lm, pair.corrupted, pair)
    return (patched - corrupted) / (clean - corrupted)


def attn_out(lm, layer, row):
    site = Site(layer, "attn_out")
    with torch.no_grad(), capture(lm, [site]) as acts:
        lm.model(torch.tensor([row.tokens]), use_cache=False)
    return acts[site][0].clone()


def whole_layers(lm):
    n = lm.model.config.num_attention_heads
    return [[(layer, head) for head in range(n)] for layer in range(lm.n_layers)]


# --- independent code


@pytest.mark.parametrize("where", WHERE)
def test_all_heads_of_a_layer_are_its_attn_out_in_our_engine(lm, where):
    """On every family; sandwich norms come after the heads, and the site after the norms."""
    found = patch_heads(lm, PAIRS, where=where, sets=whole_layers(lm), smallest=1e-3)
    assert found.pairs == (0, 1, 2)
    for number, pair in enumerate(PAIRS):
        for layer in range(lm.n_layers):
            values = attn_out(lm, layer, pair.clean)
            edit = Patch(Site(layer, "attn_out"), values, positions=WHERE[where](pair))
            expected = recovery(lm, pair, edit)
            assert found.recovery[number, layer] == pytest.approx(expected, abs=2e-3, rel=2e-3)


def test_one_head_is_its_slice_of_the_output_projection(llama):
    """attn_out = sum of W_O z over heads, so one head's patch is a vector added to attn_out."""
    pair, d_head = PAIRS[0], 8
    found = patch_heads(llama, [pair], smallest=1e-3)
    for (layer, head), value in found.by_head.items():
        project = llama.model.model.layers[layer].self_attn.o_proj
        z = []
        handle = project.register_forward_pre_hook(lambda _m, args, z=z: z.append(args[0][0, -1].clone()))
        for row in (pair.clean, pair.corrupted):
            difference(llama, row, pair)
        handle.remove()
        part = slice(head * d_head, (head + 1) * d_head)
        with torch.no_grad():
            moved = project.weight[:, part] @ (z[0] - z[1])[part]
        edit = Add(Site(layer, "attn_out"), moved, positions=last(1))
        assert value == pytest.approx(recovery(llama, pair, edit), abs=1e-3, rel=1e-3)


# --- planted truth


@pytest.mark.parametrize("planted", [(0, 1), (2, 3)])
def test_a_planted_head_is_the_only_one_that_recovers(planted, model_of, llama):
    """All other heads write nothing, so what the last position knows of the subject came through this one."""
    model = model_of("llama")
    layer, head = planted
    with torch.no_grad():
        for number, block in enumerate(model.model.layers):
            keep = torch.zeros(32)
            if number == layer:
                keep[8 * head : 8 * head + 8] = 1
            block.self_attn.o_proj.weight.mul_(keep)
    lm = adopt(model, llama.tokenizer, name="planted")
    found = patch_heads(lm, PAIRS, smallest=1e-2)
    for one, value in found.by_head.items():
        assert value == pytest.approx(1.0 if one == planted else 0.0, abs=1e-3)
    interval = found.interval(planted)
    assert interval.n == len(found.pairs) >= 2
    assert interval.estimate == pytest.approx(1, abs=1e-3)


# --- invariance


def test_the_answer_does_not_depend_on_the_batch(llama):
    together = patch_heads(llama, PAIRS)
    for number, pair in enumerate(PAIRS):
        alone = patch_heads(llama, [pair], max_rows=1)
        np.testing.assert_allclose(together.recovery[number], alone.recovery[0], atol=1e-4)
        assert together.clean[number] == pytest.approx(difference(llama, pair.clean, pair), abs=1e-4)
        assert together.corrupted[number] == pytest.approx(difference(llama, pair.corrupted, pair), abs=1e-4)


def test_a_model_in_bfloat16_is_patched_in_bfloat16(model_of, llama):
    lm = adopt(model_of("llama").to(torch.bfloat16), llama.tokenizer, name="bf16")

    def patched(one):
        found = patch_heads(one, PAIRS, sets=whole_layers(one), smallest=1e-3)
        return found.corrupted[:, None] + found.recovery * (found.clean - found.corrupted)[:, None]

    half, whole = patched(lm), patched(llama)
    assert half.shape == whole.shape
    np.testing.assert_allclose(half, whole, atol=0.3)  # logits up to 12, in steps of 1/16
    assert np.ptp(whole, axis=1).min() > 1


# --- restoration


def test_the_users_model_is_left_as_it_was(lm, rows, hook_count):
    tokens = torch.tensor([rows[0].tokens])
    weights = dict(lm.model.named_parameters())

    def state():
        with torch.no_grad():
            logits = lm.model(tokens, use_cache=False).logits
        return logits, hook_count(lm.model), lm.model.config.to_dict(), lm.model.config._attn_implementation

    def identity():
        return {n: (id(p), p.data_ptr(), p._version, p.requires_grad) for n, p in weights.items()}

    classes = [type(m) for m in lm.model.modules()]
    before, was = state(), identity()
    patch_heads(lm, PAIRS, sets=[[(0, 0)]], smallest=1e-3)
    after = state()
    assert torch.equal(after[0], before[0])
    assert after[1:] == before[1:]
    assert identity() == was
    assert dict(lm.model.named_parameters()).keys() == weights.keys()
    assert [type(m) for m in lm.model.modules()] == classes


def test_the_copy_shares_every_weight(lm):
    twin = shared_copy(lm.model)
    assert twin is not lm.model
    assert twin.config is not lm.model.config
    ours, theirs = ([*m.named_parameters(), *m.named_buffers()] for m in (lm.model, twin))
    assert [n for n, _ in ours] == [n for n, _ in theirs]
    assert all(a is b for (_, a), (_, b) in zip(ours, theirs, strict=True))
    modules = zip(lm.model.modules(), twin.modules(), strict=True)
    assert all(a is not b and type(a) is type(b) for a, b in modules)


def test_what_transformer_lens_makes_of_the_copy_takes_next_to_no_memory_of_its_own(lm):
    """But for GPT-NeoX, whose fused query-key-value matrix it splits into copies."""
    lens = bridge(lm)
    mine = {t.untyped_storage().data_ptr() for t in [*lm.model.parameters(), *lm.model.buffers()]}
    everything_there = [m for one in (lens, lens.original_model) for m in [*one.parameters(), *one.buffers()]]
    extra = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in everything_there}
    new = sum(size for where, size in extra.items() if where not in mine)
    whole = sum(p.numel() * p.element_size() for p in lm.model.parameters())
    assert new < (0.4 if "neox" in lm.name else 0.01) * whole


# --- what is left out


def test_pairs_that_the_model_does_not_tell_apart_are_named_and_left_out(llama):
    dull = PromptPair(PAIRS[0].clean, PAIRS[0].clean, 20, 30, (1, 3))
    found = patch_heads(llama, [dull, PAIRS[1], dull, PAIRS[2]], sets=[[(1, 2)], [(0, 0), (2, 1)]])
    assert found.left_out == (0, 2)
    assert found.pairs == (1, 3)
    assert found.recovery.shape == (2, 2)
    assert list(found.by_head) == [(1, 2)]
    assert found.interval((2, 1), (0, 0)).estimate == pytest.approx(found.recovery[:, 1].mean())
    plain = patch_heads(llama, PAIRS[1:], sets=[[(1, 2)], [(0, 0), (2, 1)]])
    np.testing.assert_allclose(found.recovery, plain.recovery, atol=1e-4)
    with pytest.raises(InputError, match=r"In none of the 1 pairs do .* lie 0\.1 nats apart \(at most 0\)"):
        patch_heads(llama, [dull])


# --- refusals


def test_without_transformer_lens_the_extra_is_named(llama, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformer_lens.model_bridge.sources", None)
    with pytest.raises(InputError, match=r"pip install 'unlatch\[heads\]'"):
        patch_heads(llama, PAIRS)


def test_a_family_that_transformer_lens_does_not_know_is_refused(llama):
    torch.manual_seed(0)
    sizes = {"vocab_size": 111, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2}
    model = HeliumForCausalLM(
        HeliumConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, head_dim=8, pad_token_id=0)
    ).eval()
    lm = adopt(model, llama.tokenizer, name="helium")
    with pytest.raises(InputError, match="TransformerLens does not know HeliumForCausalLM"):
        patch_heads(lm, PAIRS)


def test_a_model_that_waits_on_disk_is_refused(llama, tmp_path):
    llama.model.save_pretrained(tmp_path)
    llama.tokenizer.save_pretrained(tmp_path)
    places = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    lm = load(tmp_path, device_map=places | {f"model.layers.{i}": ("disk", "cpu")[i % 2] for i in range(3)})
    with pytest.raises(InputError, match="spread over devices or waits on disk"):
        patch_heads(lm, PAIRS)


def test_logits_that_are_not_the_models_are_refused(llama, monkeypatch):
    """A bridge that computes something else: here, one around another model's weights."""
    other = replace(llama, model=copy.deepcopy(llama.model))
    with torch.no_grad():
        other.model.model.layers[1].self_attn.o_proj.weight.mul_(1.5)
    theirs = bridge(other)
    monkeypatch.setattr(module, "bridge", lambda _: theirs)
    with pytest.raises(ModelRefusedError, match="TransformerLens gives logits of tiny-llama that are"):
        patch_heads(llama, PAIRS)


@pytest.mark.parametrize("head", [(3, 0), (0, 4), (-1, 0)])
def test_a_head_that_is_not_there_is_refused(head, llama):
    with pytest.raises(InputError, match=r"tiny-llama has layers 0\.\.2 with heads 0\.\.3"):
        patch_heads(llama, PAIRS, sets=[[head]])


def test_nothing_to_patch_is_refused(llama, vector):
    with pytest.raises(InputError, match="no pairs to patch"):
        patch_heads(llama, [])
    with pytest.raises(InputError, match="A set of heads is empty"):
        patch_heads(llama, PAIRS, sets=[[]])
    with pytest.raises(InputError, match="were not patched as a set"):
        patch_heads(llama, PAIRS, sets=[[(0, 0)]]).interval((0, 1))
    with inject(llama, [Add(Site(0, "resid_post"), vector)]):
        with pytest.raises(InputError, match="An injection is open"):
            patch_heads(llama, PAIRS)


# --- the bundled model


def test_on_the_bundled_model_both_engines_agree(smollm2):
    def row(country):
        ids = tuple(smollm2.tokenizer(f"The capital of {country} is")["input_ids"])
        return Row(ids, len(ids))

    answers = [smollm2.tokenizer(text)["input_ids"] for text in (" Paris", " Rome")]
    assert [len(a) for a in answers] == [1, 1]
    pair = PromptPair(row("France"), row("Italy"), answers[0][0], answers[1][0], (3, 4))
    layers = [5, 20]
    sets = [[(layer, head) for head in range(9)] for layer in layers]
    found = patch_heads(smollm2, [pair], sets=sets)
    assert found.clean[0] > 0 > found.corrupted[0]
    for place, layer in enumerate(layers):
        edit = Patch(Site(layer, "attn_out"), attn_out(smollm2, layer, pair.clean), positions=last(1))
        assert found.recovery[0, place] == pytest.approx(recovery(smollm2, pair, edit), abs=1e-3)
