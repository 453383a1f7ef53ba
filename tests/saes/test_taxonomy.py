"""Planted kinds of sentences come back, and so does what was saved; sentences are where their tokens are."""

import json
from dataclasses import replace

import pytest
import torch
from sklearn.metrics import adjusted_rand_score
from transformers import PreTrainedTokenizerFast

from hooks import Add, Site, adopt, inject
from hooks.capture import capture
from hooks.chat import response_row
from hooks.errors import EmptySelectionError, InputError, SiteNotFoundError, VectorError
from saes import TopKSAE, load_dictionary, load_taxonomy, save_dictionary, save_taxonomy
from saes.dictionary import Origin
from saes.taxonomy import (
    Sentence,
    SentenceMeans,
    _split,
    _trained,
    sentence_means,
    sentence_spans,
    size_sweep,
    train_taxonomy,
)

SITE, D, KINDS = Site(1, "resid_post"), 24, 6


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def numbered(means, per_row=10, **options):
    """Sentences of these means, some to a response."""
    sentences = [
        Sentence(f"Sentence number {i}.", i // per_row, 5 * (i % per_row) + 1, 5 * (i % per_row) + 6)
        for i in range(len(means))
    ]
    return SentenceMeans(means, tuple(sentences), **options)


def planted(n=400, *, spread=0.4, seed=0):
    """Means around one of six points far from the origin, and which."""
    kind = torch.randint(KINDS, (n,), generator=torch.Generator().manual_seed(seed))
    return 30 + (randn(KINDS, D, seed=77)[kind] + spread * randn(n, D, seed=seed + 1)) * 5, kind


@pytest.fixture(scope="module")
def sentences():
    return numbered(planted()[0], origin=Origin("tiny", SITE, str(SITE)))


@pytest.fixture(scope="module")
def taxonomy(sentences):
    return train_taxonomy(sentences, KINDS)


@pytest.fixture
def quick(monkeypatch):
    """Training that is cut short, where how good it gets does not matter."""
    monkeypatch.setattr("saes.taxonomy.EPOCHS", 15)


# --- planted kinds


def test_planted_kinds_come_back_also_in_sentences_that_were_never_seen(taxonomy):
    for seed in (0, 50):
        means, kind = planted(seed=seed)
        assert adjusted_rand_score(kind, taxonomy.category(means)) >= 0.95
    assert min(taxonomy.counts) > 20
    assert taxonomy.scores.consistency >= 0.95
    assert taxonomy.scores.fvu < 0.25


def test_vectors_without_kinds_score_worse(taxonomy, sentences):
    assert taxonomy.scores.consistency > taxonomy.control.consistency + 0.1
    assert taxonomy.scores.fvu < taxonomy.control.fvu - 0.05
    assert taxonomy.control.n == taxonomy.scores.n
    gaussian = numbered(randn(400, D, seed=3) * torch.linspace(0.2, 3, D) + 9)
    made = train_taxonomy(gaussian, KINDS, restarts=1)
    assert abs(made.scores.consistency - made.control.consistency) < 0.2, "they are of one kind already"
    assert abs(made.scores.fvu - made.control.fvu) < 0.1
    assert train_taxonomy(sentences, KINDS, restarts=1, control=False).control is None


@pytest.mark.usefixtures("quick")
def test_another_place_and_unit_of_the_activations_changes_no_category(sentences):
    """Centre and scale are in the weights: it is given activations as they are."""
    moved = numbered(0.125 * (sentences.means - 48))
    one, other = (train_taxonomy(s, KINDS, restarts=1, control=False) for s in (sentences, moved))
    assert torch.equal(other.category(moved.means), one.category(sentences.means))
    torch.testing.assert_close(other.dictionary.W_dec, 0.125 * one.dictionary.W_dec, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(other.centroids, 0.125 * (one.centroids - 48), atol=1e-3, rtol=1e-3)
    assert other.scores.fvu == pytest.approx(one.scores.fvu, abs=1e-4)


def test_more_categories_explain_more(sentences):
    found = size_sweep(sentences, (2, KINDS, 12), restarts=1, k=2, control=False)
    assert list(found) == [2, KINDS, 12]
    assert [len(t.counts) for t in found.values()] == [2, KINDS, 12]
    fvu = [t.scores.fvu for t in found.values()]
    assert fvu[0] > fvu[1] + 0.1
    assert fvu[1] > fvu[2] - 0.05


# --- what it says of itself is its definition


def test_centre_scale_and_scores_are_those_of_the_definition(taxonomy, sentences):
    means, train = sentences.means, _split(sentences, 0.2, 0)
    torch.testing.assert_close(taxonomy.centre, means[train].mean(0))
    deviation = means[train] - taxonomy.centre
    assert taxonomy.scale**2 == pytest.approx(float(deviation.square().sum(-1).mean()), rel=1e-5)
    held = means[~train]
    error = (taxonomy.dictionary(held) - held).square().sum()
    assert taxonomy.scores.fvu == pytest.approx(
        float(error / (held - taxonomy.centre).square().sum()), rel=1e-3
    )
    category = taxonomy.category(held)
    right = 0
    for x, c in zip(held, category.tolist(), strict=True):
        distances = [float((x - centroid).norm()) for centroid in taxonomy.centroids]
        right += distances.index(min(distances)) == c
    assert taxonomy.scores.consistency == pytest.approx(right / len(held))
    assert taxonomy.scores.largest == max(category.tolist().count(c) for c in range(KINDS)) / len(held)
    assert taxonomy.scores.n == len(held)


def test_the_weights_take_what_was_centred_and_scaled(taxonomy, sentences):
    sae, x = taxonomy.dictionary, (sentences.means - taxonomy.centre) / taxonomy.scale
    torch.testing.assert_close(
        sae.W_dec.norm(dim=-1), torch.full((KINDS,), taxonomy.scale), rtol=1e-4, atol=1e-4
    )
    b_dec = (sae.b_dec - taxonomy.centre) / taxonomy.scale
    pre = (x - b_dec) @ (sae.W_enc * taxonomy.scale) + sae.b_enc
    torch.testing.assert_close(sae.preactivations(sentences.means), pre, atol=1e-4, rtol=1e-4)
    assert torch.equal(taxonomy.category(sentences.means), sae.preactivations(sentences.means).argmax(-1))
    assert taxonomy.category(sentences.means.double().reshape(4, 100, D)).shape == (4, 100)


def test_exemplars_are_the_training_sentences_that_activate_their_category_most(taxonomy, sentences):
    means, train = sentences.means, _split(sentences, 0.2, 0)
    pre = taxonomy.dictionary.preactivations(means)
    for c, exemplars in enumerate(taxonomy.exemplars):
        own = [i for i in range(len(means)) if train[i] and int(pre[i].argmax()) == c]
        assert taxonomy.counts[c] == len(own)
        best = sorted(own, key=(-pre[:, c]).tolist().__getitem__)[:20]
        assert [e.sentence for e in exemplars] == [sentences.sentences[i] for i in best]
        torch.testing.assert_close(
            torch.tensor([e.activation for e in exemplars]), pre[best, c], atol=1e-4, rtol=1e-4
        )
        torch.testing.assert_close(taxonomy.centroids[c], means[best].mean(0), atol=1e-3, rtol=1e-4)


def test_all_of_a_response_is_held_out_or_none(sentences):
    train = _split(sentences, 0.3, 5).reshape(40, 10)
    assert (train.all(1) | ~train.any(1)).all()
    assert int(train.all(1).sum()) == 28
    assert not torch.equal(train.flatten(), _split(sentences, 0.3, 6))


@pytest.mark.usefixtures("quick")
def test_the_training_of_the_least_fvu_is_kept(sentences):
    taxonomy, train = train_taxonomy(sentences, KINDS, control=False), _split(sentences, 0.2, 0)
    x = ((sentences.means - taxonomy.centre) / taxonomy.scale)[train]
    trained = [_trained(x, KINDS, 3, seed) for seed in range(3)]
    fvu = [float((sae(x) - x).square().sum() / x.square().sum()) for sae in trained]
    best = trained[fvu.index(min(fvu))]
    torch.testing.assert_close(taxonomy.dictionary.W_enc * taxonomy.scale, best.W_enc, atol=1e-5, rtol=1e-4)


@pytest.mark.usefixtures("quick")
def test_the_seed_fixes_everything(sentences):
    one, again, other = (
        train_taxonomy(sentences, 4, restarts=1, control=False, seed=seed) for seed in (1, 1, 2)
    )
    assert torch.equal(one.dictionary.W_enc, again.dictionary.W_enc)
    assert (one.scores, one.exemplars) == (again.scores, again.exemplars)
    assert not torch.equal(one.dictionary.W_enc, other.dictionary.W_enc)


# --- its folder


def test_a_folder_brings_back_all_that_was_written(taxonomy, sentences, tmp_path):
    folder = save_taxonomy(taxonomy, tmp_path / "kinds")
    loaded = load_taxonomy(folder)
    assert torch.equal(loaded.category(sentences.means), taxonomy.category(sentences.means))
    assert torch.equal(loaded.centre, taxonomy.centre)
    assert torch.equal(loaded.centroids, taxonomy.centroids)
    for name in ("scale", "counts", "scores", "control", "exemplars"):
        assert getattr(loaded, name) == getattr(taxonomy, name), name
    for name, weight in taxonomy.dictionary.state_dict().items():
        assert torch.equal(loaded.dictionary.state_dict()[name], weight), name
    assert (loaded.dictionary.origin.model, loaded.dictionary.origin.site) == ("tiny", SITE)
    assert "taxonomy_sha256" not in taxonomy.dictionary.origin.metadata
    again = load_taxonomy(save_taxonomy(loaded, tmp_path / "again"))
    assert again.exemplars == taxonomy.exemplars
    assert not [f for f in folder.iterdir() if f.suffix in (".part", ".pt", ".pkl")]


def test_its_folder_is_also_that_of_a_dictionary(taxonomy, sentences, tmp_path):
    alone = load_dictionary(save_taxonomy(taxonomy, tmp_path))
    assert torch.equal(alone.encode(sentences.means), taxonomy.dictionary.encode(sentences.means))


def test_a_folder_that_is_taken_is_left_alone_and_one_that_was_interrupted_is_written_again(
    taxonomy, tmp_path
):
    save_taxonomy(taxonomy, tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(InputError, match="already holds a dictionary"):
        save_taxonomy(taxonomy, tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    (tmp_path / "cfg.json").unlink()
    with pytest.raises(InputError, match=r"cfg\.json"):
        load_taxonomy(tmp_path)
    save_taxonomy(taxonomy, tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.usefixtures("quick")
def test_a_folder_that_was_altered_or_put_together_from_two_is_refused(taxonomy, sentences, tmp_path):
    other = train_taxonomy(sentences, KINDS, restarts=1, control=False, seed=3)
    mine, theirs = save_taxonomy(taxonomy, tmp_path / "mine"), save_taxonomy(other, tmp_path / "theirs")
    for name in ("taxonomy.json", "taxonomy.safetensors", "cfg.json", "sae_weights.safetensors"):
        content = (mine / name).read_bytes()
        (mine / name).write_bytes((theirs / name).read_bytes())
        with pytest.raises(VectorError, match="was altered or damaged after it was written"):
            load_taxonomy(mine)
        (mine / name).write_bytes(content)
    facts = json.loads((mine / "taxonomy.json").read_text())
    facts["scale"] *= 2
    (mine / "taxonomy.json").write_text(json.dumps(facts))
    with pytest.raises(VectorError, match="was altered or damaged"):
        load_taxonomy(mine)
    (mine / "taxonomy.json").unlink()
    with pytest.raises(InputError, match=r"No taxonomy in .*mine: it lacks taxonomy\.json or"):
        load_taxonomy(mine)
    plain = save_dictionary(TopKSAE(D, 5, 2), tmp_path / "plain")
    with pytest.raises(InputError, match="No taxonomy in"):
        load_taxonomy(plain)


@pytest.mark.usefixtures("quick")
def test_a_taxonomy_of_another_width_site_or_model_is_refused(llama, model_of, tokenizer_with, tmp_path):
    origin = Origin(llama.name, SITE, str(SITE), llama.fingerprint)
    own = train_taxonomy(numbered(randn(60, 32), origin=origin), 3, restarts=1, control=False)
    folder = save_taxonomy(own, tmp_path / "own")
    assert load_taxonomy(folder, llama, site=SITE).dictionary.origin.fingerprint == llama.fingerprint
    with pytest.raises(VectorError, match=r"reads blocks\.1\.hook_resid_post, and blocks\.0\.hook_mlp_out"):
        load_taxonomy(folder, llama, site=Site(0, "mlp_out"))
    tuned = adopt(model_of("llama", seed=1), tokenizer_with(), name=llama.name)
    with pytest.raises(VectorError, match="was trained on tiny-llama"):
        load_taxonomy(folder, tuned)
    assert load_taxonomy(folder, tuned, any_model=True).counts == own.counts
    narrow = train_taxonomy(numbered(randn(60, 31)), 3, restarts=1, control=False)
    with pytest.raises(VectorError, match="31 wide"):
        load_taxonomy(save_taxonomy(narrow, tmp_path / "narrow"), llama)


# --- refusals


@pytest.mark.parametrize(
    "options", [{"n": 1, "k": 1}, {"n": 0}, {"n": 5, "k": 0}, {"n": 2}, {"n": 5, "restarts": 0}]
)
def test_sizes_that_mean_nothing_are_refused(sentences, options):
    with pytest.raises(InputError, match=rf"n={options['n']}, k=.*n is 2 or more, k is in 1\.\.n"):
        train_taxonomy(sentences, **options)


def test_fewer_sentences_than_categories_are_refused():
    with pytest.raises(InputError, match="9 categories of 8 sentences, not counting those held out"):
        train_taxonomy(numbered(randn(10, D), per_row=1), 9)
    twice = numbered(randn(4, D)[torch.arange(60) % 4])
    with pytest.raises(InputError, match="Of 50 sentences only 4 differ, for 5 categories"):
        train_taxonomy(twice, 5)


def test_sentences_of_one_mean_are_refused():
    with pytest.raises(InputError, match="50 sentences have one mean"):
        train_taxonomy(numbered((10 * randn(1, D)).expand(60, D)), 5)


@pytest.mark.parametrize("held_out", [0.0, 1.0, 0.01])
def test_a_share_that_holds_nothing_out_or_everything_is_refused(sentences, held_out):
    with pytest.raises(InputError, match=f"held_out={held_out} of 40 responses leaves none on one side"):
        train_taxonomy(sentences, 5, held_out=held_out)


def test_means_that_are_not_finite_or_not_of_these_sentences_are_refused(sentences):
    bad = sentences.means.clone()
    bad[3, 4], bad[9, 0] = float("nan"), float("inf")
    with pytest.raises(VectorError, match="means of 2 sentences have NaN or infinite entries"):
        replace(sentences, means=bad)
    with pytest.raises(InputError, match="399 means of 400 sentences"):
        replace(sentences, means=bad[:399])


# --- sentences and their tokens


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("First we add them. Then we stop here.", ["First we add them.", "Then we stop here."]),
        ("Wait, is that so? No it is not! It may be; who is to say",
         ["Wait, is that so?", "No it is not!", "It may be;", "who is to say"]),
        ("Pi is 3.14 at most. So 5. is small\nand that is that",
         ["Pi is 3.14 at most.", "and that is that"]),
        ("We grow E. coli in a dish. So n! is large here.",
         ["We grow E. coli in a dish.", "So n! is large here."]),
        ("The answer is B. Then we are done.", ["The answer is B.", "Then we are done."]),
        ("Some, e.g. the last, are odd. Hmm... let me see now.",
         ["Some, e.g. the last, are odd.", "let me see now."]),
        ('He said "no, it is not." Then he left us.', ['He said "no, it is not."', "Then he left us."]),
        ("  Two words. \n\n  And a whole line here  \n", ["And a whole line here"]),
        ("", []),
        ("\n \n", []),
    ],
)  # fmt: skip
def test_a_text_is_split_at_the_ends_of_sentences(text, expected):
    spans = sentence_spans(text)
    assert [text[start:stop] for start, stop in spans] == expected
    assert all(0 <= a < b <= len(text) for a, b in spans)


def test_shorter_pieces_are_sentences_where_they_are_asked_for():
    assert [len(sentence_spans("Yes. No, never. And so on it goes.", min_words=n)) for n in (0, 1, 2, 5)] == [
        3, 3, 2, 1,
    ]  # fmt: skip


RESPONSES = [
    ("add them", "First we add the two. Then, in a line,\nwe see that 3.5 is the sum. Done."),
    ("is it", "No."),
    ("what", "It is the one that was asked for! And the other is not?"),
    ("long", "We go on and on. " * 70 + "At last we stop."),
]


def test_means_are_those_of_the_tokens_of_each_sentence_and_the_one_before(lm):
    short = RESPONSES[:3]
    found = sentence_means(lm, short, SITE)
    assert [s.text for s in found.sentences] == [
        "First we add the two.",
        "Then, in a line,",
        "we see that 3.5 is the sum.",
        "It is the one that was asked for!",
        "And the other is not?",
    ]
    assert [s.row for s in found.sentences] == [0, 0, 0, 2, 2]
    for sentence, mean in zip(found.sentences, found.means, strict=True):
        row = response_row(lm.tokenizer, *short[sentence.row])
        own = lm.tokenizer.decode(row.tokens[sentence.start : sentence.stop])
        assert own.strip() == sentence.text
        with capture(lm, [SITE]) as acts, torch.no_grad():
            lm.model(torch.tensor([row.tokens]))
        expected = acts[SITE][0, sentence.start - 1 : sentence.stop].mean(0)
        torch.testing.assert_close(mean, expected, atol=1e-3, rtol=1e-3)
    assert found.origin == Origin(lm.name, SITE, str(SITE), lm.fingerprint)


def test_a_response_longer_than_a_piece_is_read_as_one_that_is_not(llama):
    found = sentence_means(llama, RESPONSES, SITE)
    row = response_row(llama.tokenizer, *RESPONSES[3])
    assert len(row.tokens) > 1024
    with capture(llama, [SITE]) as acts, torch.no_grad():
        llama.model(torch.tensor([row.tokens]))
    own = [i for i, s in enumerate(found.sentences) if s.row == 3]
    assert len(own) == 71
    for i in own:
        s = found.sentences[i]
        expected = acts[SITE][0, s.start - 1 : s.stop].mean(0)
        torch.testing.assert_close(found.means[i], expected, atol=1e-2, rtol=1e-2)


def test_a_site_may_be_counted_from_the_end_and_must_be_there(llama):
    seen = []
    found = sentence_means(llama, RESPONSES[:3], Site(-2, "resid_post"), on_tokens=seen.append)
    assert found.origin.site == SITE
    assert sum(seen) == sum(len(response_row(llama.tokenizer, *r).tokens) for r in RESPONSES[:3])
    with pytest.raises(SiteNotFoundError):
        sentence_means(llama, RESPONSES[:3], Site(9, "resid_post"))


class WithoutOffsets(PreTrainedTokenizerFast):
    is_fast = False


def test_what_cannot_be_split_or_read_is_refused(llama):
    with pytest.raises(
        EmptySelectionError, match=r"No sentence of 3 words or more in 1 responses\..*min_words=1"
    ):
        sentence_means(llama, [("is it", "No. Yes.")], SITE)
    with pytest.raises(InputError, match="An empty response"):
        sentence_means(llama, [("is it", "")], SITE)
    with inject(llama, [Add(SITE, torch.ones(32))]), pytest.raises(InputError, match="Edits are open"):
        sentence_means(llama, RESPONSES, SITE)
    slow = replace(llama, tokenizer=WithoutOffsets(tokenizer_object=llama.tokenizer.backend_tokenizer))
    with pytest.raises(InputError, match="does not say which characters its tokens are"):
        sentence_means(slow, RESPONSES, SITE)
