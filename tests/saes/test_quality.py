"""Quality is its definition, by a hook of torch on rows alone; planted dictionaries score as they must."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from hooks import Add, Site, inject
from hooks.errors import EmptySelectionError, InputError, VectorError
from hooks.moments import moments
from hooks.positions import first, last
from hooks.rows import Row
from saes import JumpReLUSAE, Origin, StandardSAE, TopKSAE
from saes.quality import quality

D, SITE, BOS, END = 32, Site(1, "resid_post"), 1, 2


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def text():
    """Rows of 3 to 12 tokens that begin with a special one; one has another in its middle."""
    generator = torch.Generator().manual_seed(3)
    made = []
    for n in (9, 3, 12, 5, 7, 7):
        ids = [BOS, *torch.randint(6, 100, (n - 1,), generator=generator).tolist()]
        made.append(Row(tuple(ids), n))
    ids = list(made[2].tokens)
    ids[6] = END
    made[2] = Row(tuple(ids), len(ids))
    return made


@pytest.fixture(scope="module")
def sae():
    made = JumpReLUSAE(D, 80, origin=Origin(site=SITE))
    with torch.no_grad():
        made.b_enc.copy_(0.5 * randn(80, seed=1))
        made.threshold.copy_(18.0 + 8 * randn(80, seed=2).abs())
        made.threshold[5] = 1e6  # dead
        made.b_dec.copy_(randn(D, seed=3))
    return made.requires_grad_(False)


def perfect():
    """Both signs of every coordinate: nothing is lost."""
    made = StandardSAE(D, 2 * D, origin=Origin(site=SITE))
    both = torch.cat([torch.eye(D), -torch.eye(D)])
    with torch.no_grad():
        made.W_dec.copy_(both)
        made.W_enc.copy_(both.T)
    return made.requires_grad_(False)


def of_the_mean(mean):
    made = StandardSAE(D, 10, origin=Origin(site=SITE))
    with torch.no_grad():
        made.W_dec.zero_()
        made.b_dec.copy_(mean)
    return made.requires_grad_(False)


@torch.no_grad()
def slow(lm, text, rebuild=None):
    """Activations, and cross-entropy by row, through a hook of torch on rows alone."""
    seen, nats = [], []

    def hook(_module, _args, out):
        hidden = out[0] if isinstance(out, tuple) else out
        seen.append(hidden[0][plain].clone())
        if rebuild is None:
            return None
        new = hidden.clone()
        new[0, plain] = rebuild(hidden[0][plain])
        return (new, *out[1:]) if isinstance(out, tuple) else new

    handle = lm.model.model.layers[1].register_forward_hook(hook)
    for row in text:
        ids = torch.tensor(row.tokens)
        plain = ids > 5
        logits = lm.model(ids[None]).logits[0]
        every = functional.cross_entropy(logits[:-1], ids[1:], reduction="none")
        nats.append(every[plain[1:]])
    handle.remove()
    return torch.cat(seen), nats


def numbers(found):
    return {name: value for name, value in found.as_dict().items() if name != "site"}


def test_every_number_is_its_definition(llama, text, sae):
    found = quality(llama, text, sae, seed=4)
    x, clean = slow(llama, text)
    assert (found.site, found.n_tokens, found.n_next_tokens) == (SITE, 36, 36)
    z = sae.encode(x)
    assert 0 < float((z > 0).sum(-1).float().mean()) < D
    assert found.l0 == pytest.approx(float((z > 0).sum(-1).float().mean()), abs=1e-6)
    np.testing.assert_allclose(found.density, (z > 0).float().mean(0), atol=1e-6)
    np.testing.assert_allclose(found.max_activation, z.amax(0), atol=1e-4)
    assert found.dead_fraction == pytest.approx(float((z.amax(0) == 0).float().mean()))
    assert 0 < found.dead_fraction < 1

    mean = x.mean(0)
    _, _, Vt = np.linalg.svd((x - mean).numpy(), full_matrices=False)
    V = torch.from_numpy(Vt[: found.rank])
    start = TopKSAE(D, 80, found.rank, seed=4)
    with torch.no_grad():
        start.b_dec.copy_(mean)
    rebuilds = {
        "dictionary": sae,
        "pca": lambda x: mean + (x - mean) @ V.T @ V,
        "random": start.requires_grad_(False),
        "mean": lambda x: mean.expand_as(x),
    }
    losses = {name: slow(llama, text, rebuild)[1] for name, rebuild in rebuilds.items()}
    total = {name: float(torch.cat(nats).mean()) for name, nats in losses.items()}
    plain = float(torch.cat(clean).mean())
    assert found.clean_ce_nats == pytest.approx(plain, abs=1e-5)
    np.testing.assert_allclose(found.clean_row_ce_nats, [float(n.mean()) for n in clean], atol=1e-4)
    for name, rebuild in rebuilds.items():
        kept = getattr(found, name)
        fvu = float((x - rebuild(x)).square().sum() / (x - mean).square().sum())
        assert kept.fvu == pytest.approx(fvu, rel=1e-3), name
        assert kept.ce_nats == pytest.approx(total[name], abs=1e-4), name
        share = (total["mean"] - total[name]) / (total["mean"] - plain)
        assert kept.recovered == pytest.approx(share, abs=1e-3), name
        np.testing.assert_allclose(kept.row_ce_nats, [float(n.mean()) for n in losses[name]], atol=1e-3)


def test_a_perfect_dictionary_keeps_all(llama, text):
    found = quality(llama, text, perfect())
    assert found.dictionary.fvu == pytest.approx(0, abs=1e-9)
    assert found.dictionary.recovered == pytest.approx(1, abs=1e-4)
    assert found.dictionary.ce_nats == pytest.approx(found.clean_ce_nats, abs=1e-5)
    assert found.l0 == pytest.approx(D, abs=0.01)
    assert found.pca.fvu == pytest.approx(0, abs=1e-9), "of full rank"


def test_a_dictionary_of_the_mean_keeps_as_much_as_the_mean(llama, text):
    at = moments(llama, [Row(row.tokens[1:], 1) for row in text[:1]], [SITE])  # any mean of another corpus
    found = quality(llama, text, of_the_mean(at[SITE].mean.float()))
    assert found.dictionary.fvu > 1, "the mean of other activations keeps less than their own"
    x, _ = slow(llama, text)
    found = quality(llama, text, of_the_mean(x.mean(0)))
    assert found.dictionary.fvu == pytest.approx(1, abs=1e-5)
    assert found.dictionary.recovered == pytest.approx(0, abs=1e-3)
    assert found.mean.fvu == pytest.approx(1, abs=1e-5)
    assert found.mean.recovered == 0


def test_pca_of_as_many_numbers_beats_what_was_never_trained(llama, text, sae):
    found = quality(llama, text, sae)
    assert found.pca.fvu < found.random.fvu
    assert found.pca.fvu < 1


def test_it_does_not_depend_on_the_order_of_the_rows(llama, text, sae):
    one, other = quality(llama, text, sae), quality(llama, text[::-1], sae)
    assert numbers(other) == pytest.approx(numbers(one), rel=1e-4)
    torch.testing.assert_close(one.pca.row_ce_nats, other.pca.row_ce_nats.flip(0), atol=1e-4, rtol=1e-4)


def test_a_few_latents_at_a_time_are_as_good_as_all(llama, text, sae, monkeypatch):
    whole = numbers(quality(llama, text, sae))
    monkeypatch.setattr("saes.quality.NUMBERS", 5 * 80)
    monkeypatch.setattr("saes.quality.LOGITS", 1)
    assert numbers(quality(llama, text, sae)) == pytest.approx(whole, rel=1e-4)


@pytest.mark.parametrize("positions", [last(2), first(3)])
def test_only_what_is_selected_is_counted_and_replaced(llama, text, positions):
    found = quality(llama, text, perfect(), positions=positions)
    assert 0 < found.n_tokens < 36
    assert found.n_next_tokens == 36
    assert found.dictionary.recovered == pytest.approx(1, abs=1e-3)


def test_no_hook_is_left_and_progress_is_told(llama, text, sae, hook_count):
    before, tokens = hook_count(llama.model), []
    quality(llama, text, sae, on_tokens=tokens.append)
    assert hook_count(llama.model) == before
    assert sum(tokens) == 6 * sum(len(row.tokens) for row in text)


def test_every_family_can_be_judged(lm, text):
    made = perfect()
    made.origin = Origin()
    for kind in lm.anatomy.kinds:
        found = quality(lm, text, made, site=Site(1, kind))
        assert found.dictionary.fvu == pytest.approx(0, abs=1e-6)
        assert found.dictionary.ce_nats == pytest.approx(found.clean_ce_nats, abs=1e-4)


def test_the_card_is_plain_numbers(llama, text, sae):
    card = quality(llama, text, sae).as_dict()
    assert card["site"] == "blocks.1.hook_resid_post"
    assert {"dictionary_fvu", "pca_fvu", "random_fvu", "mean_fvu", "dictionary_recovered"} <= card.keys()
    assert all(isinstance(value, str | int | float) for value in card.values())
    assert not any(math.isnan(value) for value in card.values() if isinstance(value, float))


def test_what_cannot_be_judged_is_refused(llama, text, sae):
    with pytest.raises(InputError, match="does not say which site it reads"):
        quality(llama, text, TopKSAE(D, 80, 4))
    with pytest.raises(VectorError, match="reads activations 31 wide"):
        quality(llama, text, TopKSAE(31, 80, 4), site=SITE)
    with pytest.raises(VectorError, match="was asked for"):
        quality(llama, text, sae, site=Site(0, "resid_post"))
    with inject(llama, [Add(SITE, randn(D))]), pytest.raises(InputError, match="Edits are open"):
        quality(llama, text, sae)
    with pytest.raises(EmptySelectionError, match="matches no token of 1 rows that stands for text"):
        quality(llama, [Row((BOS, END), 2)], sae)
    with pytest.raises(InputError, match=r"The 1 activations at .* do not vary"):
        quality(llama, [Row((BOS, 20), 2)], sae)
