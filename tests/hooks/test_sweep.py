"""Many plans in shared batches give what each gives alone."""

import pytest

from hooks.edits import Add, ProjectOut
from hooks.errors import EmptySelectionError, InputError, VectorError
from hooks.generate import generate, generate_rows
from hooks.positions import everything, generated, mask, step, steps
from hooks.sampling import Sampling
from hooks.sites import Site
from hooks.sweep import sweep, sweep_rows


def plans_of(vector):
    """Different sites, kinds, positions, doses and numbers of edits; and none."""
    add = {
        f"{layer} x {dose}": [Add(Site(layer, "resid_post"), vector, scale=dose)]
        for layer in (0, 1)
        for dose in (0.5, -1.0)
    }
    return {
        "plain": [],
        **add,
        "whole": [Add(Site(1, "resid_pre"), vector, positions=everything)],
        "two": [
            ProjectOut(Site(0, "mlp_out"), vector, positions=steps(1, 4)),
            Add(Site(1, "attn_out"), vector, positions=step(2)),
        ],
    }


@pytest.mark.parametrize("max_rows", [3, 256])
def test_each_plan_gets_what_it_gets_alone(lm, rows, vector, max_rows):
    plans = plans_of(vector)
    made = sweep_rows(lm, rows, plans, max_new_tokens=8, logprobs=True, max_rows=max_rows)
    assert list(made) == list(plans)
    for name, edits in plans.items():
        alone = generate_rows(lm, rows, edits=edits, max_new_tokens=8, logprobs=True)
        assert [c.tokens for c in made[name]] == [c.tokens for c in alone], name
        for one, other in zip(made[name], alone, strict=True):
            assert one.logprobs == pytest.approx(other.logprobs, abs=2e-3)
        assert str(made[name].receipt) == str(alone.receipt)
        assert made[name].receipt.sites == alone.receipt.sites
    made["whole"].receipt.check(everything)
    made["0 x 0.5"].receipt.check(generated)
    assert len(made["plain"].receipt) == 0


def test_the_bundled_model_is_swept_as_it_is_run(smollm2):
    """Layers x doses in one batch, token for token the loop of single runs."""
    import torch

    vector = torch.randn(smollm2.d_model, generator=torch.Generator().manual_seed(0))
    prompts = ["How many legs do 3 cats have?", "Name a river.", "What is 7 times 8? Explain."]
    plans = {f"{i}": [Add(Site(i, "resid_post"), vector, scale=0.3 + i / 20)] for i in (3, 14, 27)}
    made = sweep(smollm2, prompts, {"plain": [], **plans}, max_new_tokens=8)
    for name, edits in {"plain": [], **plans}.items():
        for number, prompt in enumerate(prompts):
            alone = generate(smollm2, [prompt], edits=edits, max_new_tokens=8)
            assert made[name][number].tokens == alone[0].tokens
    assert made["27"].texts != made["plain"].texts


def test_a_prompt_draws_the_same_numbers_under_every_plan(llama, rows):
    made = sweep_rows(
        llama, rows, {"a": [], "b": []}, max_new_tokens=8, sampling=Sampling(temperature=1.0, seed=3)
    )
    assert [c.tokens for c in made["a"]] == [c.tokens for c in made["b"]]
    assert [c.tokens for c in made["a"]] == [
        c.tokens
        for c in generate_rows(llama, rows, max_new_tokens=8, sampling=Sampling(temperature=1.0, seed=3))
    ]


def test_it_prints_how_much_was_made(llama, rows):
    made = sweep_rows(llama, rows, {"plain": []}, max_new_tokens=2)
    assert repr(made).startswith(f"Sweep of 1 plans: {2 * len(rows)} tokens in ")


def test_what_cannot_run_is_refused_before_anything_runs(llama, rows, vector):
    import torch

    with pytest.raises(InputError, match="sweep was given no plan"):
        sweep_rows(llama, rows, {})
    with pytest.raises(InputError, match="Pass a list of one or more prompts"):
        sweep(llama, "How are you?", {"plain": []})
    with pytest.raises(VectorError, match="all zero"):
        sweep_rows(llama, rows, {"zero": [Add(Site(0, "resid_post"), torch.zeros_like(vector))]})
    table = torch.ones(4, 4, dtype=torch.bool)
    with pytest.raises(InputError, match="which counts rows"):
        sweep_rows(llama, rows, {"m": [Add(Site(0, "resid_post"), vector, positions=mask(table))]})
    with pytest.raises(EmptySelectionError):
        sweep_rows(
            llama,
            rows,
            {"late": [Add(Site(0, "resid_post"), vector, positions=step(9))]},
            max_new_tokens=4,
        )
