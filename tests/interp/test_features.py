"""A planted mode feature is found by every selector; where conditions are shuffled, nothing is."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from hooks.errors import InputError, VectorError
from hooks.positions import last
from hooks.rows import Row
from hooks.sites import Site
from interp.features import (
    Ranking,
    auroc,
    decoder_cosine,
    differential,
    matched_random,
    reason_score,
    stability,
)
from interp.token_activations import token_activations
from saes import Origin, StandardSAE
from saes.activity import Activity

D, SITE, PLANTED = 32, Site(1, "resid_post"), 17
SELECTORS = {"differential": differential, "auroc": auroc}


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def sparse(n, d_sae, seed):
    """Latents of which each is active in its own share of the rows, the same prompt alike in both."""
    values = randn(n, d_sae, seed=seed).abs()
    active = torch.rand(n, d_sae, generator=torch.Generator().manual_seed(seed + 1)) < 0.3
    return values * active


@pytest.fixture(scope="module")
def conditions():
    """60 prompts put in two ways; a latent is on in the first that is off in the second."""
    shared = sparse(60, 200, 1)
    a, b = shared + 0.5 * sparse(60, 200, 3), shared + 0.5 * sparse(60, 200, 5)
    a[:, PLANTED], b[:, PLANTED] = 2 + randn(60, seed=7).abs(), 0.0
    return a, b


@pytest.mark.parametrize("name", SELECTORS)
def test_a_planted_latent_is_first_significant_and_stable(conditions, name):
    found = SELECTORS[name](*conditions)
    assert found.selector == name
    assert found.top(3)[0] == PLANTED
    assert found.rank_of(PLANTED) == 0
    q = found.q_value()
    assert q[PLANTED] < 1e-6
    assert set(np.flatnonzero(q < 0.05)) == {PLANTED}
    share = stability(SELECTORS[name], *conditions, 1, n_resamples=20)
    assert share[PLANTED] == 1
    assert share.sum() == pytest.approx(1)


def test_the_decoder_row_that_makes_the_difference_is_first():
    sae = StandardSAE(D, 200, seed=3).requires_grad_(False)
    noise = randn(2, 60, D, seed=4)
    a, b = noise[0] + 3.0 * sae.W_dec[PLANTED], noise[1]
    found = decoder_cosine(sae, a, b)
    assert found.top(1) == [PLANTED]
    assert found.q_value()[PLANTED] < 1e-6
    vector = (a - b).mean(0)
    expected = torch.cosine_similarity(sae.W_dec, vector[None], dim=-1)
    np.testing.assert_allclose(found.score, expected, atol=1e-6)


@pytest.mark.parametrize("name", [*SELECTORS, "decoder_cosine"])
def test_on_shuffled_conditions_no_more_are_found_than_the_rate_allows(conditions, name):
    """Each pair's two sides change places by a coin, 100 times. A discovery at q = 0.05 of any latent is
    false then, and comes in 5% of the runs at most; 12 of 100 has a chance of 0.4% at that rate."""
    sae = StandardSAE(D, 200, seed=3).requires_grad_(False)
    a, b = (randn(60, D, seed=8), randn(60, D, seed=9)) if name == "decoder_cosine" else conditions
    select = (lambda a, b: decoder_cosine(sae, a, b)) if name == "decoder_cosine" else SELECTORS[name]
    coin = torch.Generator().manual_seed(11)
    runs = 0
    for _ in range(100):
        swap = torch.rand(len(a), 1, generator=coin) < 0.5
        found = select(torch.where(swap, b, a), torch.where(swap, a, b))
        runs += bool((found.q_value() < 0.05).any())
    assert stats.binom.sf(11, 100, 0.05) < 0.005
    assert runs < 12


def test_p_values_are_those_of_the_textbook():
    a = torch.tensor([[1.0, 0.0], [1.0, 2.0], [1.0, 1.0], [1.0, 0.5], [3.0, 0.0]])
    b = torch.tensor([[0.0, 0.0], [0.0, 1.0], [0.0, 2.0], [0.0, 0.0], [0.0, 0.0]])
    found = differential(a, b)
    np.testing.assert_allclose(found.score, [1.4, 0.1])
    assert found.p_value[0] == pytest.approx(0.5**5)
    assert found.p_value[1] == pytest.approx(stats.binomtest(2, 3, alternative="greater").pvalue)
    area = auroc(a, b)
    pairs = [(x > y) + 0.5 * (x == y) for x in a[:, 1].tolist() for y in b[:, 1].tolist()]
    np.testing.assert_allclose(area.score, [1.0, np.mean(pairs)])
    same = auroc(torch.ones(4, 1), torch.ones(4, 1))
    assert (same.score[0], same.p_value[0]) == (0.5, 1.0)


def test_dead_latents_are_neither_ranked_nor_counted():
    ranking = Ranking("some", np.array([3.0, 2.0, 1.0]), np.array([0.01, 0.02, 0.5]), 9)
    alive = torch.tensor([False, True, True])
    assert ranking.top(3, alive) == [1, 2]
    np.testing.assert_allclose(ranking.q_value(alive), [np.nan, 0.04, 0.5])
    np.testing.assert_allclose(ranking.q_value(), [0.03, 0.03, 0.5])


def test_conditions_that_are_not_pairs_are_refused():
    with pytest.raises(InputError, match="row by row"):
        differential(torch.zeros(3, 4), torch.zeros(2, 4))
    with pytest.raises(InputError, match="two of each"):
        auroc(torch.zeros(1, 4), torch.zeros(5, 4))
    sae = StandardSAE(4, 8).requires_grad_(False)
    with pytest.raises(VectorError, match="do not differ"):
        decoder_cosine(sae, torch.ones(3, 4), torch.ones(3, 4))


# ReasonScore


CORPUS = [
    np.random.default_rng(n).choice(["wait", "hmm", "but", "cat", "dog", "sun", "run", "sea", "it"], 14)
    for n in range(40)
]


@pytest.fixture(scope="module")
def texts(llama):
    ids = [tuple(llama.tokenizer(" ".join(words)).input_ids) for words in CORPUS]
    return [Row(tokens, len(tokens)) for tokens in ids]


def by_hand(lm, sae, n, words, alpha=0.7):
    """The definition, a text at a time, where words are is known from how the texts were made."""
    inside, union, outside = {w: [] for w in words}, [], []
    for said in CORPUS[:n]:
        told = lm.tokenizer(" ".join(said), return_offsets_mapping=True)
        ids, spans = tuple(told.input_ids), told.offset_mapping
        z = sae.encode(token_activations_of(lm, Row(ids, len(ids)))).double()
        at, covered = 0, set()
        for word in said:
            if word in words:
                own = [t for t, (a, b) in enumerate(spans) if a < at + len(word) and b > at]
                near = set(range(max(0, own[0] - 1), min(len(ids), own[-1] + 3)))
                inside[word].append((z, near))
                covered |= near
            at += len(word) + 1
        union += [z[t] for t in sorted(covered)]
        outside += [z[t] for t in range(len(ids)) if t not in covered]
    mu = torch.stack([mean_of(inside[w]) for w in words])
    plus, minus = torch.stack(union).mean(0), torch.stack(outside).mean(0)
    q = mu / mu.sum(0).clamp(min=1e-300)
    entropy = -(q * q.clamp(min=1e-300).log()).sum(0) / math.log(len(words))
    return plus / plus.sum() * entropy**alpha - minus / minus.sum(), entropy


def mean_of(windows):
    """Over tokens that are in a window; one that is in two windows of the same word counts once."""
    by_text = {}
    for z, near in windows:
        by_text.setdefault(id(z), (z, set()))[1].update(near)
    return torch.stack([z[t] for z, near in by_text.values() for t in sorted(near)]).mean(0)


def token_activations_of(lm, row):
    found = [
        token_activations(lm, [Row(row.tokens[: n + 1], n + 1)], [SITE], read=last(1))[0, 0]
        for n in range(len(row.tokens))
    ]
    return torch.from_numpy(np.stack(found))


def test_reason_score_is_its_definition(llama, texts):
    sae = StandardSAE(D, 60, seed=5, origin=Origin(site=SITE)).requires_grad_(False)
    some = texts[:6]
    found = reason_score(llama, some, sae, vocabulary=("Wait", "hmm", "but", "never"), n_control=0)
    assert found.vocabulary == ("but", "hmm", "wait")
    expected, entropy = by_hand(llama, sae, 6, ["but", "hmm", "wait"])
    np.testing.assert_allclose(found.entropy, entropy, atol=1e-5)
    np.testing.assert_allclose(found.ranking.score, expected, atol=1e-6)
    assert found.control.shape == (0, 60)


def test_a_latent_planted_on_the_words_is_first_and_one_on_a_single_word_is_not(llama, texts, monkeypatch):
    """Latents are set by hand: one fires at all words, one twice as strongly at one."""
    sae = StandardSAE(D, 60, seed=5, origin=Origin(site=SITE)).requires_grad_(False)
    from interp import features

    plain = features.encoded

    def planted(*args, **kwargs):
        for part in plain(*args, **kwargs):
            z = part.z.clone() * 0.1
            z[:, 3:5] = 0.0
            for number, tokens in part.rows():
                text, starts = features._Texts(llama).of(texts[number].tokens)
                for word in ("wait", "hmm", "but"):
                    for _, end in features._places(text, word):
                        token = int(np.searchsorted(starts, end)) - 1  # out of the others' windows
                        z[tokens][part.position[tokens] == token, 3] = 5.0
                        if word == "hmm":
                            z[tokens][part.position[tokens] == token, 4] = 10.0
            yield features_part(part, z)

    def features_part(part, z):
        return type(part)(part.row, part.position, part.token, part.x, z)

    monkeypatch.setattr(features, "encoded", planted)
    found = reason_score(llama, texts, sae, vocabulary=("wait", "hmm", "but"), n_control=5)
    assert found.ranking.top(1) == [3]
    assert found.ranking.score[3] > found.ranking.score[4]
    assert found.entropy[3] > 0.9 > found.entropy[4]
    assert found.ranking.q_value()[3] < 1e-6
    assert found.ranking.score[3] > 2 * found.control[:, 3].max()


def test_reason_score_of_texts_without_the_words_is_refused(llama, texts):
    sae = StandardSAE(D, 60, seed=5, origin=Origin(site=SITE)).requires_grad_(False)
    with pytest.raises(InputError, match="1 of the 2 words occur"):
        reason_score(llama, texts, sae, vocabulary=("wait", "never"))
    with pytest.raises(InputError, match="does not say which site"):
        reason_score(llama, texts, StandardSAE(D, 60).requires_grad_(False))


# Controls that are matched


def activity_of(density):
    nothing = torch.empty(0, len(density))
    return Activity(100, density, density * 3, nothing, nothing.long(), nothing.long())


def test_matched_latents_are_as_frequent_and_write_as_much():
    d_sae = 400
    density = torch.rand(d_sae, generator=torch.Generator().manual_seed(2)) ** 3
    density[:50] = 0
    sae = StandardSAE(D, d_sae, seed=1)
    with torch.no_grad():
        sae.W_dec.mul_(torch.rand(d_sae, 1, generator=torch.Generator().manual_seed(3)) * 4 + 0.1)
    chosen = matched_random(sae, activity_of(density), 200, 10, exclude=[201], pool=3)
    assert len(set(chosen)) == 10
    assert not {200, 201, *range(50)} & set(chosen)
    gap = (density.log() - density[200].log()).abs()
    assert gap[chosen].max() < gap[density > 0].median()
    norm = sae.W_dec.detach().norm(dim=-1)
    assert (norm[chosen] - norm[200]).abs().mean() < (norm - norm[200]).abs().mean() / 2
    assert chosen == matched_random(sae, activity_of(density), 200, 10, exclude=[201], pool=3)
    assert chosen != matched_random(sae, activity_of(density), 200, 10, exclude=[201], pool=3, seed=1)


def test_more_matched_latents_than_are_alive_are_refused():
    density = torch.tensor([0.1, 0.0, 0.2, 0.3])
    sae = StandardSAE(D, 4)
    with pytest.raises(InputError, match="3 matched random latents were asked for and 2"):
        matched_random(sae, activity_of(density), 0, 3)
    with pytest.raises(InputError, match="is dead"):
        matched_random(sae, activity_of(density), 1, 1)
