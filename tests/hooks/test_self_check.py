"""The self-check passes every supported family, and refuses a model for exactly what is wrong with it."""

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, BloomConfig, GraniteConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from hooks import adopt
from hooks.errors import ModelRefusedError
from hooks.self_check import Finding, SelfCheck, self_check


def test_every_supported_family_passes_every_check(lm):
    check = self_check(lm)
    assert all(finding.passed for finding in check.findings)
    assert len(check.findings) == 3 + 2 + 2 + 2, (
        "three sums, two times two neighbours, a zero edit and a real one"
    )
    check.require()


def test_the_bundled_model_passes(smollm2):
    self_check(smollm2).require()


def test_checking_leaves_no_hook(llama, hook_count):
    before = hook_count(llama.model)
    self_check(llama)
    assert hook_count(llama.model) == before


# --- it can fail: real architectures, whose sites do not mean what their names say


@pytest.mark.parametrize(
    "config",
    [
        # scales each branch as it adds it
        GraniteConfig(
            vocab_size=111,
            hidden_size=32,
            intermediate_size=40,
            num_hidden_layers=3,
            num_attention_heads=4,
            residual_multiplier=0.22,
        ),
        # adds the stream inside its attention
        BloomConfig(vocab_size=111, hidden_size=32, n_layer=3, n_head=4),
    ],
    ids=["granite", "bloom"],
)
def test_a_family_whose_parts_do_not_add_up_is_refused(config, tokenizer_with):
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(
        ModelRefusedError, match=r"blocks\.0: resid_pre \+ attn_out \+ mlp_out is not resid_post"
    ):
        adopt(model, tokenizer_with())


# --- it can fail: one fault planted in a good model, found by the check that looks for it


class HalvedBlock(LlamaDecoderLayer):
    """A Llama block that adds half of what its branches compute."""

    def forward(self, hidden_states, **kwargs):
        return hidden_states + (super().forward(hidden_states, **kwargs) - hidden_states) / 2


def halve(model):
    halved = HalvedBlock(model.config, 1).eval()
    halved.load_state_dict(model.model.layers[1].state_dict())
    model.model.layers[1] = halved


def shift_between_blocks(model):
    model.model.layers[2].register_forward_pre_hook(lambda _m, args: (args[0] + 1, *args[1:]))


def shift_a_block(model):
    model.model.layers[1].register_forward_hook(lambda _m, _a, out: out + 1)


def make_it_drift(model):
    model.model.layers[0].mlp = Drifting(model.model.layers[0].mlp)


class Drifting(nn.Module):
    """An MLP that never returns the same thing twice, as one with dropout left on."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.calls = inner, 0

    def forward(self, x):
        self.calls += 1
        return self.inner(x) * (1 + self.calls / 100)


def forget_the_stream(model):
    model.lm_head.register_forward_hook(lambda _m, _a, out: torch.zeros_like(out))


def spoil(model):
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] = float("nan")


@pytest.mark.parametrize(
    ("fault", "finding"),
    [
        (halve, r"blocks\.1: resid_pre \+ attn_out \+ mlp_out is not resid_post \(off by"),
        (shift_a_block, r"blocks\.1: resid_pre \+ attn_out \+ mlp_out is not resid_post \(off by 1\)"),
        (shift_between_blocks, r"blocks\.1: its output is not the next block's input \(off by 1\)"),
        (make_it_drift, "an edit of size zero changes the logits"),
        (forget_the_stream, r"an edit in the middle changes nothing \(off by 0\)"),
        (spoil, r"\(off by nan\)"),
    ],
)
def test_a_planted_fault_is_found(model_of, tokenizer_with, fault, finding):
    model = model_of("llama")
    adopt(model, tokenizer_with())
    fault(model)
    with pytest.raises(ModelRefusedError, match=finding) as error:
        adopt(model, tokenizer_with())
    assert "LlamaForCausalLM is refused: " in str(error.value)
    assert str(error.value).endswith("so no number measured at them could be trusted.")


def test_a_small_rounding_error_passes_in_bfloat16_but_not_in_float32(model_of, tokenizer_with):
    """The tolerance is that of the dtype, relative to the stream."""
    for dtype in (torch.bfloat16, torch.float32):
        model = model_of("llama").to(dtype)
        model.model.layers[1].register_forward_hook(lambda _m, _a, out: out * (1 + 1 / 128))
        if dtype == torch.bfloat16:
            adopt(model, tokenizer_with())
        else:
            with pytest.raises(ModelRefusedError, match=r"blocks\.1: resid_pre"):
                adopt(model, tokenizer_with())


def test_only_the_first_failures_are_named():
    findings = tuple(Finding(f"check {i}", i == 1, float(i)) for i in range(9))
    with pytest.raises(ModelRefusedError) as error:
        SelfCheck("it", findings).require()
    assert "check 0 (off by 0); check 2 (off by 2); check 3 (off by 3). Its" in str(error.value)
    SelfCheck("it", findings[1:2]).require()
