"""Pairs of prompts for the methods that compare two runs; a model that sees no order."""

import pytest
import torch

from hooks import adopt
from hooks.rows import Row
from interp.prompt_pairs import PromptPair


@pytest.fixture(scope="session")
def pairs():
    """Pairs of 9, 6 and 12 tokens that differ in one, two and three of them; answers drawn at random."""
    generator = torch.Generator().manual_seed(5)
    made = []
    for length, subject in ((9, (3, 4)), (6, (1, 3)), (12, (6, 9))):
        clean, other = torch.randint(8, 100, (2, length), generator=generator).tolist()
        corrupted = [*clean[: subject[0]], *other[slice(*subject)], *clean[subject[1] :]]
        right, wrong = torch.randperm(100, generator=generator)[:2].tolist()
        made.append(
            PromptPair(Row(tuple(clean), length), Row(tuple(corrupted), length), right, wrong, subject)
        )
    return made


@pytest.fixture(scope="session")
def bag(model_of, tokenizer_with):
    """A Llama that looks at all before it alike, and says again what it saw, in whatever order."""
    model = model_of("llama", seed=4)
    lm = adopt(model, tokenizer_with(), name="bag")
    with torch.no_grad():
        model.lm_head.weight.copy_(20 * model.model.embed_tokens.weight)
        for layer, block in enumerate(model.model.layers):
            block.mlp.down_proj.weight.zero_()
            attention = block.self_attn
            attention.q_proj.weight.zero_()
            block.input_layernorm.weight.fill_(1.0)
            heads = torch.eye(32)[:16]  # two groups of eight, each of which two heads read
            attention.v_proj.weight.copy_(heads)
            out = torch.zeros(32, 32)
            out[:8, :8] = out[8:16, 16:24] = torch.eye(8)
            attention.o_proj.weight.copy_(out if layer == 0 else torch.zeros(32, 32))
    return lm
