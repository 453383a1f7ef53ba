"""A stream is the generation of the same arguments, step by step, and leaves nothing when it is closed."""

import pytest
import torch

from hooks import Add, generate, stream
from hooks.errors import EmptySelectionError, InputError
from hooks.inject import open_injections
from hooks.positions import generated, last, step, think
from hooks.sites import Site

PROMPT = "say the thing"
FAMILIES = ["llama", "gemma3", "gpt2", "qwen3"]
SAMPLED = {"temperature": 0.9, "top_p": 0.8, "seed": 3, "streams": [0, 0]}


def edits(vector, positions=generated):
    return [[], [Add(Site(1, "resid_post"), vector, 4.0, positions)]]


@pytest.mark.parametrize("sampling", [{}, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_stream_ends_with_the_generation_of_the_same_arguments(tiny, vector, family, sampling):
    lm, prompts = tiny(family), [PROMPT, PROMPT]
    made = generate(lm, prompts, edits=edits(vector), max_new_tokens=9, logprobs=True, **sampling)
    with stream(lm, prompts, edits=edits(vector), max_new_tokens=9, logprobs=True, **sampling) as steps:
        seen = list(steps)
    for number in range(2):
        tokens = made[number].tokens
        assert steps.generation[number].tokens == tokens
        assert steps.generation[number].text == made[number].text
        assert steps.generation[number].logprobs == made[number].logprobs
        grown = [row[number] for row in seen]
        assert grown == [tokens[: min(n + 1, len(tokens))] for n in range(len(seen))]
    assert made[0].tokens != made[1].tokens, "the edit does nothing here"
    steps.generation.receipt.check(generated, rows=[1])
    assert str(steps.generation.receipt) == str(made.receipt)


def test_prompts_of_one_random_stream_draw_the_same(llama):
    one = generate(llama, [PROMPT] * 2, max_new_tokens=12, temperature=1.5, streams=[0, 0])
    own = generate(llama, [PROMPT] * 2, max_new_tokens=12, temperature=1.5)
    assert one[0].tokens == one[1].tokens == own[0].tokens != own[1].tokens


def test_rows_that_wait_for_a_place_have_made_nothing(llama):
    lm, prompts = llama, [PROMPT, "another", "x"]
    with stream(lm, prompts, max_new_tokens=6, max_rows=1) as steps:
        seen = list(steps)
    assert steps.generation.texts == generate(lm, prompts, max_new_tokens=6).texts
    assert () in seen[0], "with one place, some rows have yet to begin"
    assert seen[-1] == [c.tokens for c in steps.generation]


@pytest.mark.parametrize("taken", [0, 1, 4])
def test_a_stream_closed_early_leaves_no_hook_and_the_model_as_it_was(llama, vector, hook_count, taken):
    before, logits = hook_count(llama.model), llama.model(torch.tensor([[7, 8, 9]])).logits
    steps = stream(llama, [PROMPT] * 2, edits=edits(vector), max_new_tokens=30)
    for _ in range(taken):
        next(steps)
    if taken:
        assert hook_count(llama.model) > before, "open edits are hooks: else this test cannot fail"
    steps.close()
    assert hook_count(llama.model) == before
    assert open_injections(llama) == []
    assert torch.equal(llama.model(torch.tensor([[7, 8, 9]])).logits, logits)
    with pytest.raises(InputError, match="has not come to its end"):
        _ = steps.generation
    assert list(steps) == []


def test_a_stream_that_is_dropped_leaves_no_hook(llama, vector, hook_count):
    before = hook_count(llama.model)
    steps = stream(llama, [PROMPT], edits=[edits(vector)[1]], max_new_tokens=30)
    next(steps)
    del steps
    assert hook_count(llama.model) == before


def test_a_stream_that_fails_leaves_no_hook(llama, vector, hook_count):
    before = hook_count(llama.model)
    with stream(llama, [PROMPT] * 2, edits=edits(vector, think), max_new_tokens=5) as steps:
        with pytest.raises(EmptySelectionError, match="think"):
            list(steps)
    assert hook_count(llama.model) == before


def test_grad_mode_is_the_callers_between_steps(llama):
    with stream(llama, [PROMPT], max_new_tokens=4) as steps:
        next(steps)
        assert torch.is_grad_enabled()


@pytest.mark.parametrize("positions", [last(2), step(0), generated - step(1)])
def test_positions_mean_the_same_in_a_stream(llama, vector, positions):
    with stream(llama, [PROMPT] * 2, edits=edits(vector, positions), max_new_tokens=6) as steps:
        seen = list(steps)
    made = generate(llama, [PROMPT] * 2, edits=edits(vector, positions), max_new_tokens=6)
    assert seen[-1] == [c.tokens for c in made]
    steps.generation.receipt.check(positions, rows=[1])


def test_what_cannot_run_is_refused(llama):
    with pytest.raises(InputError, match="one or more prompts"):
        stream(llama, [])
    with pytest.raises(InputError, match="temperature"):
        stream(llama, [PROMPT], temperature=-1.0)
    with pytest.raises(InputError, match="max_new_tokens=0"):
        next(stream(llama, [PROMPT], max_new_tokens=0))
