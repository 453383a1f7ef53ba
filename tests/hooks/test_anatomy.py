"""Which modules write to the residual stream, and which models are not decoders that we can read."""

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BartConfig,
    BartForConditionalGeneration,
    MambaConfig,
    T5Config,
    T5ForConditionalGeneration,
)

from hooks.anatomy import find_anatomy, first, with_first
from hooks.errors import ModelRefusedError


def test_every_family_has_one_block_for_each_layer_of_its_config(lm):
    assert lm.n_layers == lm.model.config.num_hidden_layers == 3
    assert len({id(block.module) for block in lm.anatomy.blocks}) == 3


@pytest.mark.parametrize(
    ("family", "attention", "mlp"),
    [
        ("llama", "self_attn", "mlp"),
        ("gpt2", "attn", "mlp"),
        ("neox", "attention", "mlp"),
        ("gemma2", "post_attention_layernorm", "post_feedforward_layernorm"),
        ("gemma3", "post_attention_layernorm", "post_feedforward_layernorm"),
        ("olmo2", "post_attention_layernorm", "post_feedforward_layernorm"),
    ],
)
def test_the_module_that_writes_to_the_stream_is_the_last_of_its_branch(tiny, family, attention, mlp):
    block = tiny(family).anatomy.blocks[1]
    children = dict(block.module.named_children())
    assert block.attention is children[attention]
    assert block.mlp is children[mlp]


def test_looking_for_parallel_blocks_leaves_no_hook(model_of):
    model = model_of("neox")
    before = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    find_anatomy(model)
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()) == before


@pytest.mark.parametrize(
    "model",
    [
        lambda: T5ForConditionalGeneration(
            T5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
        ),
        lambda: BartForConditionalGeneration(
            BartConfig(
                vocab_size=20, d_model=8, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=8,
                decoder_ffn_dim=8, encoder_attention_heads=2, decoder_attention_heads=2,
            )
        ),
    ],
)  # fmt: skip
def test_an_encoder_decoder_is_refused(model):
    with pytest.raises(ModelRefusedError, match="is an encoder-decoder; only decoder-only models work"):
        find_anatomy(model().eval())


def test_a_model_without_attention_is_refused_with_what_was_looked_for():
    model = AutoModelForCausalLM.from_config(MambaConfig(vocab_size=20, hidden_size=8, num_hidden_layers=2))
    with pytest.raises(ModelRefusedError, match="looked for one list of 2 blocks with an attention module"):
        find_anatomy(model.eval())


def test_a_block_without_an_mlp_is_refused_with_its_children(model_of):
    model = model_of("llama")
    for layer in model.model.layers:
        layer.mixture = layer.mlp
        del layer.mlp
    with pytest.raises(
        ModelRefusedError, match=r"a block has children self_attn, .*expected an attention among"
    ):
        find_anatomy(model)


def test_hidden_states_are_taken_from_a_tuple_and_put_back_into_it():
    """Blocks return a tensor in transformers 5 and returned a tuple before."""
    old, new, rest = torch.zeros(2), torch.ones(2), nn.Identity()
    assert first(old) is old
    assert first((old, rest)) is old
    assert with_first(old, new) is new
    assert with_first((old, rest), new) == (new, rest)
