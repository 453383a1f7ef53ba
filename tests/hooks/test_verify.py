"""A good model passes every check; of one with a planted fault, those fail that the fault touches."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import disk_offload
from transformers import AutoModelForCausalLM, DynamicCache, GenerationConfig, GraniteConfig

from hooks import adopt, verify
from hooks.edits import Add
from hooks.errors import InputError, ModelRefusedError, VectorError
from hooks.inject import Injection
from hooks.positions import _Steps
from hooks.sampling import Sampling
from hooks.self_check import ADDS_UP, MOVES, STILL
from hooks.verify import CHECKS, Check, Verification

SHORT = ("the ant", "an inn in the thing", "thin ink")
"""What the faults are looked for with."""

READ = "prompts = distinct rows of known tokens"
AGAIN = "one pass = the same again"
CACHED = "cached = not cached"
BATCHED = "batched = alone"
PADDED = "padded on the left = not padded"
DECODED = "generate = one pass over its text"
GREEDY = "generate = model.generate, greedily"
ZERO = "generate with zero edits = without"
EDITED = "edited with a cache = in one pass"
SEEN = "these edits show"
RECEIPTS = "receipts = the cells asked for"
TWICE = "sampled twice = the same tokens"
DRAWN = "sampled in a batch = alone"
HOOKS = "hooks afterwards = before"
AFTER = "logits afterwards = before"


def failures(lm, **options):
    """What fails, and where."""
    return {check.what: check.where for check in verify(lm, **{"prompts": SHORT} | options).failed}


@pytest.fixture
def plain(model_of, tokenizer_with):
    """A Llama of one's own, to be spoiled, whose prompts have no chat template."""
    return adopt(model_of("llama"), tokenizer_with(template=None), name="spoiled", check=False)


# --- what is good passes


def test_every_family_passes_every_check(lm, hook_count):
    before = hook_count(lm.model)
    result = verify(lm)
    assert result.passed, result
    assert len(result.checks) == 20
    assert hook_count(lm.model) == before
    result.require()


@pytest.mark.parametrize(
    ("family", "dtype"),
    [
        ("llama", torch.bfloat16),
        ("gemma3", torch.bfloat16),
        ("gpt2", torch.bfloat16),
        ("llama", torch.float16),
        ("llama", torch.float64),
    ],
    ids=str,
)
def test_the_tolerance_is_that_of_the_dtype(model_of, tokenizer_with, family, dtype):
    lm = adopt(model_of(family).to(dtype), tokenizer_with(), check=False)
    result = verify(lm, prompts=SHORT)
    assert result.passed, result
    assert result.dtype == dtype


def test_a_model_on_disk_passes(model_of, tokenizer_with, tmp_path):
    model = model_of("qwen2")
    disk_offload(model, str(tmp_path))
    assert not failures(adopt(model, tokenizer_with(), check=False))


def test_the_bundled_model_passes(smollm2):
    result = verify(smollm2, prompts=("Hi.", "What is 17 + 25?"))
    assert result.passed, result


def test_a_model_with_penalties_of_its_own_passes_and_keeps_them(plain):
    own = plain.model.generation_config = GenerationConfig(repetition_penalty=9.0, no_repeat_ngram_size=1)
    assert not failures(plain)
    assert plain.model.generation_config is own


def test_each_check_is_told_as_it_ends(plain):
    told = []
    verify(plain, prompts=SHORT, on_check=told.append)
    assert told == list(CHECKS)


# --- faults of a model


def answer(module, change):
    """Change what a module returns, by a function of (its output, its keyword arguments)."""

    def hook(_module, _args, kwargs, out):
        value = out[0] if isinstance(out, tuple) else out
        new = change(value, kwargs)
        return (new, *out[1:]) if isinstance(out, tuple) else new

    module.register_forward_hook(hook, with_kwargs=True)


def ignore_the_mask(lm):
    for layer in lm.model.model.layers:
        layer.self_attn.register_forward_pre_hook(
            lambda _module, args, kwargs: (args, kwargs | {"attention_mask": None}), with_kwargs=True
        )


def count_columns(lm):
    """Positions that are places in the tensor at hand, padding included."""

    def hook(_module, args, kwargs):
        tokens, mask = (args or [kwargs["input_ids"]])[0], kwargs["attention_mask"]
        return args, kwargs | {"position_ids": torch.arange(mask.shape[1])[None, -tokens.shape[1] :]}

    lm.model.base_model.register_forward_pre_hook(hook, with_kwargs=True)


def bias_a_step(lm):
    answer(
        lm.model.model.layers[1].self_attn,
        lambda out, kwargs: out + (kwargs["past_key_values"] is not None and out.shape[1] == 1),
    )


def know_one_cache_only(lm):
    answer(
        lm.model.model.layers[1].self_attn,
        lambda out, kwargs: out + (not isinstance(kwargs["past_key_values"], DynamicCache | None)),
    )


def bias_a_batch(lm):
    answer(lm.model.model.layers[1].mlp, lambda out, _: out + 4 * (len(out) > 1))


def mix_the_rows(lm):
    answer(lm.model.model.layers[1].mlp, lambda out, _: out + out.mean(0))


def halve_a_block(lm):
    answer(lm.model.model.layers[1], lambda h, _: h / 2)


def leave_hooks(lm):
    mlp = lm.model.model.layers[2].mlp
    lm.model.lm_head.register_forward_hook(lambda *_: mlp.register_forward_hook(lambda *_: None) and None)


def drift(lm):
    calls = []
    answer(lm.model.lm_head, lambda out, _: out * (1 + len(calls.append(1) or calls) / 100))


def silence(lm):
    answer(lm.model.lm_head, lambda out, _: 0 * out)


def refuse_a_cache(lm):
    def change(out, kwargs):
        if kwargs["past_key_values"] is not None:
            raise KeyError("no cache here")
        return out

    answer(lm.model.model.layers[1].self_attn, change)


DOWNSTREAM = {DECODED, EDITED, DRAWN}
"""What generates, and is held against one pass over a row alone."""

FAULTS = {
    ignore_the_mask: {PADDED, GREEDY} | DOWNSTREAM,
    bias_a_step: {CACHED} | DOWNSTREAM,
    know_one_cache_only: {GREEDY} | DOWNSTREAM,
    bias_a_batch: {BATCHED} | DOWNSTREAM,
    mix_the_rows: {BATCHED} | DOWNSTREAM,
    halve_a_block: {ADDS_UP},
    leave_hooks: {HOOKS},
    drift: {AGAIN, STILL, CACHED, BATCHED, PADDED, ZERO, TWICE, AFTER} | DOWNSTREAM,
    silence: {MOVES, SEEN},
    refuse_a_cache: {CACHED, GREEDY, ZERO, SEEN, RECEIPTS, TWICE} | DOWNSTREAM,
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_of_the_model_fails_the_checks_that_it_touches_and_no_other(plain, fault):
    fault(plain)
    assert set(failures(plain)) == FAULTS[fault]


@pytest.mark.parametrize(
    ("fault", "check"), [(ignore_the_mask, PADDED), (bias_a_step, CACHED), (bias_a_batch, BATCHED)]
)
def test_a_fault_is_larger_than_the_rounding_of_bfloat16(plain, fault, check):
    plain.model.to(torch.bfloat16)
    fault(plain)
    found = failures(plain)
    assert check in found
    assert not found.keys() & ({PADDED, CACHED, BATCHED} - {check})


def test_positions_counted_with_the_padding_fail_where_there_is_padding(model_of, tokenizer_with):
    lm = adopt(model_of("gpt2"), tokenizer_with(template=None), check=False)
    count_columns(lm)
    found = failures(lm)
    assert found[PADDED].endswith("of padding")
    assert found.keys() <= {PADDED, GREEDY} | DOWNSTREAM


def test_a_family_whose_branches_are_scaled_fails_in_its_sums_only(tokenizer_with):
    """Granite: the model is as good as any, only its sites do not add up."""
    config = GraniteConfig(
        vocab_size=120,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=4,
        residual_multiplier=0.22,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(ModelRefusedError, match="is refused"):
        adopt(model, tokenizer_with())
    found = failures(adopt(model, tokenizer_with(), check=False))
    assert set(found) == {ADDS_UP}
    assert found[ADDS_UP].startswith("blocks.")


def test_numbers_that_are_none_fail_and_do_not_end_the_checks(plain):
    with torch.no_grad():
        plain.model.model.layers[1].mlp.down_proj.weight[0, 0] = math.nan
    found = verify(plain, prompts=SHORT)
    assert len(found.checks) == 20
    assert {c.what for c in found.failed} >= {AGAIN, ADDS_UP, CACHED, BATCHED, PADDED, AFTER} | DOWNSTREAM
    assert failures(plain)[DECODED] == "row 0: its logits are not numbers"


@pytest.mark.parametrize("what", [TWICE, HOOKS])
def test_what_is_left_on_the_model_is_seen(plain, what):
    """A weight that moves, and a hook that is added, when everything else has been checked."""

    def spoil(checked):
        if checked == DRAWN and what == HOOKS:
            plain.model.model.layers[1].mlp.register_forward_pre_hook(lambda *_: None)
        elif checked == DRAWN:
            with torch.no_grad():
                plain.model.lm_head.weight[0] += 1e-3

    found = failures(plain, on_check=spoil)
    assert found == ({HOOKS: "model.layers.1.mlp"} if what == HOOKS else {AFTER: "row 1"})


# --- faults of what is done to it


def rounds(_self, h, _position, *parameters):
    return (h + parameters[0][:, None]).half().to(h.dtype)


def rounds_a_step(_self, h, _position, *parameters):
    new = h + parameters[0][:, None]
    return (new * 1e4).round() / 1e4 if h.shape[1] == 1 else new


def doubles_a_step(_self, h, _position, *parameters):
    return h + parameters[0][:, None] * (1 + (h.shape[1] == 1))


@pytest.mark.parametrize(
    ("apply", "failing"),
    [
        (rounds, {STILL, ZERO, EDITED}),
        (rounds_a_step, {ZERO}),
        (doubles_a_step, {EDITED}),
    ],
)
def test_an_edit_that_does_not_write_what_it_says_is_found(plain, monkeypatch, apply, failing):
    monkeypatch.setattr(Add, "apply", apply)
    assert set(failures(plain)) == failing


def test_positions_that_begin_a_token_late_are_found(plain, monkeypatch):
    """The receipt and its own check agree there: only the columns counted by hand tell."""
    select = _Steps.select

    def shifted(self, frame):
        return select(self, replace(frame, prompt_length=frame.prompt_length + 1))

    monkeypatch.setattr(_Steps, "select", shifted)
    found = failures(plain)
    assert set(found) == {RECEIPTS, EDITED}
    assert found[RECEIPTS].startswith("generated, row")


@pytest.mark.parametrize("spoilt", ["moved", "doubled", "lost"])
def test_a_receipt_that_is_not_what_was_written_is_found(plain, monkeypatch, spoilt):
    receipt = Injection.receipt

    def changed(self):
        true = receipt(self)
        columns = {name: getattr(true, name) for name in ("site", "row", "position", "ratio")}
        if spoilt == "moved":
            return replace(true, position=true.position + 1)
        if spoilt == "lost":
            return replace(true, **{name: column[1:] for name, column in columns.items()})
        return replace(true, **{name: np.concatenate([c, c[:1]]) for name, c in columns.items()})

    monkeypatch.setattr(Injection, "receipt", changed)
    assert set(failures(plain)) == {RECEIPTS}


def test_sampling_from_the_global_stream_is_found(plain, monkeypatch):
    monkeypatch.setattr(Sampling, "uniforms", lambda _self, _row, n: torch.rand(n, dtype=torch.float64))
    assert set(failures(plain)) == {TWICE, DRAWN}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_sampling_with_the_numbers_of_a_neighbour_is_found(plain, monkeypatch, dtype):
    plain.model.to(dtype)
    choose = Sampling.choose
    monkeypatch.setattr(Sampling, "choose", lambda self, logits, u: choose(self, logits, u.roll(1)))
    found = failures(plain)
    assert set(found) == {DRAWN}
    assert found[DRAWN].endswith("together")


def test_the_second_best_token_passes_only_where_it_is_as_good(plain, monkeypatch):
    choose = Sampling.choose

    def second(self, logits, uniform):
        return choose(self, logits, uniform) if self.temperature else logits.topk(2).indices[:, 1]

    monkeypatch.setattr(Sampling, "choose", second)
    assert set(failures(plain)) == {DECODED, GREEDY, EDITED}
    head = plain.model.lm_head.weight
    with torch.no_grad():
        head[1::2], head[-1] = head[:-1:2], head[0]
    assert not failures(plain)


# --- errors


def test_what_the_model_raises_is_a_failed_row_with_its_first_line(plain):
    def refuse(_module, _args, kwargs):
        if len(kwargs["input_ids"]) > 1:
            raise ValueError("one row, please\nat a time")

    plain.model.register_forward_pre_hook(refuse, with_kwargs=True)
    found = failures(plain)
    assert found[BATCHED] == "ValueError: one row, please"
    assert not found.keys() & {AGAIN, CACHED, PADDED}
    (row,) = [check for check in verify(plain, prompts=SHORT).failed if check.what == BATCHED]
    assert math.isnan(row.difference)
    assert str(row) == "batched = alone (ValueError: one row, please)"


def test_a_refusal_of_ours_is_a_failed_row(plain, monkeypatch):
    def refuse(_self, _lm):
        raise VectorError("not this one")

    monkeypatch.setattr(Add, "check", refuse)
    assert failures(plain)[ZERO] == "VectorError: not this one"


@pytest.mark.parametrize(
    ("owner", "name", "error"),
    [
        (Add, "apply", TypeError),  # within the model's pass, but no doing of the model's
        (Sampling, "choose", RuntimeError),  # between its passes
    ],
)
def test_a_bug_of_ours_is_not_taken_for_a_fault_of_the_model(plain, monkeypatch, owner, name, error):
    def broken(*_args):
        raise error("a bug")

    monkeypatch.setattr(owner, name, broken)
    with pytest.raises(error, match="a bug"):
        verify(plain, prompts=SHORT)


# --- prompts


def test_a_tokenizer_with_ids_that_the_model_has_not_fails_and_the_rest_is_checked(plain):
    plain.model.resize_token_embeddings(60)
    assert failures(plain) == {READ: "token 80 of 60"}


def test_a_template_that_refuses_fails_and_the_rest_is_checked(plain):
    plain.tokenizer.chat_template = "{{ raise_exception('no') }}"
    lm = replace(plain)  # its stop ids are read off the template
    assert failures(lm)[READ].startswith("InputError: This model's chat template refuses these turns: no")


@pytest.mark.parametrize("prompts", [("the", "the", "the ant"), ("ant", "tan")])
def test_prompts_that_read_alike_or_are_as_long_cannot_show_padding(plain, prompts):
    assert failures(plain, prompts=prompts) == {READ: "prompts that read alike, or are all as long"}


@pytest.mark.parametrize("prompts", ["the ant", ["the ant"], []])
def test_one_prompt_is_refused(plain, prompts):
    with pytest.raises(InputError, match="Pass two prompts or more"):
        verify(plain, prompts=prompts)


# --- the result


def test_the_result_prints_as_a_table_and_refuses_with_what_failed():
    checks = (
        Check("a = b", True, 0.00012, 0.001, "row 1"),
        Check("edits show", False, 0.5, 1.0, "step(1)", above=True),
        Check("c", False, math.nan, 0.0, "ValueError: no"),
    )
    result = Verification("it", torch.bfloat16, checks)
    assert repr(result).splitlines() == [
        "it in bfloat16: 1 of 3 checks pass",
        "pass  a = b        0.00012  ≤ 0.001     row 1",
        "FAIL  edits show       0.5  > 1         step(1)",
        "FAIL  c                nan  ≤ 0         ValueError: no",
    ]
    assert not result.passed
    with pytest.raises(ModelRefusedError) as error:
        result.require()
    assert "Not so: edits show (off by 0.5, must be above 1, step(1)); c (ValueError: no)." in str(
        error.value
    )
    Verification("it", torch.bfloat16, checks[:1]).require()
