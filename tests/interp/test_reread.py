"""Reading a completion again: against a loop without cache, and where the numbers are known beforehand."""

import numpy as np
import pytest
import torch

from hooks import Add, ProjectOut, generate, inject
from hooks.capture import capture
from hooks.chat import prompt_row
from hooks.errors import InputError
from hooks.positions import generated, last, steps
from hooks.sites import Site
from interp import reread as module
from interp.reread import reread

SITE = Site(1, "resid_post")
FAMILIES = ["llama", "gemma2", "gpt2"]


def case(lm, vector, positions=generated, n=8):
    edits = [
        Add(SITE, vector, 2.0, positions),
        ProjectOut(Site(0, "mlp_out"), vector.roll(3), 1.0, positions),
    ]
    row = prompt_row(lm.tokenizer, "say the thing")
    made = generate(lm, ["say the thing"] * 2, edits=[[], edits], max_new_tokens=n)
    return row, made[0].tokens, made[1].tokens, edits


@torch.no_grad()
def slowly(lm, row, tokens, edits, direction):
    """Of each token, the log-probabilities that made it and its own projection: a pass each, no cache."""
    nats, along = [], []
    for n in range(len(tokens) + 1):
        with inject(lm, edits) as injection, capture(lm, [SITE]) as acts:
            injection.tracker.register([0], [row])
            injection.tracker.resume(torch.tensor([0]))
            logits = lm.model(torch.tensor([[*row.tokens, *tokens[:n]]]), use_cache=False).logits[0, -1]
        nats.append(logits.double().log_softmax(-1))
        along.append(float(acts[SITE][0, -1] @ direction))
    return torch.stack(nats[:-1]), np.array(along[1:])


@pytest.mark.parametrize("positions", [generated, last(2) | steps(1, 4)], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_the_loop_that_runs_every_token_alone(tiny, vector, family, positions, monkeypatch):
    monkeypatch.setattr(module, "PIECE", 3)  # several pieces
    lm, unit = tiny(family), vector / vector.norm()
    row, plain, steered, edits = case(lm, vector, positions)
    found = reread(lm, row, plain, steered, edits, site=SITE, direction=unit)
    p, _ = slowly(lm, row, steered, [], unit)
    q, along = slowly(lm, row, steered, edits, unit)
    _, unsteered = slowly(lm, row, plain, [], unit)
    assert found.kl_nats == pytest.approx((p.exp() * (p - q)).sum(-1).numpy(), abs=1e-4)
    assert found.mean_kl == pytest.approx(found.kl_nats.mean())
    assert found.mean_kl > 0.01
    assert found.steered == pytest.approx(along, abs=1e-3)
    assert found.plain == pytest.approx(unsteered, abs=1e-3)


def test_where_the_edit_is_added_every_token_moves_by_the_dose(llama, vector):
    """The same tokens under the same blocks: the projection differs by what was added, and by no more."""
    row, plain, *_ = case(llama, vector)
    edit = Add(SITE, vector, 0.7, generated)
    found = reread(llama, row, plain, plain, [edit], site=SITE, direction=vector / vector.norm())
    assert found.steered - found.plain == pytest.approx(0.7 * float(vector.norm()), rel=1e-4)


def test_without_edits_the_kl_is_zero(llama, vector):
    row, plain, steered, _ = case(llama, vector)
    found = reread(llama, row, plain, steered, [])
    assert found.kl_nats == pytest.approx(0, abs=1e-9)
    assert len(found.kl_nats) == len(steered)
    assert found.plain is None


def test_nothing_is_left_on_the_model(llama, vector, hook_count):
    before = hook_count(llama.model)
    reread(llama, *case(llama, vector), site=SITE, direction=vector)
    assert hook_count(llama.model) == before


def test_what_cannot_be_read_is_refused(llama, vector):
    row, plain, *_ = case(llama, vector)
    with pytest.raises(InputError, match="without tokens"):
        reread(llama, row, plain, (), [])
    with pytest.raises(InputError, match="both a site and a direction"):
        reread(llama, row, plain, plain, [], site=SITE)
