"""The last layer is the model's output, on every family; earlier ones are the same tail on earlier states."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import CohereConfig, CohereForCausalLM, GraniteConfig, GraniteForCausalLM

from hooks import Add, Site, adopt, inject, load
from hooks.anatomy import find_anatomy
from hooks.capture import run_to
from hooks.errors import InputError
from hooks.positions import everything, first, last, mask
from hooks.rows import Row, pad_left
from interp.lens import LogitLens, logit_lens
from interp.token_activations import last_token, token_activations

ANSWERS = [20, 31, 42, 53]


def own_logits(lm, row, at=-1):
    """The model's own next-token logits of one row, alone and unpadded."""
    with torch.no_grad():
        return lm.model(torch.tensor([row.tokens]), use_cache=False).logits[0, at].double()


def greedy(lm, rows):
    return [int(own_logits(lm, row).argmax()) for row in rows]


# --- identity


def test_the_last_layer_is_the_model(lm, rows):
    found = logit_lens(lm, rows, ANSWERS)
    for number, (row, answer) in enumerate(zip(rows, ANSWERS, strict=True)):
        logits = own_logits(lm, row)
        expected = float(logits.log_softmax(-1)[answer])
        assert found.logprob[-1, number] == pytest.approx(expected, abs=2e-5)
        assert found.rank[-1, number] == int((logits > logits[answer]).sum())
        assert found.top[-1, number] == int(logits.argmax())


SCALED = {
    "granite": (GraniteForCausalLM, GraniteConfig, {"logits_scaling": 7.0}),
    "cohere": (CohereForCausalLM, CohereConfig, {"logit_scale": 0.25}),
}


@pytest.mark.parametrize("name", SCALED)
def test_a_family_that_scales_its_logits_is_read_with_its_scale(name, rows, llama):
    """Neither family is known to the lens: what follows the last block is the model's own."""
    kind, config, scale = SCALED[name]
    torch.manual_seed(0)
    small = llama.model.config
    model = kind(
        config(
            **scale,
            vocab_size=small.vocab_size,
            hidden_size=32,
            intermediate_size=40,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            pad_token_id=0,
        )
    ).eval()
    lm = adopt(model, llama.tokenizer, name=name)
    found = logit_lens(lm, rows, ANSWERS)
    expected = [float(own_logits(lm, r).log_softmax(-1)[a]) for r, a in zip(rows, ANSWERS, strict=True)]
    np.testing.assert_allclose(found.logprob[-1], expected, atol=1e-5)


# --- independent code


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "neox"])
def test_every_layer_is_the_norm_the_unembedding_and_the_cap_written_out(family, tiny, rows):
    lm = tiny(family)
    norm = {"llama": "norm", "gemma2": "norm", "gpt2": "ln_f", "neox": "final_layer_norm"}[family]
    norm = getattr(lm.model.base_model, norm)
    found = logit_lens(lm, rows, ANSWERS)
    for number, (row, answer) in enumerate(zip(rows, ANSWERS, strict=True)):
        with torch.no_grad():
            out = lm.model(torch.tensor([row.tokens]), output_hidden_states=True, use_cache=False)
            for layer in range(lm.n_layers - 1):
                logits = lm.model.get_output_embeddings()(norm(out.hidden_states[layer + 1][0, -1]))
                if family == "gemma2":
                    logits = 30 * torch.tanh(logits / 30)
                logits = logits.double()
                expected = float(logits.log_softmax(-1)[answer])
                assert found.logprob[layer, number] == pytest.approx(expected, abs=2e-5)
                assert found.rank[layer, number] == int((logits > logits[answer]).sum())
                assert found.top[layer, number] == int(logits.argmax())


# --- planted truth


def silenced(model, layers):
    """A Llama whose blocks ``layers`` write nothing."""
    with torch.no_grad():
        for layer in layers:
            block = model.model.layers[layer]
            block.self_attn.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
    return model


@pytest.mark.parametrize("speaks", [0, 1, 2])
def test_the_answer_settles_at_the_last_layer_that_writes(speaks, model_of, llama, rows):
    """Before it the stream is the embedding, which with untied weights has its own favourite."""
    model = silenced(model_of("llama"), [layer for layer in range(3) if layer != speaks])
    lm = replace(llama, model=model, anatomy=find_anatomy(model))
    answers = greedy(lm, rows)
    found = logit_lens(lm, rows, answers)
    differ = [n for n in range(4) if speaks == 0 or found.top[0, n] != answers[n]]
    assert len(differ) >= 3
    assert (found.settled[differ] == speaks).all()


def test_settled_is_the_first_layer_of_the_last_unbroken_run():
    rank = np.array([[0, 0, 3, 0, 5], [0, 2, 1, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 7, 2]])
    lens = LogitLens(rank, np.zeros(rank.shape), np.zeros(rank.shape, np.int64))
    assert lens.settled.tolist() == [0, 2, 2, 4, 4]


def test_an_answer_that_the_model_does_not_give_never_settles(llama, rows):
    answers = [(a + 1) % llama.d_vocab for a in greedy(llama, rows)]
    assert (logit_lens(llama, rows, answers).settled == llama.n_layers).all()


def test_where_all_logits_are_equal_only_the_lowest_id_is_on_top(model_of, llama, rows):
    """A strict count would put every token on top of a model that says nothing."""
    model = model_of("llama")
    with torch.no_grad():
        model.lm_head.weight.zero_()
    lm = replace(llama, model=model, anatomy=find_anatomy(model))
    found = logit_lens(lm, rows, [0, 1, 5, 9])
    assert found.rank.tolist() == [[0, 1, 5, 9]] * 3
    assert (found.top == 0).all()


# --- invariance


def test_the_answer_does_not_depend_on_the_batch(lm, rows):
    together = logit_lens(lm, rows, ANSWERS)
    alone = [logit_lens(lm, [r], [a]) for r, a in zip(rows, ANSWERS, strict=True)]
    np.testing.assert_allclose(together.logprob, np.hstack([x.logprob for x in alone]), atol=2e-5)
    np.testing.assert_array_equal(together.rank, np.hstack([x.rank for x in alone]))


def test_the_logits_may_be_made_a_few_at_a_time(llama, rows, monkeypatch):
    whole = logit_lens(llama, rows, ANSWERS)
    monkeypatch.setattr("interp.lens.MAX_LOGITS", 2 * llama.d_vocab)
    parts = logit_lens(llama, rows, ANSWERS)
    np.testing.assert_array_equal(whole.rank, parts.rank)
    np.testing.assert_allclose(whole.logprob, parts.logprob, atol=1e-6)


def test_another_token_of_each_row_can_be_read(llama, rows):
    table = torch.zeros(4, 13, dtype=torch.bool)
    chosen = [2, 0, 12, 3]
    table[range(4), chosen] = True
    found = logit_lens(llama, rows, ANSWERS, read=mask(table))
    expected = [
        float(own_logits(llama, row, at).log_softmax(-1)[answer])
        for row, at, answer in zip(rows, chosen, ANSWERS, strict=True)
    ]
    np.testing.assert_allclose(found.logprob[-1], expected, atol=2e-5)


def test_a_model_in_bfloat16_agrees_with_itself(llama, rows):
    model = copy.deepcopy(llama.model).to(torch.bfloat16)
    lm = adopt(model, llama.tokenizer, name="bf16")
    found = logit_lens(lm, rows, greedy(lm, rows))
    assert ((found.rank == 0) == (found.top == np.array(greedy(lm, rows)))).all()
    assert np.isfinite(found.logprob).all()


def test_a_model_that_waits_on_disk_gives_the_same(llama, rows, tmp_path):
    llama.model.save_pretrained(tmp_path)
    llama.tokenizer.save_pretrained(tmp_path)
    places = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "disk"}
    places |= {f"model.layers.{i}": ("disk", "cpu")[i % 2] for i in range(3)}
    spread = load(tmp_path, device_map=places)
    theirs, ours = (logit_lens(m, rows, ANSWERS) for m in (spread, llama))
    np.testing.assert_array_equal(theirs.rank, ours.rank)
    np.testing.assert_array_equal(theirs.logprob, ours.logprob)


# --- restoration


def test_the_model_is_left_as_it_was(lm, rows, hook_count):
    before, hooks = own_logits(lm, rows[0]), hook_count(lm.model)
    logit_lens(lm, rows, ANSWERS)
    assert torch.equal(own_logits(lm, rows[0]), before)
    assert hook_count(lm.model) == hooks


# --- refusals


def test_each_row_needs_an_answer(llama, rows):
    with pytest.raises(InputError, match="4 rows and 3 answers; pass one token id for each row"):
        logit_lens(llama, rows, [1, 2, 3])


def test_no_rows_are_refused(llama):
    with pytest.raises(InputError, match="no rows to read"):
        logit_lens(llama, [], [])


@pytest.mark.parametrize("answer", [-1, 10_000])
def test_an_answer_outside_the_vocabulary_is_refused(answer, llama, rows):
    with pytest.raises(InputError, match=rf"Answer {answer} is no token: tiny-llama has ids 0\.\.110"):
        logit_lens(llama, rows[:1], [answer])


@pytest.mark.parametrize("read", [last(2), everything, first(20)])
def test_a_selection_of_several_tokens_is_refused(read, llama, rows):
    with pytest.raises(InputError, match="one token of each row is read here"):
        logit_lens(llama, rows, ANSWERS, read=read)


def test_an_open_injection_is_refused(llama, rows, vector):
    with inject(llama, [Add(Site(0, "resid_post"), vector)]) as injection:
        with pytest.raises(InputError, match="inside an open `inject`"):
            logit_lens(llama, rows, ANSWERS)
        injection.tracker.begin(torch.tensor([0]), torch.tensor([9]))
        llama.model(torch.tensor([rows[0].tokens]))


# --- the bundled model


def test_the_bundled_model_settles_on_a_capital_late(smollm2):
    text = "The capital of France is"
    ids = tuple(smollm2.tokenizer(text)["input_ids"])
    answer = smollm2.tokenizer(" Paris")["input_ids"]
    assert len(answer) == 1
    found = logit_lens(smollm2, [Row(ids, len(ids))], answer)
    assert found.rank[-1, 0] == 0
    assert smollm2.n_layers // 3 < found.settled[0] < smollm2.n_layers
    assert found.rank[0, 0] > 100


def test_a_row_that_comes_in_pieces_is_read_at_its_token(llama, rows):
    """Longer than one pass: the token that is read lies in the last piece, or in the first."""
    long = Row(tuple(rows[2].tokens[i % 13] for i in range(1500)), 1500)
    for read, at in ((last_token, 1499), (first(3) - first(2), 2)):
        found = logit_lens(llama, [rows[0], long], ANSWERS[:2], read=read)
        with torch.no_grad():
            logits = llama.model(torch.tensor([long.tokens]), use_cache=False).logits[0, at]
        assert found.logprob[-1, 1] == pytest.approx(float(logits.log_softmax(-1)[ANSWERS[1]]), abs=1e-3)
        site = Site(1, "resid_post")
        batch = pad_left([long], [0], pad_id=0, device=torch.device("cpu"))
        expected = run_to(llama, batch, [site])[site][0, at]
        kept = token_activations(llama, [rows[0], long], [site], read=read)
        np.testing.assert_allclose(kept[0, 1], expected, atol=1e-3)
