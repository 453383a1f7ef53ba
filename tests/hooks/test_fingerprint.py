"""A fingerprint is the model's: the same in another dtype, process or folder, and no other model's."""

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from hooks.fingerprint import model_fingerprint, template_hash, tokenizer_hash


def test_a_copy_in_bfloat16_has_the_same_fingerprint(lm, model_of):
    family = lm.name.removeprefix("tiny-")
    for dtype in (torch.float32, torch.bfloat16):
        assert model_fingerprint(model_of(family).to(dtype)) == lm.fingerprint


def test_changing_one_weight_changes_it(model_of):
    model = model_of("llama")
    before = model_fingerprint(model)
    for name, weight in model.named_parameters():
        with torch.no_grad():
            old = weight.view(-1)[-1].item()
            weight.view(-1)[-1] += 1
            assert model_fingerprint(model) != before, name
            weight.view(-1)[-1] = old
    assert model_fingerprint(model) == before


def test_a_step_of_training_changes_it_wherever_it_moved_the_weights(model_of):
    model = model_of("llama")
    before = model_fingerprint(model)
    model(torch.tensor([[7, 8, 9]]), labels=torch.tensor([[7, 8, 9]])).loss.backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert model_fingerprint(model) != before


def test_other_weights_have_other_fingerprints(tiny, model_of):
    found = [tiny(family).fingerprint for family in ("llama", "qwen2", "gemma2", "gpt2", "neox")]
    found += [model_fingerprint(model_of("llama", seed=seed)) for seed in (1, 2)]
    assert len(set(found)) == len(found)
    assert all(len(f) == 16 and int(f, 16) >= 0 for f in found)


def test_the_value_is_pinned_since_vectors_on_disk_carry_it():
    model = AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=9, hidden_size=4, num_hidden_layers=1,
        intermediate_size=5, num_attention_heads=2))  # fmt: skip
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.arange(weight.numel()).view_as(weight) / 7)
    assert model_fingerprint(model) == "9632173399070793"


def test_a_tokenizer_is_known_by_its_vocabulary_and_a_template_by_its_text(tokenizer_with):
    one = tokenizer_with()
    assert tokenizer_hash(one) == tokenizer_hash(tokenizer_with(template=None))
    assert tokenizer_hash(one) != tokenizer_hash(tokenizer_with(swap=("a", 9)))
    assert template_hash(one) == template_hash(tokenizer_with(swap=("a", 9)))
    assert template_hash(one) != template_hash(tokenizer_with(template="{{ messages }}"))
    assert template_hash(tokenizer_with(template=None)) is None
