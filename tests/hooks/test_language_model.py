"""What is known of a model: its sizes, its special ids, and a bound on the memory that a token takes."""

from dataclasses import replace

import pytest
import torch

from hooks import adopt
from hooks.capture import run_to
from hooks.sites import Site


def test_sizes_are_those_of_the_weights(lm):
    assert (lm.n_layers, lm.d_model, lm.d_vocab) == (3, 32, len(lm.tokenizer))
    assert (lm.device, lm.dtype) == (torch.device("cpu"), torch.float32)


def test_padding_falls_back_to_the_end_of_text_and_then_to_zero(llama, tokenizer_with):
    tokenizer = tokenizer_with()
    assert replace(llama, tokenizer=tokenizer).pad_id == 0
    tokenizer.pad_token = None
    assert replace(llama, tokenizer=tokenizer).pad_id == 2
    tokenizer.eos_token = None
    assert replace(llama, tokenizer=tokenizer).pad_id == 0


def test_a_turn_also_ends_where_the_generation_config_says(model_of, tokenizer_with):
    model = model_of("llama")
    model.generation_config.eos_token_id = [2, 40]
    assert adopt(model, tokenizer_with()).stop_ids == {2, 40}


def test_a_token_takes_no_more_memory_in_the_cache_than_was_counted(lm, batch):
    with torch.no_grad():
        cache = lm.model(**batch.inputs, use_cache=True).past_key_values
    held = sum(t.nbytes for layer in cache.layers for t in (layer.keys, layer.values))
    counted = lm.token_bytes(cached=True) - lm.token_bytes()
    assert held <= counted * batch.input_ids.numel()
    assert counted < 20 * held / batch.input_ids.numel(), (
        "so generous a bound would make every batch a single row"
    )


def test_a_captured_site_is_counted_once_for_each(lm, batch):
    sites = [Site(layer, "resid_post") for layer in range(3)]
    held = sum(v.nbytes for v in run_to(lm, batch, sites).values())
    counted = lm.token_bytes(captured=3) - lm.token_bytes()
    assert counted * batch.input_ids.numel() == held


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_narrower_dtype_takes_half(model_of, tokenizer_with, tiny, family):
    half = adopt(model_of(family).to(torch.bfloat16), tokenizer_with())
    assert 2 * half.token_bytes(cached=True) == tiny(family).token_bytes(cached=True)
