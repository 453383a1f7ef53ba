"""What is planted in one form alone is noticed, its null is not, and injection does what a slow loop does."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from hooks import inject
from hooks.chat import prompt_row, response_row
from hooks.errors import InputError
from hooks.positions import last
from hooks.sites import Site
from interp import AskedPair, Pair, contrast
from interp.continuations import continuation_logprobs
from interp.missing import Triple, asking, missing_direction, noticed, triple
from interp.pairs import pairs_hash
from interp.probes import held_out_auroc
from interp.stats import mean_interval
from interp.token_activations import token_activations

OTHERS = "bcdfghjklmnp"


def triples(n, *, needed="Q", seed=0):
    """Clauses of random letters, among which those of the needed one are drawn from ``needed``."""
    rng = random.Random(seed)

    def words(letters, k):
        return "".join(rng.choices(letters, k=k)) + "."

    made = []
    for number in range(n):
        k = rng.randint(6, 14)
        clauses = [words(needed, k), words(OTHERS, k), *(words(OTHERS, 8) for _ in range(rng.randint(1, 4)))]
        made.append(
            triple(
                clauses, "So?", needed=0, irrelevant=1, asks="Which?", states="It is 4.", group=f"{number}"
            )
        )
    return made


# --- the forms


def test_the_forms_are_the_text_less_one_clause():
    made = triple(
        ["Ann has 3 nuts.", "It is 7 degrees.", "She eats 2."],
        "How many?",
        needed=0,
        irrelevant=1,
        asks="a",
        states="s",
        group="g",
    )
    assert made == Triple(
        complete="Ann has 3 nuts. It is 7 degrees. She eats 2. How many?",
        missing="It is 7 degrees. She eats 2. How many?",
        irrelevant="Ann has 3 nuts. She eats 2. How many?",
        asks="a",
        states="s",
        group="g",
    )


@pytest.mark.parametrize(
    ("needed", "irrelevant", "match"),
    [
        (0, 0, "needed=0 and irrelevant=0 of 2 clauses"),
        (0, 2, "mark two different ones"),
        (0, 1, "needed clause has 1 words and the irrelevant one 4"),
    ],
)
def test_clauses_that_are_no_pair_are_refused(needed, irrelevant, match):
    with pytest.raises(InputError, match=match):
        triple(
            ["One.", "Two and some more."],
            "So?",
            needed=needed,
            irrelevant=irrelevant,
            asks="a",
            states="s",
            group="g",
        )


# --- AUROC of a probe


def test_a_probe_ranks_what_is_planted_and_nothing_else():
    rng = np.random.default_rng(0)
    labels, groups = np.arange(200) % 2 == 1, (np.arange(200) // 2).tolist()
    noise = rng.normal(size=(200, 8))
    found = held_out_auroc(noise, labels, groups)
    assert mean_interval(found.reshape(-1, 2).mean(1)).low < 0.5 < mean_interval(found).high
    assert held_out_auroc(noise + 9 * labels[:, None], labels, groups).mean() == 1
    weak = held_out_auroc(noise[:, :1] + labels[:, None], labels, groups).mean()
    assert weak == pytest.approx(0.76, abs=0.06)  # Phi(1 / sqrt 2)


def test_its_spread_is_that_of_fresh_samples():
    """A wrong weight of the two labels halves it: DeLong's variance adds, and does not average."""
    labels, groups = np.arange(120) % 2 == 1, np.arange(120).tolist()
    aurocs, spreads = [], []
    for seed in range(30):
        x = np.random.default_rng(seed).normal(size=(120, 1)) + labels[:, None]
        found = held_out_auroc(x, labels, groups, folds=2)
        aurocs.append(found.mean())
        spreads.append(found.std() / np.sqrt(len(found)))
    assert 0.7 < np.mean(spreads) / np.std(aurocs) < 1.4


def test_labels_of_one_kind_and_unequal_columns_are_refused():
    with pytest.raises(InputError, match="All 4 labels are True"):
        held_out_auroc(np.ones((4, 2)), np.ones(4, bool), list(range(4)))
    with pytest.raises(InputError, match="4 rows of features, 4 labels and 3 groups"):
        held_out_auroc(np.ones((4, 2)), np.arange(4) > 1, list(range(3)))


# --- noticed


def test_a_clause_of_its_own_letters_is_missed_more_than_one_that_is_like_the_rest(bag):
    found = noticed(bag, triples(40), n_resamples=500)
    assert list(found) == [0, 1, 2]
    for layer in found.values():
        assert layer.missing.low > 0.95
        assert layer.beyond.low > 0.05
        assert layer.p_value < 0.01
        assert layer.beyond.estimate == pytest.approx(layer.missing.estimate - layer.irrelevant.estimate)
        assert layer.missing.n == 40


def test_where_both_clauses_are_like_the_rest_missing_is_not_beyond_its_null(bag):
    found = noticed(bag, triples(40, needed=OTHERS), layers=[2], n_resamples=500)
    assert not found[2].beyond.excludes_zero
    assert found[2].p_value > 0.05


def test_triples_of_one_group_are_one_observation(bag):
    grouped = [replace(t, group=str(n // 4)) for n, t in enumerate(triples(40))]
    found = noticed(bag, grouped, layers=[0], n_resamples=200)
    assert found[0].missing.n == 10
    with pytest.raises(InputError, match="more groups"):
        noticed(bag, [replace(t, group="one") for t in grouped])


# --- the direction


def test_the_direction_is_the_difference_of_the_last_tokens(llama):
    some = triples(6)
    vector = missing_direction(llama, some, n_null=2)
    rows = [
        [prompt_row(llama.tokenizer, getattr(t, form)) for t in some] for form in ("missing", "irrelevant")
    ]
    sites = [Site(layer, "resid_post") for layer in range(3)]
    missing, irrelevant = (token_activations(llama, r, sites) for r in rows)
    for layer in range(3):
        wanted = (missing - irrelevant).mean(1)[layer]
        np.testing.assert_allclose(vector.vectors[layer].numpy(), wanted, atol=1e-4)
    assert vector.poles == ("missing", "irrelevant")


def test_asked_pairs_count_what_they_share_as_the_prompt(llama):
    one, other = AskedPair("same abc", "same xyz").rows(llama.tokenizer)
    n = one.prompt_length
    assert n == other.prompt_length
    assert one.tokens[:n] == other.tokens[:n]
    assert one.tokens[n] != other.tokens[n]


def test_asked_pairs_have_a_hash_of_their_own_and_equal_ones_are_refused(llama):
    assert pairs_hash([AskedPair("a", "b")]) not in {
        pairs_hash([Pair("", "a", "b")]),
        pairs_hash([AskedPair("b", "a")]),
    }
    with pytest.raises(InputError, match="two equal texts"):
        contrast(llama, [AskedPair("a", "a")] * 4, read=last(1))


# --- asking


def planted(lm, some, layer):
    """A direction towards the first token of the reply that asks, and away from that of the other."""
    first = [lm.tokenizer(text).input_ids[0] for text in (some[0].asks, some[0].states)]
    weight = lm.model.get_output_embeddings().weight.detach()
    vector = missing_direction(lm, some, n_null=0)
    return replace(vector, vectors={**vector.vectors, layer: weight[first[0]] - weight[first[1]]})


def test_a_direction_towards_asking_raises_it_beyond_random_ones_and_its_opposite_lowers_it(llama):
    some = triples(6)
    vector = planted(llama, some, 2)
    up = asking(llama, some, vector, layer=2, dose=1.0, n_random=9, n_resamples=200)
    assert up.injected.low > 0
    assert up.beyond_random.low > 0
    assert up.p_value == 0.1
    assert len(up.random) == 9
    assert asking(llama, some, vector, layer=2, dose=-1.0, n_random=1, n_resamples=200).injected.high < 0


def test_asking_is_what_a_loop_over_single_rows_says(llama):
    some = triples(4)
    vector = planted(llama, some, 1)
    found = asking(llama, some, vector, layer=1, dose=0.3, n_random=1, n_resamples=200)

    def score(text, t, edits):
        total = []
        for reply in (t.asks, t.states):
            with inject(llama, edits):
                row = response_row(llama.tokenizer, text, reply)
                total.append(float(continuation_logprobs(llama, [row])[0].sum()))
        return total[0] - total[1]

    edit = [vector.at(1, dose=0.3)]
    plain = [score(t.complete, t, []) for t in some]
    for name, wanted in (
        ("injected", [score(t.complete, t, edit) for t in some]),
        ("missing", [score(t.missing, t, []) for t in some]),
        ("irrelevant", [score(t.irrelevant, t, []) for t in some]),
    ):
        assert getattr(found, name).estimate == pytest.approx(np.mean(wanted) - np.mean(plain), abs=1e-3)
    assert found.beyond_random.estimate == pytest.approx(found.injected.estimate - found.random[0], abs=1e-6)


def test_a_random_direction_is_not_beyond_random_ones(llama):
    some = triples(4)
    vector = planted(llama, some, 1)
    drawn = torch.randn(32, generator=torch.Generator().manual_seed(8))
    found = asking(
        llama, some, replace(vector, vectors={**vector.vectors, 1: drawn}), layer=1, dose=0.3, n_random=9
    )
    assert found.p_value > 0.1


def test_asking_of_nothing_is_refused(llama):
    some = triples(4)
    vector = planted(llama, some, 1)
    with pytest.raises(InputError, match="0 triples and 20 random directions"):
        asking(llama, [], vector, layer=1, dose=0.3)
    with pytest.raises(InputError, match="4 triples and 0 random directions"):
        asking(llama, some, vector, layer=1, dose=0.3, n_random=0)
    with pytest.raises(InputError, match="An empty response"):
        asking(llama, [replace(t, asks="") for t in some], vector, layer=1, dose=0.3)
    with pytest.raises(InputError, match="no rows to read"):
        noticed(llama, [])
