"""Activity is its definition, however the rows are cut into parts; and is kept beside the weights."""

import numpy as np
import pytest
import torch

from hooks.capture import run_to
from hooks.errors import EmptySelectionError, InputError, VectorError
from hooks.positions import everything, first
from hooks.rows import Row, pad_left
from hooks.sites import Site
from saes import Origin, TopKSAE
from saes.activity import Activity, latent_activity

D, SITE = 32, Site(1, "resid_post")


@pytest.fixture(scope="module")
def texts():
    """Rows of 4 to 30 tokens of text."""
    draws = torch.Generator().manual_seed(6)
    lengths = (9, 30, 4, 17, 17, 5, 22, 8, 13)
    return [Row(tuple(torch.randint(6, 100, (n,), generator=draws).tolist()), n) for n in lengths]


@pytest.fixture(scope="module")
def sae():
    return TopKSAE(D, 90, 6, seed=2, origin=Origin(site=SITE)).requires_grad_(False)


def alone(lm, row):
    return run_to(lm, pad_left([row], [0], pad_id=0, device=lm.device), [SITE])[SITE][0]


def test_activity_is_its_definition_however_the_rows_are_cut(llama, texts, sae, monkeypatch):
    z = [sae.encode(alone(llama, row)) for row in texts]
    flat = torch.cat(z)
    whole = latent_activity(llama, texts, sae, top=4)
    assert whole.n_tokens == len(flat)
    np.testing.assert_allclose(whole.density, (flat > 0).float().mean(0), atol=1e-6)
    np.testing.assert_allclose(whole.max_activation, flat.amax(0), atol=1e-4)
    assert whole.l0 == pytest.approx(float((flat > 0).sum(1).float().mean()), abs=1e-5)
    for latent in torch.argsort(whole.density, descending=True)[:5].tolist():
        best = sorted(range(len(texts)), key=lambda n: -float(z[n][:, latent].max()))[:4]
        best = [n for n in best if z[n][:, latent].max() > 0]
        assert whole.top_row[: len(best), latent].tolist() == best
        at = [int(z[n][:, latent].argmax()) for n in best]
        assert whole.top_position[: len(best), latent].tolist() == at
    monkeypatch.setattr("saes.activity.NUMBERS", 90 * 7)
    cut = latent_activity(llama, texts, sae, top=4)
    torch.testing.assert_close(cut.density, whole.density)
    torch.testing.assert_close(cut.top_value[0], whole.top_value[0])


def test_activity_leaves_out_what_stands_for_no_text_and_says_where_nothing_is_left(llama, sae):
    rows = [Row((1, 40, 41, 2), 4), Row((1, 42), 2)]
    assert latent_activity(llama, rows, sae).n_tokens == 3
    assert latent_activity(llama, rows, sae, positions=everything - first(2)).n_tokens == 1
    with pytest.raises(EmptySelectionError, match="2 rows"):
        latent_activity(llama, rows, sae, positions=first(1))


def test_activity_is_kept_beside_the_weights(llama, texts, sae, tmp_path):
    made = latent_activity(llama, texts[:4], sae)
    made.save(tmp_path)
    read = Activity.load(tmp_path, 90)
    assert read.n_tokens == made.n_tokens
    assert torch.equal(read.density, made.density)
    assert torch.equal(read.max_activation, made.max_activation)
    with pytest.raises(VectorError, match=r"must be finite float32 of shape \(91,\)"):
        Activity.load(tmp_path, 91)
    file = tmp_path / "latents.safetensors"
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(VectorError, match="damaged"):
        Activity.load(tmp_path, 90)
    with pytest.raises(InputError, match=r"has no latents\.safetensors"):
        Activity.load(tmp_path / "other", 90)
