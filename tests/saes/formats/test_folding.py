"""Each folding, against doing the same to the activations themselves."""

import pytest
import torch

from saes import GatedSAE, JumpReLUSAE, StandardSAE, TopKSAE
from saes.formats.folding import fold_decoder_norms, fold_scale, fold_whitening
from saes.formats.weights import filled

KINDS = [StandardSAE, lambda *sizes, **options: TopKSAE(*sizes, 4, **options), JumpReLUSAE, GatedSAE]
X = 3 * torch.randn(40, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64).float()


def make(kind, subtracts):
    generator = torch.Generator().manual_seed(1)
    sae = kind(6, 20, apply_b_dec_to_input=subtracts)
    with torch.no_grad():
        for weight in sae.parameters():
            weight.copy_(0.6 * torch.randn(weight.shape, generator=generator))
    return sae.requires_grad_(False)


def refilled(sae, kind, weights):
    return filled(kind(6, 20, apply_b_dec_to_input=sae.apply_b_dec_to_input), weights)


@pytest.mark.parametrize("subtracts", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("factor", [0.2, 1.0, 7.0])
def test_a_folded_scale_is_a_scaled_activation(kind, subtracts, factor):
    sae = make(kind, subtracts)
    folded = refilled(sae, kind, fold_scale(sae.state_dict(), factor))
    torch.testing.assert_close(folded.encode(X), sae.encode(factor * X), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(folded(X), sae(factor * X) / factor, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("subtracts", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_folded_whitening_is_a_whitened_activation(kind, subtracts):
    sae = make(kind, subtracts)
    matrix = torch.eye(6) + 0.3 * torch.randn(6, 6, generator=torch.Generator().manual_seed(3))
    mean, inverse = torch.arange(6.0), matrix.inverse()
    folded = refilled(
        sae, kind, fold_whitening(sae.state_dict(), mean, matrix, inverse, apply_b_dec_to_input=subtracts)
    )
    white = (X - mean) @ matrix
    torch.testing.assert_close(folded.encode(X), sae.encode(white), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(folded(X), sae(white) @ inverse + mean, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("subtracts", [True, False])
def test_folded_norms_change_the_latents_and_not_what_they_stand_for(subtracts):
    sae = make(StandardSAE, subtracts)
    folded = refilled(sae, StandardSAE, fold_decoder_norms(sae.state_dict()))
    torch.testing.assert_close(folded.W_dec.norm(dim=-1), torch.ones(20))
    norms = sae.W_dec.norm(dim=-1)
    torch.testing.assert_close(folded.encode(X), sae.encode(X) * norms, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(folded(X), sae(X), atol=1e-4, rtol=1e-5)


def test_a_latent_that_writes_nothing_stays_one():
    sae = make(StandardSAE, True)
    with torch.no_grad():
        sae.W_dec[3] = 0
    folded = refilled(sae, StandardSAE, fold_decoder_norms(sae.state_dict()))
    assert torch.isfinite(folded(X)).all()
    torch.testing.assert_close(folded(X), sae(X), atol=1e-4, rtol=1e-5)


def test_nothing_is_folded_in_place():
    sae = make(GatedSAE, False)
    before = {name: weight.clone() for name, weight in sae.state_dict().items()}
    fold_scale(sae.state_dict(), 3.0)
    fold_whitening(sae.state_dict(), torch.ones(6), torch.eye(6), torch.eye(6), apply_b_dec_to_input=False)
    assert all(torch.equal(weight, before[name]) for name, weight in sae.state_dict().items())
