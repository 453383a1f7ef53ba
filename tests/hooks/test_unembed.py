"""The model's own last steps, on any residual stream."""

import pytest
import torch

from hooks.capture import run_to
from hooks.edits import Add
from hooks.errors import InputError
from hooks.inject import inject
from hooks.sites import Site
from hooks.unembed import unembed


@torch.no_grad()
def test_the_last_residual_gives_the_models_own_logits(lm, batch):
    last = Site(-1, "resid_post")
    resid = run_to(lm, batch, [last])[last]
    expected = lm.model(**batch.inputs, use_cache=False).logits
    assert torch.equal(unembed(lm, resid), expected)


def test_gradients_reach_the_residual(lm):
    """The derivative along a direction equals the central difference."""
    generator = torch.Generator().manual_seed(0)
    resid, along = torch.randn(2, 1, 2, lm.d_model, generator=generator)
    resid.requires_grad_()
    (slope,) = torch.autograd.grad(unembed(lm, resid)[0, 1, 7], resid)
    with torch.no_grad():
        high, low = (unembed(lm, resid + sign * 1e-2 * along)[0, 1, 7] for sign in (1, -1))
    assert float((slope * along).sum()) == pytest.approx(float(high - low) / 2e-2, rel=2e-2, abs=2e-3)


@torch.no_grad()
def test_the_blocks_compute_again_afterwards(lm, batch):
    before = lm.model(**batch.inputs, use_cache=False).logits
    with pytest.raises(RuntimeError):
        unembed(lm, torch.zeros(1, 1, lm.d_model + 1))
    assert torch.equal(lm.model(**batch.inputs, use_cache=False).logits, before)


def test_inside_an_injection_it_is_refused(llama, batch, vector):
    with inject(llama, [Add(Site(0, "resid_post"), vector)]):
        with pytest.raises(InputError, match="unembed inside an open `inject`"):
            unembed(llama, torch.zeros(1, 1, llama.d_model))
        with torch.no_grad():
            llama.model(**batch.inputs)
