"""Each architecture is its equation, one number at a time; and so is what they share."""

import math

import pytest
import torch

from hooks.errors import InputError, VectorError
from saes import Dictionary, GatedSAE, JumpReLUSAE, Origin, StandardSAE, TopKSAE, Transcoder
from saes.dictionary import Stepwise

D_IN, D_SAE, K = 5, 11, 3
NORMALIZATIONS = ["none", "constant_norm_rescale", "layer_norm"]


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


MAKE = {
    "standard": lambda **options: StandardSAE(D_IN, D_SAE, **options),
    "topk": lambda **options: TopKSAE(D_IN, D_SAE, K, **options),
    "jumprelu": lambda **options: JumpReLUSAE(D_IN, D_SAE, **options),
    "gated": lambda **options: GatedSAE(D_IN, D_SAE, **options),
}


def make(architecture, **options):
    """A dictionary in which no weight is zero; thresholds of both signs."""
    sae = MAKE[architecture](**options)
    with torch.no_grad():
        for seed, weight in enumerate(sae.parameters()):
            weight.copy_(0.7 * randn(*weight.shape, seed=seed))
    return sae.requires_grad_(False)


def normalised(x, how):
    """The entries of one activation, and the size and mean that were taken from it."""
    if how == "constant_norm_rescale":
        size = math.sqrt(sum(v * v for v in x) / D_IN)
        return [v / size for v in x], size, 0.0
    if how == "layer_norm":
        mean = sum(x) / D_IN
        std = math.sqrt(sum((v - mean) ** 2 for v in x) / (D_IN - 1))
        return [(v - mean) / (std + 1e-5) for v in x], std, mean
    return x, 1.0, 0.0


def latents_of(sae, architecture, entries):
    """One activation, already normalised, through the equation of its architecture."""
    shift = sae.b_dec.tolist() if sae.apply_b_dec_to_input else [0.0] * D_IN
    W = sae.W_enc.tolist()
    p = [sum((entries[i] - shift[i]) * W[i][j] for i in range(D_IN)) for j in range(D_SAE)]
    if architecture == "gated":
        gate, r, b = sae.b_gate.tolist(), sae.r_mag.tolist(), sae.b_mag.tolist()
        return [max(0.0, p[j] * math.exp(r[j]) + b[j]) if p[j] + gate[j] > 0 else 0.0 for j in range(D_SAE)]
    pre = [p[j] + sae.b_enc.tolist()[j] for j in range(D_SAE)]
    if architecture == "jumprelu":
        return [max(0.0, pre[j]) if pre[j] > sae.threshold.tolist()[j] else 0.0 for j in range(D_SAE)]
    if architecture == "topk":
        kept = sorted(range(D_SAE), key=lambda j: -pre[j])[:K]
        return [max(0.0, pre[j]) if j in kept else 0.0 for j in range(D_SAE)]
    return [max(0.0, v) for v in pre]


@pytest.mark.parametrize("subtracts", [True, False])
@pytest.mark.parametrize("how", NORMALIZATIONS)
@pytest.mark.parametrize("architecture", MAKE)
def test_it_is_the_equation_one_number_at_a_time(architecture, how, subtracts):
    sae = make(architecture, normalize_activations=how, apply_b_dec_to_input=subtracts)
    x = 2 * randn(6, D_IN, seed=9) + 1
    z = sae.encode(x)
    assert 0 < float((z > 0).float().mean()) < 1, "nothing is decided where all or none is active"
    for row, latents in zip(x, z, strict=True):
        entries, size, mean = normalised(row.tolist(), how)
        expected = latents_of(sae, architecture, entries)
        torch.testing.assert_close(latents, torch.tensor(expected))
        back = [
            size * (sum(expected[j] * float(sae.W_dec[j, i]) for j in range(D_SAE)) + float(sae.b_dec[i]))
            + mean
            for i in range(D_IN)
        ]
        torch.testing.assert_close(sae.decode(latents, row), torch.tensor(back), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(sae(row), torch.tensor(back), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("architecture", MAKE)
def test_encoding_is_an_affine_step_and_the_nonlinearity(architecture):
    sae, (x, y) = make(architecture), randn(2, 6, D_IN, seed=9)
    assert isinstance(sae, Stepwise)
    pre = sae.preactivations
    torch.testing.assert_close(pre(0.3 * x + 0.7 * y), 0.3 * pre(x) + 0.7 * pre(y), atol=1e-5, rtol=1e-5)
    biases = torch.zeros(D_SAE) if architecture == "gated" else sae.b_enc
    torch.testing.assert_close(pre(sae.b_dec), biases, atol=1e-6, rtol=0)
    assert torch.equal(sae.activated(pre(x)), sae.encode(x))
    assert (pre(x) < 0).any()


@pytest.mark.parametrize("how", NORMALIZATIONS)
@pytest.mark.parametrize("architecture", MAKE)
def test_any_number_of_leading_axes_is_rows_of_their_own(architecture, how):
    sae = make(architecture, normalize_activations=how)
    for shape in [(D_IN,), (4, D_IN), (2, 3, D_IN), (0, D_IN)]:
        x = randn(*shape, seed=4)
        z, back = sae.encode(x), sae(x)
        assert z.shape == (*shape[:-1], D_SAE)
        assert back.shape == x.shape
        for row, latents, rebuilt in zip(
            x.reshape(-1, D_IN), z.reshape(-1, D_SAE), back.reshape(-1, D_IN), strict=True
        ):
            torch.testing.assert_close(latents, sae.encode(row))
            torch.testing.assert_close(rebuilt, sae(row))


@pytest.mark.parametrize("architecture", MAKE)
def test_it_is_a_dictionary_that_knows_its_origin(architecture):
    origin = Origin(model="gpt2", metadata={"seed": 3})
    sae = make(architecture, origin=origin)
    assert isinstance(sae, Dictionary)
    assert (sae.d_in, sae.d_sae, sae.W_dec.shape) == (D_IN, D_SAE, (D_SAE, D_IN))
    assert sae.origin is origin
    assert make(architecture).origin == Origin()


@pytest.mark.parametrize("how", NORMALIZATIONS[1:])
def test_latents_alone_do_not_say_how_large_the_activation_was(how):
    sae = make("jumprelu", normalize_activations=how)
    with pytest.raises(
        InputError, match=rf"normalises every activation by itself \({how}\).*decode\(latents, x\)"
    ):
        sae.decode(sae.encode(randn(2, D_IN)))


@pytest.mark.parametrize("how", NORMALIZATIONS)
def test_an_activation_of_zeros_is_no_division_by_zero(how):
    sae = make("jumprelu", normalize_activations=how)
    assert torch.isfinite(sae(torch.zeros(2, D_IN))).all()


@pytest.mark.parametrize("how", NORMALIZATIONS[1:])
def test_a_normalised_dictionary_does_not_see_the_size_of_its_input(how):
    sae, x = make("topk", normalize_activations=how), randn(20, D_IN, seed=2)
    torch.testing.assert_close(sae.encode(1000 * x), sae.encode(x), atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(sae(1000 * x), 1000 * sae(x), atol=1.0, rtol=1e-3)
    assert not torch.allclose(make("topk").encode(1000 * x), make("topk").encode(x), atol=1.0)


@pytest.mark.parametrize("architecture", MAKE)
def test_a_new_one_has_unit_directions_and_a_reader_fills_one_without(architecture):
    sae = MAKE[architecture]()
    torch.testing.assert_close(sae.W_dec.norm(dim=-1), torch.ones(D_SAE))
    assert torch.equal(sae.W_enc, sae.W_dec.T)
    assert torch.equal(sae.W_dec, MAKE[architecture](seed=0).W_dec)
    assert not torch.equal(sae.W_dec, MAKE[architecture](seed=1).W_dec)
    assert MAKE[architecture](seed=None).W_enc.shape == (D_IN, D_SAE)


def test_a_latent_has_a_direction_and_one_that_is_not_there_is_refused():
    sae = make("gated")
    torch.testing.assert_close(sae.direction(10) * sae.W_dec[10].norm(), sae.W_dec[10])
    for latent in (-1, 11, 10**30):
        with pytest.raises(VectorError, match=rf"No latent {latent}: the dictionary has 0\.\.10\."):
            sae.direction(latent)
    with torch.no_grad():
        sae.W_dec[4] = 0
    with pytest.raises(VectorError, match="Latent 4 writes nothing"):
        sae.direction(4)


@pytest.mark.parametrize("kind", [StandardSAE, JumpReLUSAE, GatedSAE])
@pytest.mark.parametrize(("d_in", "d_sae"), [(0, 4), (4, 0), (-1, 4)])
def test_sizes_that_mean_nothing_are_refused(kind, d_in, d_sae):
    with pytest.raises(InputError, match=f"d_in={d_in}, d_sae={d_sae}: both are 1 or more"):
        kind(d_in, d_sae)


@pytest.mark.parametrize("k", [None, 2])
@pytest.mark.parametrize("jump", [True, False])
@pytest.mark.parametrize("skip", [True, False])
def test_a_transcoder_is_its_equation(k, jump, skip):
    coder = Transcoder(D_IN, D_SAE, 4, k=k, jump=jump, skip=skip)
    with torch.no_grad():
        for seed, weight in enumerate(coder.parameters()):
            weight.copy_(0.7 * randn(*weight.shape, seed=seed))
    coder.requires_grad_(False)
    for row in randn(6, D_IN, seed=9):
        pre = [
            sum(float(row[i] * coder.W_enc[i, j]) for i in range(D_IN)) + float(coder.b_enc[j])
            for j in range(D_SAE)
        ]
        threshold = coder.threshold.tolist() if jump else [0.0] * D_SAE
        z = [max(0.0, p) if p > t else 0.0 for p, t in zip(pre, threshold, strict=True)]
        kept = sorted(range(D_SAE), key=lambda j: -z[j])[: k or D_SAE]
        z = torch.tensor([z[j] if j in kept else 0.0 for j in range(D_SAE)])
        torch.testing.assert_close(coder.encode(row), z)
        written = torch.tensor(
            [
                sum(float(z[j] * coder.W_dec[j, i]) for j in range(D_SAE)) + float(coder.b_dec[i])
                for i in range(4)
            ]
        )
        torch.testing.assert_close(coder.decode(z), written)
        past = (
            torch.tensor([sum(float(row[j] * coder.W_skip[i, j]) for j in range(D_IN)) for i in range(4)])
            if skip
            else 0
        )
        torch.testing.assert_close(coder(row), written + past)
