"""Planted combinations of decoder rows come back; what is no combination is no better than chance."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import nnls

from hooks import Add, Site
from hooks.errors import InputError, VectorError
from hooks.positions import prompt
from interp.decompose import decompose
from interp.stats import band
from saes import Origin, TopKSAE

SITE = Site(1, "resid_post")


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def dictionary(d=96, n=500, *, seed=0, lengths=True):
    """Random rows, of lengths between a half and two; or of one."""
    made = TopKSAE(d, n, 8, seed=seed, origin=Origin(site=SITE))
    if lengths:
        factor = 2 ** (2 * torch.rand(n, generator=torch.Generator().manual_seed(seed + 99)) - 1)
        with torch.no_grad():
            made.W_dec.mul_(factor[:, None])
    return made.requires_grad_(False)


def planted(sae, n_parts, *, seed=0):
    """Latents, the coefficients that they have, and the vector."""
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randperm(sae.d_sae, generator=generator)[:n_parts]
    coefficients = (0.5 + torch.rand(n_parts, generator=generator)) / sae.W_dec[latents].norm(dim=-1)
    return latents.tolist(), coefficients, coefficients @ sae.W_dec[latents]


# --- planted truth


@pytest.mark.parametrize("seed", range(6))
def test_a_planted_combination_comes_back_exactly(seed):
    sae = dictionary(seed=seed)
    latents, coefficients, vector = planted(sae, 5, seed=seed)
    found = decompose(vector, sae, k=12)
    assert sorted(found.latents) == sorted(latents), "and nothing that was not planted, though k allows it"
    where = [latents.index(latent) for latent in found.latents]
    torch.testing.assert_close(found.coefficients, coefficients[where], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.parts, vector, atol=1e-5, rtol=1e-5)
    assert found.explained[4] == pytest.approx(1, abs=1e-9)
    assert found.explained[3] < 0.99
    assert found.cosine == pytest.approx(1, abs=1e-9)
    assert found.p_value == 1 / 21


def test_the_longest_part_comes_first():
    sae = dictionary()
    sizes = {7: 1.0, 400: 3.0, 33: 2.0}
    unit = sae.W_dec / sae.W_dec.norm(dim=-1, keepdim=True)
    found = decompose(sum(size * unit[j] for j, size in sizes.items()), sae, k=3)
    assert found.latents == (400, 33, 7)
    lengths = [float(a * sae.W_dec[j].norm()) for j, a in zip(found.latents, found.coefficients, strict=True)]
    assert lengths == pytest.approx([3, 2, 1], rel=1e-5)
    start = f"1.000 of the vector in 3 parts, and {found.control[-1].low:.3f} to "
    assert str(found).startswith(start)
    assert re.search(r" of 20 controls: 400 \(\d\S*\), 33 \(\d\S*\), 7 \(\d\S*\)$", str(found))


def test_what_the_dictionary_cannot_say_is_the_residual():
    """Rows in the first half of the dimensions: what is in the second half stays."""
    sae = dictionary()
    sae.W_dec[:, 48:] = 0
    _, _, vector = planted(sae, 3, seed=4)
    beyond = torch.cat([torch.zeros(48), randn(48, seed=5)])
    found = decompose(vector + beyond, sae, k=3)
    torch.testing.assert_close(found.residual, beyond, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.parts, vector, atol=1e-5, rtol=1e-5)


# --- identities


@pytest.mark.parametrize("k", [1, 7, 40])
def test_parts_and_residual_are_the_vector_at_a_right_angle(k):
    sae, vector = dictionary(), 3 * randn(96, seed=8)
    found = decompose(vector, sae, k=k)
    torch.testing.assert_close(found.parts + found.residual, vector, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(found.coefficients @ sae.W_dec[list(found.latents)], found.parts)
    assert abs(float(found.parts @ found.residual)) < 1e-4
    left = float((found.residual.norm() / vector.norm()) ** 2)
    assert found.explained[-1] == pytest.approx(1 - left, abs=1e-6)
    assert found.explained[-1] == pytest.approx(found.cosine**2, abs=1e-6)
    assert 0 < len(found.latents) <= k
    assert len(set(found.latents)) == len(found.latents)
    assert (found.coefficients > 0).all()


def test_more_parts_explain_no_less_and_fewer_are_the_beginning_of_more():
    sae, vector = dictionary(), randn(96, seed=8)
    found = decompose(vector, sae, k=30)
    assert found.explained.shape == (30,)
    assert len(found.control) == 30
    assert (np.diff(found.explained) >= -1e-12).all()
    np.testing.assert_allclose(decompose(vector, sae, k=10).explained, found.explained[:10], atol=1e-12)


def test_with_every_latent_it_is_the_best_that_non_negative_parts_can_do():
    """One convex problem, which scipy solves over all rows at once."""
    sae = dictionary(20, 15)
    for seed in range(5):
        vector = randn(20, seed=seed)
        weights, _ = nnls(sae.W_dec.double().numpy().T, vector.double().numpy())
        found = decompose(vector, sae, k=15)
        assert sorted(found.latents) == np.flatnonzero(weights).tolist()
        expected = torch.from_numpy(weights[list(found.latents)]).float()
        torch.testing.assert_close(found.coefficients, expected, atol=1e-5, rtol=1e-4)


def test_one_part_is_the_row_of_the_largest_cosine():
    sae, vector = dictionary(), randn(96, seed=3)
    cosines = torch.cosine_similarity(sae.W_dec, vector[None], dim=-1)
    found = decompose(vector, sae, k=1)
    assert found.latents == (int(cosines.argmax()),)
    assert found.cosine == pytest.approx(float(cosines.max()), abs=1e-6)


@pytest.mark.parametrize("factor", [1e-3, 250.0])
def test_the_size_of_the_vector_and_of_the_rows_only_scale_the_coefficients(factor):
    sae, vector = dictionary(), randn(96, seed=3)
    plain, longer = decompose(vector, sae, k=8), decompose(factor * vector, sae, k=8)
    assert longer.latents == plain.latents
    torch.testing.assert_close(longer.coefficients, factor * plain.coefficients, atol=0, rtol=1e-4)
    sae.W_dec.mul_(factor)
    rescaled = decompose(vector, sae, k=8)
    assert rescaled.latents == plain.latents
    torch.testing.assert_close(rescaled.coefficients, plain.coefficients / factor, atol=0, rtol=1e-4)
    torch.testing.assert_close(rescaled.parts, plain.parts, atol=1e-5, rtol=1e-4)


def test_parts_are_never_taken_away():
    """Orthogonal rows: a negative share of one is in the residual, and the whole of it is no part."""
    sae = TopKSAE(6, 6, 2)
    with torch.no_grad():
        sae.W_dec.copy_(torch.eye(6))
    vector = torch.tensor([2.0, -3.0, 0.0, 1.0, 0.0, 0.0])
    found = decompose(vector, sae, k=6)
    assert found.latents == (0, 3)
    torch.testing.assert_close(found.residual, torch.tensor([0.0, -3.0, 0.0, 0.0, 0.0, 0.0]))
    assert decompose(-vector, sae, k=6).latents == (1,)
    nothing = decompose(-vector.abs(), sae, k=6)
    assert (nothing.latents, nothing.cosine, nothing.p_value) == ((), 0.0, 1.0)
    assert not nothing.explained.any()
    assert torch.equal(nothing.residual, nothing.vector)


# --- dead latents


@pytest.mark.parametrize("alive", ["mask", "density"])
def test_dead_latents_are_left_out_as_if_they_were_not_there(alive):
    sae = dictionary()
    latents, _, vector = planted(sae, 5, seed=2)
    density = torch.rand(500, generator=torch.Generator().manual_seed(1)) + 0.01
    density[latents[:2]] = 0
    density[100:150] = 0
    found = decompose(vector, sae, k=9, alive=density if alive == "density" else density > 0)
    assert not {*found.latents} & {*density.eq(0).nonzero()[:, 0].tolist()}
    assert found.explained[-1] < 0.9
    kept = density.nonzero()[:, 0]
    smaller = TopKSAE(96, len(kept), 8)
    with torch.no_grad():
        smaller.W_dec.copy_(sae.W_dec[kept])
    alone = decompose(vector, smaller, k=9)
    assert [int(kept[j]) for j in alone.latents] == list(found.latents)
    np.testing.assert_allclose(alone.explained, found.explained, atol=1e-9)
    assert [b.median for b in alone.control] == pytest.approx([b.median for b in found.control])


def test_a_latent_that_writes_nothing_is_never_taken():
    sae = dictionary(20, 15)
    sae.W_dec[4] = 0
    assert 4 not in decompose(randn(20), sae, k=14).latents
    with pytest.raises(InputError, match="k=15: it is 1 or more, of the 14 latents"):
        decompose(randn(20), sae, k=15)


# --- controls


def test_a_random_vector_is_explained_no_better_than_the_controls():
    sae = dictionary(40, 200)
    found = [decompose(randn(40, seed=1000 + i), sae, k=6, seed=i) for i in range(40)]
    inside = [f.control[-1].low <= f.explained[-1] <= f.control[-1].high for f in found]
    assert 0.7 < np.mean(inside) < 1.0, "a band of 5% to 95% of 20 draws"
    assert 0.35 < np.mean([f.p_value for f in found]) < 0.65
    assert found[0].control[-1].median > 0.3, "any vector is explained to a good part"


def test_a_vector_that_is_partly_planted_is_explained_better_than_the_controls():
    sae = dictionary()
    _, _, vector = planted(sae, 4, seed=2)
    found = decompose(vector + 0.8 * vector.norm() * randn(96, seed=5) / 96**0.5, sae, k=4)
    assert found.p_value == 1 / 21
    assert found.explained[-1] > found.control[-1].high + 0.1


def test_the_controls_are_decomposed_as_the_vector_is():
    sae, vector, others = dictionary(), randn(96, seed=3), 5 * randn(7, 96, seed=4)
    found = decompose(vector, sae, k=5, controls=others)
    alone = np.stack([decompose(other, sae, k=5).explained for other in others])
    for step in range(5):
        assert vars(found.control[step]) == pytest.approx(vars(band(alone[:, step])))
    assert found.p_value == (1 + int((alone[:, -1] >= found.explained[-1]).sum())) / 8


def test_the_seed_fixes_the_random_ones():
    sae, vector = dictionary(), randn(96, seed=3)
    one, again, other = (decompose(vector, sae, k=3, seed=seed) for seed in (1, 1, 2))
    assert one.control == again.control
    assert one.control != other.control
    assert one.latents == other.latents
    assert decompose(vector, sae, k=3, n_random=50).control[0].n == 50


# --- steering with a part of it


@pytest.mark.parametrize("scale", [0.3, -2.0])
def test_edits_with_the_parts_or_the_residual_alone_are_as_long_as_the_whole(llama, scale):
    sae = dictionary(32, 100)
    vector = 4 * randn(32, seed=6)
    whole = Add(SITE, 0.7 * vector, scale, prompt, made_for=llama.fingerprint)
    found = decompose(vector, sae, k=5)
    for edit, along in (
        (found.parts_alone(whole), found.parts),
        (found.residual_alone(whole), found.residual),
    ):
        edit.check(llama)
        (added,), (theirs,) = edit.parameters(), whole.parameters()
        assert float(added.norm()) == pytest.approx(float(theirs.norm()), rel=1e-5)
        sign = 1 if scale > 0 else -1
        assert float(torch.cosine_similarity(added, sign * along, dim=0)) == pytest.approx(1, abs=1e-5)
        assert replace(edit, vector=whole.vector).__dict__ == whole.__dict__


def test_where_nothing_is_left_or_nothing_found_there_is_nothing_to_steer_with():
    sae = dictionary()
    _, _, vector = planted(sae, 3)
    found = decompose(vector, sae, k=5)
    found.parts_alone(Add(SITE, vector))
    with pytest.raises(VectorError, match="The residual cannot steer, being zero: 3 parts explain 1 of"):
        found.residual_alone(Add(SITE, vector))
    eye = TopKSAE(4, 4, 2)
    with torch.no_grad():
        eye.W_dec.copy_(torch.eye(4))
    nothing = decompose(-torch.ones(4), eye, k=2)
    with pytest.raises(VectorError, match="The sum of the parts cannot steer, being zero: 0 parts"):
        nothing.parts_alone(Add(SITE, -torch.ones(4)))


@pytest.mark.parametrize("other", [randn(96, seed=7), -randn(96, seed=3), torch.ones(95)])
def test_an_edit_with_another_vector_is_refused(other):
    found = decompose(randn(96, seed=3), dictionary(), k=5)
    with pytest.raises(VectorError, match=r"blocks\.1\.hook_resid_post adds another vector than the one"):
        found.parts_alone(Add(SITE, other))


# --- refusals


@pytest.mark.parametrize(
    ("vector", "text"),
    [
        (torch.zeros(96), "The vector to decompose is all zero"),
        (torch.full((96,), float("nan")), "The vector to decompose has NaN or infinite"),
        (torch.full((96,), float("inf")), "The vector to decompose has NaN or infinite"),
        (torch.ones(95), "has 95 entries, and the dictionary writes 96"),
    ],
)
def test_a_vector_that_cannot_be_decomposed_is_refused(vector, text):
    with pytest.raises(VectorError, match=text):
        decompose(vector, dictionary(), k=3)


@pytest.mark.parametrize("k", [0, -1, 501])
def test_a_number_of_parts_that_there_cannot_be_is_refused(k):
    with pytest.raises(InputError, match=f"k={k}: it is 1 or more, of the 500 latents to choose from"):
        decompose(torch.ones(96), dictionary(), k=k)


def test_a_mask_of_another_length_or_of_none_is_refused():
    with pytest.raises(InputError, match="`alive` has 499 entries for 500 latents"):
        decompose(torch.ones(96), dictionary(), k=3, alive=torch.ones(499))
    with pytest.raises(InputError, match="of the 0 latents to choose from"):
        decompose(torch.ones(96), dictionary(), k=3, alive=torch.zeros(500))


def test_no_controls_or_zero_ones_are_refused():
    with pytest.raises(InputError, match=r"No controls: .*n_random=20"):
        decompose(torch.ones(96), dictionary(), k=3, n_random=0)
    with pytest.raises(VectorError, match="Control 1 is all zero"):
        decompose(torch.ones(96), dictionary(), k=3, controls=torch.eye(2, 96) * torch.tensor([[1.0], [0.0]]))


def test_a_dictionary_of_another_site_or_that_is_not_finite_is_refused():
    sae = dictionary()
    decompose(torch.ones(96), sae, k=3, site=Site(2, "resid_pre"))
    with pytest.raises(VectorError, match=r"reads blocks\.1\.hook_resid_post, and blocks\.2\.hook_mlp_out"):
        decompose(torch.ones(96), sae, k=3, site=Site(2, "mlp_out"))
    sae.W_dec[3, 3] = float("nan")
    with pytest.raises(VectorError, match="W_dec has entries that are not finite"):
        decompose(torch.ones(96), sae, k=3)
