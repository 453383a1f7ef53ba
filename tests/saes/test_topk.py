"""The equation by a slow loop, and a planted dictionary found again by training."""

import pytest
import torch
from torch import nn

from hooks.errors import InputError
from saes import Dictionary, TopKSAE


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("k", [1, 3, 9])
def test_encoding_and_decoding_are_the_equation_one_number_at_a_time(k):
    sae = TopKSAE(d_in=5, d_sae=11, k=k)
    with torch.no_grad():
        for seed, weight in enumerate(sae.parameters()):
            weight.copy_(randn(*weight.shape, seed=seed))
    sae.requires_grad_(False)
    x = randn(4, 5, seed=9)
    for row, z in zip(x, sae.encode(x), strict=True):
        pre = [
            max(0.0, float(sum((row[i] - sae.b_dec[i]) * sae.W_enc[i, j] for i in range(5)) + sae.b_enc[j]))
            for j in range(11)
        ]
        kept = sorted(range(11), key=lambda j: -pre[j])[:k]
        expected = [pre[j] if j in kept else 0.0 for j in range(11)]
        torch.testing.assert_close(z, torch.tensor(expected))
        back = [float(sum(expected[j] * sae.W_dec[j, i] for j in range(11)) + sae.b_dec[i]) for i in range(5)]
        torch.testing.assert_close(sae.decode(z), torch.tensor(back))
        torch.testing.assert_close(sae(row), torch.tensor(back))


@pytest.mark.parametrize("shape", [(6,), (4, 6), (2, 3, 6), (0, 6)])
def test_any_number_of_leading_axes_is_rows_of_their_own(shape):
    sae, x = TopKSAE(6, 20, 4), randn(*shape)
    z = sae.encode(x)
    assert z.shape == (*shape[:-1], 20)
    alone = [sae.encode(row) for row in x.reshape(-1, 6)]
    if alone:
        torch.testing.assert_close(z.reshape(-1, 20), torch.stack(alone))


def test_at_most_k_latents_are_active_and_none_is_negative():
    for k in (4, 16):
        z = TopKSAE(6, 20, k).encode(randn(200, 6)).detach()
        active = (z > 0).sum(-1)
        assert int(active.max()) <= k
        assert int(active.min()) >= 1
        assert float(z.min()) == 0.0


def test_a_new_dictionary_has_unit_directions_a_transposed_encoder_and_no_biases():
    sae = TopKSAE(6, 20, 4, seed=3)
    torch.testing.assert_close(sae.W_dec.norm(dim=-1), torch.ones(20))
    assert torch.equal(sae.W_enc, sae.W_dec.T)
    assert not sae.b_enc.any()
    assert not sae.b_dec.any()
    assert torch.equal(sae.W_dec, TopKSAE(6, 20, 4, seed=3).W_dec)
    assert not torch.equal(sae.W_dec, TopKSAE(6, 20, 4, seed=4).W_dec)


def test_it_is_a_dictionary():
    sae = TopKSAE(6, 20, 4)
    assert isinstance(sae, Dictionary)
    assert (sae.d_in, sae.d_sae, sae.W_dec.shape) == (6, 20, (20, 6))
    assert not isinstance(nn.Linear(6, 20), Dictionary)


@pytest.mark.parametrize(("d_in", "d_sae", "k"), [(6, 20, 0), (6, 20, 21), (0, 20, 4), (6, 20, -1)])
def test_sizes_that_mean_nothing_are_refused(d_in, d_sae, k):
    with pytest.raises(
        InputError, match=rf"d_in={d_in}, d_sae={d_sae}, k={k}: d_in is 1 or more, and k is in 1\.\.d_sae"
    ):
        TopKSAE(d_in, d_sae, k)


# --- planted truth


def planted(n, *, d_in=24, features=32, active=3, seed=0):
    """Sums of a few of ``features`` unit directions, away from the origin; and what was active."""
    generator = torch.Generator().manual_seed(seed)
    directions = nn.functional.normalize(randn(features, d_in, seed=77), dim=-1)
    codes = torch.zeros(n, features)
    places = torch.rand(n, features, generator=generator).topk(active).indices
    codes.scatter_(1, places, 1 + torch.rand(n, active, generator=generator))
    return codes @ directions + 0.5, codes, directions


def test_a_dictionary_with_the_planted_directions_reads_off_what_was_planted():
    """Orthogonal directions: the codes themselves come back, and nothing of the activation is lost."""
    basis = torch.linalg.qr(randn(24, 24, seed=5))[0]
    sae = TopKSAE(24, 24, 3)
    with torch.no_grad():
        sae.W_dec.copy_(basis)
        sae.W_enc.copy_(basis.T)
        sae.b_dec.copy_(randn(24, seed=6))
    codes = planted(50, features=24)[1]
    x = codes @ basis + sae.b_dec
    torch.testing.assert_close(sae.encode(x).detach(), codes, atol=1e-5, rtol=0)
    torch.testing.assert_close(sae(x).detach(), x.detach(), atol=1e-5, rtol=0)


def test_training_finds_a_planted_dictionary_again():
    """32 directions in 24 dimensions, three at a time; plain gradient descent on the squared error."""
    x, _, directions = planted(2048)
    sae = TopKSAE(24, 64, 3, seed=1)
    optimiser = torch.optim.Adam(sae.parameters(), lr=1e-2)
    for step in range(600):
        chosen = torch.randint(len(x), (256,), generator=torch.Generator().manual_seed(step))
        loss = (sae(x[chosen]) - x[chosen]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    held_out, held_out_codes, _ = planted(500, seed=8)
    with torch.no_grad():
        z, back = sae.encode(held_out), sae(held_out)
    fvu = float((back - held_out).square().sum() / (held_out - held_out.mean(0)).square().sum())
    assert fvu < 0.1
    found = nn.functional.normalize(sae.W_dec.detach(), dim=-1)
    cosines, latents = (directions @ found.T).max(1)
    assert float((cosines > 0.95).float().mean()) > 0.8, "the planted directions were not found"
    good = cosines > 0.95
    agrees = (z[:, latents] > 0) == (held_out_codes > 0)
    assert float(agrees[:, good].float().mean()) > 0.95
    untrained = TopKSAE(24, 64, 3, seed=1)
    with torch.no_grad():
        control = float(
            (untrained(held_out) - held_out).square().sum() / (held_out - held_out.mean(0)).square().sum()
        )
    assert fvu < control / 3, "no better than the dictionary it began as"
