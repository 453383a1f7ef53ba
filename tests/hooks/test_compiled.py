"""Compiled or not, a model gives the same, is edited the same, and comes back as it was."""

import pytest
import torch
from accelerate import disk_offload

from hooks.compiled import compile_where_it_pays
from hooks.edits import Add
from hooks.errors import InputError
from hooks.generate import generate_rows
from hooks.load import adopt
from hooks.positions import generated
from hooks.sites import Site

TRACED = "eager"
"""Traces as the real backend does, and leaves the kernels to torch: no C++ compiler is needed."""


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_what_is_kept_changes_neither_answers_nor_edits(model_of, tokenizer_with, rows, vector, family):
    lm = adopt(model_of(family), tokenizer_with())
    edits = [Add(Site(1, "mlp_out"), vector), Add(Site(2, "resid_post"), vector)]
    plain = generate_rows(lm, rows, edits=edits, max_new_tokens=6)
    made = compile_where_it_pays(lm, least=-1e9, backend=TRACED)
    assert made.kept
    assert made.difference < 1e-4
    assert all(hasattr(block.module.mlp.forward, "_torchdynamo_orig_callable") for block in lm.anatomy.blocks)
    again = generate_rows(lm, rows, edits=edits, max_new_tokens=6)
    assert [c.tokens for c in again] == [c.tokens for c in plain]
    again.receipt.check(generated)


def test_what_does_not_pay_is_taken_back(model_of, tokenizer_with):
    lm = adopt(model_of("llama"), tokenizer_with())
    made = compile_where_it_pays(lm, least=1.0, backend=TRACED)
    assert not made.kept
    assert str(made).startswith("not kept: decoding x ")
    assert not any("forward" in vars(block.module.mlp) for block in lm.anatomy.blocks)


def test_what_changes_the_numbers_is_taken_back(model_of, tokenizer_with, monkeypatch):
    lm = adopt(model_of("llama"), tokenizer_with())
    real = torch.compile

    def wrong(function, **options):
        compiled = real(function, **options)
        return lambda x: compiled(x) * 1.5

    monkeypatch.setattr(torch, "compile", wrong)
    made = compile_where_it_pays(lm, least=-1e9, backend=TRACED)
    assert made.difference > 1e-2
    assert not made.kept


def test_a_model_that_is_spread_is_refused(model_of, tokenizer_with, tmp_path):
    model = model_of("qwen3")
    disk_offload(model, offload_dir=str(tmp_path), execution_device=torch.device("cpu"))
    lm = adopt(model, tokenizer_with())
    with pytest.raises(InputError, match="is spread over devices"):
        compile_where_it_pays(lm)
