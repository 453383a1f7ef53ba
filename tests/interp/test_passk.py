"""Every estimate against all choices of samples, verdicts and floors against models of known rates."""

import math
from dataclasses import replace
from functools import partial
from itertools import combinations, permutations, product

import numpy as np
import pytest
import torch
from scipy import stats

from hooks import Add, Site, adopt, inject
from hooks.capture import stream
from hooks.chat import response_row
from hooks.errors import InputError
from hooks.positions import everything
from hooks.rows import Row
from interp import passk
from interp.passk import (
    compare_pass_at_k,
    coverage,
    efficiency_gap,
    guess_rates,
    guessing,
    pass_at_k,
    trace_perplexity,
)
from interp.stats import wilson

QUICK = {"n_resamples": 400}


def counts(*numbers):
    return np.array(numbers)


def drawn(rng, rates, n):
    """How many of n samples are right, of problems of known rates."""
    return pass_at_k(rng.binomial(n, rates), n, [1, 4, 16, 64], **QUICK)


def solved(correct, chosen):
    """Whether one of the chosen samples is right, where the first ``correct`` are."""
    return any(sample < correct for sample in chosen)


# --- the estimator


@pytest.mark.parametrize("n", [1, 2, 5, 6])
def test_pass_at_k_is_the_share_of_all_choices_of_k_samples_that_hold_a_right_one(n):
    found = pass_at_k(np.arange(n + 1), n, range(1, n + 1), **QUICK)
    for k in range(1, n + 1):
        every = list(combinations(range(n), k))
        expected = [np.mean([solved(c, chosen) for chosen in every]) for c in range(n + 1)]
        np.testing.assert_allclose(found.per_problem(k), expected, atol=1e-12)
        assert found.mean[k - 1].estimate == pytest.approx(np.mean(expected))


@pytest.mark.parametrize("k", [1, 7, 1000, 4999, 5000])
def test_thousands_of_samples_lose_no_digits(k):
    n, correct = 5000, counts(0, 1, 2, 100, 4000, 4999, 5000)
    exact = [1 - math.comb(n - int(c), k) / math.comb(n, k) for c in correct]
    np.testing.assert_allclose(pass_at_k(correct, n, [k], **QUICK).per_problem(k), exact, rtol=1e-11)


def test_the_curve_rises_with_k_and_ends_at_the_share_of_problems_with_a_right_sample():
    correct = np.random.default_rng(0).integers(0, 5, 40)
    found = pass_at_k(correct, 37, **QUICK)
    assert found.k == (1, 2, 4, 8, 16, 32, 37)
    each = np.stack([found.per_problem(k) for k in range(1, 38)])
    assert (np.diff(each, axis=0) >= 0).all()
    np.testing.assert_allclose(each[0], correct / 37)
    np.testing.assert_array_equal(each[-1], correct > 0)
    for bound in ("low", "high"):
        assert (np.diff([getattr(mean, bound) for mean in found.mean]) >= 0).all()


def test_problems_may_have_different_numbers_of_samples():
    found = pass_at_k(counts(1, 3, 0), counts(4, 8, 4), [2], **QUICK).per_problem(2)
    alone = [pass_at_k(counts(c), n, [2], **QUICK).per_problem(2)[0] for c, n in ((1, 4), (3, 8), (0, 4))]
    np.testing.assert_array_equal(found, alone)


def test_it_has_no_bias_for_k_draws():
    """For a rate p the truth is 1 - (1 - p)^k; the plug-in 1 - (1 - c/n)^k is too low."""
    n, k, p = 16, 8, 0.05
    weights = stats.binom.pmf(np.arange(n + 1), n, p)
    expected = weights @ pass_at_k(np.arange(n + 1), n, [k], **QUICK).per_problem(k)
    assert expected == pytest.approx(1 - (1 - p) ** k, abs=1e-12)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """Fewer hits than this come up once in a thousand where the coverage is 0.92 (nominal: 0.95)."""
    rng = np.random.default_rng(1)
    n, runs, ks = 32, 300, [1, 8]
    truth = [
        1 - math.exp(math.lgamma(3 + k) + math.lgamma(4) - math.lgamma(3) - math.lgamma(4 + k)) for k in ks
    ]
    hits = np.zeros(len(ks))
    for seed in range(runs):
        correct = rng.binomial(n, rng.beta(1, 3, 60))
        found = pass_at_k(correct, n, ks, seed=seed, **QUICK)
        hits += [mean.low <= true <= mean.high for mean, true in zip(found.mean, truth, strict=True)]
    assert hits.min() >= stats.binom.ppf(1e-3, runs, 0.92)


# --- two curves

HARD = np.linspace(0.01, 0.2, 100)
"""A base that solves nearly everything with many draws."""

SHARPER = np.where(np.arange(100) % 2, 0.9, 0.0)
"""Half of it made sure, the other half lost."""

WIDER = np.clip(HARD * 4, 0, 1)
NARROW = HARD / 20
"""A base that leaves most unsolved."""


def test_sharpening_is_called_sharpening_and_its_curves_cross():
    rng = np.random.default_rng(0)
    found = compare_pass_at_k(drawn(rng, HARD, 64), drawn(rng, SHARPER, 64), **QUICK)
    assert found.verdict == "sharpens"
    assert (found.sign[0], found.sign[-1]) == (1, -1)


def test_expansion_is_called_expansion_and_the_other_way_round_a_loss():
    rng = np.random.default_rng(0)
    base, tuned = drawn(rng, NARROW, 64), drawn(rng, WIDER, 64)
    assert compare_pass_at_k(base, tuned, **QUICK).verdict == "expands"
    assert compare_pass_at_k(tuned, base, **QUICK).verdict == "loses"


def test_more_right_at_one_draw_and_as_much_at_many_is_not_settled():
    rng = np.random.default_rng(0)
    found = compare_pass_at_k(drawn(rng, np.full(100, 0.2), 64), drawn(rng, np.full(100, 0.6), 64), **QUICK)
    assert (found.sign[0], found.sign[-1]) == (1, 0)
    assert found.verdict == "not settled"


def test_one_k_settles_nothing():
    base, tuned = (pass_at_k(np.full(50, c), 64, [1], **QUICK) for c in (6, 40))
    found = compare_pass_at_k(base, tuned, **QUICK)
    assert (found.sign, found.verdict) == ((1,), "not settled")


def test_the_same_model_is_not_settled():
    """A verdict needs a false difference at two k at once; more than this would be too many at 0.05."""
    rng = np.random.default_rng(2)
    runs = 60
    wrong = sum(
        compare_pass_at_k(drawn(rng, HARD[::3], 64), drawn(rng, HARD[::3], 64), **QUICK).verdict
        != "not settled"
        for _ in range(runs)
    )
    assert wrong <= stats.binom.ppf(0.999, runs, 0.05)


def test_four_problems_on_one_side_are_outside_the_interval_and_not_enough():
    base, tuned = counts(*[1] * 4, *[0] * 96), counts(*[0] * 100)
    found = compare_pass_at_k(*(pass_at_k(c, 8, [1, 8]) for c in (base, tuned)))
    assert found.difference[-1].excludes_zero
    assert found.p_value[-1] == pytest.approx(0.125, abs=0.02)
    assert found.sign == (0, 0)


def test_the_difference_is_that_of_the_curves():
    rng = np.random.default_rng(3)
    base, tuned = drawn(rng, HARD, 64), drawn(rng, SHARPER, 64)
    found = compare_pass_at_k(base, tuned, **QUICK)
    for b, t, difference in zip(base.mean, tuned.mean, found.difference, strict=True):
        assert difference.estimate == pytest.approx(t.estimate - b.estimate)


def test_the_efficiency_gap_is_the_many_draws_of_base_less_the_first_of_tuned():
    rng = np.random.default_rng(3)
    base, tuned = drawn(rng, HARD, 64), drawn(rng, SHARPER, 64)
    found = efficiency_gap(base, tuned, **QUICK)
    assert found.estimate == pytest.approx(base.mean[-1].estimate - tuned.mean[0].estimate)
    assert efficiency_gap(base, tuned, k=4, **QUICK).estimate == pytest.approx(
        base.mean[1].estimate - tuned.mean[0].estimate
    )
    assert found.low < found.estimate < found.high


# --- guessing


def test_the_rate_counts_what_was_said_to_the_other_problems():
    answers = [["7", "7", "3"], ["7", None, "5"], ["5", "5", "5"]]
    found = guess_rates(answers, ["7", "5", "9"])
    np.testing.assert_allclose(found, [(1 + 1) / 7, (1 + 3) / 7, (1 + 0) / 7])


def test_answers_are_matched_as_the_verifier_matches_them():
    answers = [["7.0"], ["7", "07"], ["8"]]
    found = guess_rates(answers, ["7", "7", "7"], matches=lambda gold, said: float(gold) == float(said))
    np.testing.assert_allclose(found, [3 / 4, 2 / 3, 4 / 4])


def test_a_guesser_is_found_to_guess_and_meets_its_floor():
    """Whatever it is asked, the model draws from one bag of ten answers."""
    rng = np.random.default_rng(4)
    n_problems, n, k = 200, 16, 4
    bag = rng.dirichlet(np.ones(10))
    gold = rng.integers(10, size=n_problems)
    said = rng.choice(10, size=(n_problems, n), p=bag)
    model = pass_at_k((said == gold[:, None]).sum(1), n, [k], **QUICK)
    rates = guess_rates(said.astype(str).tolist(), gold.astype(str).tolist())
    np.testing.assert_allclose(rates, bag[gold], atol=0.03)
    found = guessing(model, rates, k=k)
    np.testing.assert_array_equal(found.by_guessing, model.correct > 0)
    assert found.floor.mean() == pytest.approx(model.mean[0].estimate, abs=0.04)


def test_a_problem_that_is_known_is_not_said_to_be_guessed():
    model = pass_at_k(counts(1, 30, 0), 64, [64], **QUICK)
    found = guessing(model, np.array([0.02, 0.02, 0.02]))
    assert found.by_guessing.tolist() == [True, False, False]
    np.testing.assert_allclose(found.floor, 1 - 0.98**64)
    assert found.p_value[0] == pytest.approx(1 - 0.98**64)
    assert found.p_value[2] == 1


# --- coverage


@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_sets_are_the_shares_of_all_pairs_of_choices(k):
    n = 4
    pairs = list(product(range(n + 1), repeat=2))
    base, tuned = (pass_at_k(counts(*column), n, [k], **QUICK) for column in zip(*pairs, strict=True))
    found = coverage(base, tuned, k=k)
    both = first = 0
    every = list(permutations(range(n), k))
    for place, (b, t) in enumerate(pairs):
        chosen = [(solved(b, x), solved(t, y), y[0] < t) for x, y in product(every, every)]
        expected = [
            np.mean([(x, y) == wanted for x, y, _ in chosen])
            for wanted in ((True, True), (True, False), (False, True), (False, False))
        ]
        np.testing.assert_allclose(found.problem[:, place], expected, atol=1e-12)
        both += expected[0]
        first += np.mean([x and y1 for x, _, y1 in chosen])
    assert found.preservation.estimate == pytest.approx(both / base.per_problem(k).sum())
    assert found.consolidation.estimate == pytest.approx(first / both)


def test_what_a_model_expands_beyond_itself_is_the_share_of_all_disjoint_choices():
    n, k = 5, 2
    base = pass_at_k(np.arange(n + 1), n, [k], **QUICK)
    every = [
        (first, second)
        for first in combinations(range(n), k)
        for second in combinations(range(n), k)
        if not set(first) & set(second)
    ]
    expected = [np.mean([solved(c, y) and not solved(c, x) for x, y in every]) for c in range(n + 1)]
    found = coverage(base, base, k=k)
    assert found.redrawn.estimate == pytest.approx(np.mean(expected))
    assert coverage(base, base, k=3).redrawn is None


def test_at_all_samples_the_sets_are_counts_with_wilson_intervals():
    base, tuned = counts(5, 1, 0, 0, 3), counts(8, 0, 1, 0, 4)
    found = coverage(*(pass_at_k(c, 8, **QUICK) for c in (base, tuned)))
    assert found.counts == {"both": 2, "only_base": 1, "only_tuned": 1, "neither": 1}
    assert (found.expansion.estimate, found.shrinkage.estimate) == (0.2, 0.2)
    assert (found.preservation.estimate, found.preservation.n) == (pytest.approx(2 / 3), 3)
    assert found.consolidation.estimate == pytest.approx((8 / 8 + 4 / 8) / 2)
    for share, (hits, n) in {found.both: (2, 5), found.preservation: (2, 3), found.neither: (1, 5)}.items():
        low, high = wilson(hits, n).low, wilson(hits, n).high
        assert (share.low, share.high) == (pytest.approx(low), pytest.approx(high))


def test_nothing_solved_has_an_interval_that_begins_at_zero_and_all_solved_one_that_ends_at_one():
    nothing, everything_ = (pass_at_k(np.full(20, c), 8, **QUICK) for c in (0, 8))
    found = coverage(nothing, everything_)
    assert (found.only_tuned.estimate, found.only_tuned.high) == (1, 1)
    assert (found.both.estimate, found.both.low) == (0, 0)
    assert found.only_tuned.low < 0.9
    assert found.both.high > 0.1
    assert (found.preservation, found.consolidation) == (None, None)


def test_expansion_less_shrinkage_is_the_difference_of_the_curves():
    rng = np.random.default_rng(5)
    base, tuned = drawn(rng, NARROW, 64), drawn(rng, HARD, 64)
    for k in base.k:
        found = coverage(base, tuned, k=k)
        difference = tuned.per_problem(k).mean() - base.per_problem(k).mean()
        assert found.expansion.estimate - found.shrinkage.estimate == pytest.approx(difference)
        assert sum(found.counts.values()) == pytest.approx(100)


@pytest.mark.parametrize("k", [4, 32])
def test_the_interval_of_expansion_covers_the_truth(k):
    """Fewer hits than this come up once in a thousand where the coverage is 0.94."""
    rng = np.random.default_rng(6)
    runs, hits = 200, 0
    p, q = rng.beta(1, 8, (2, 200_000))
    truth = np.mean((1 - p) ** k * (1 - (1 - q) ** k))
    for _ in range(runs):
        base, tuned = (
            passk.PassAtK((), (), rng.binomial(32, rng.beta(1, 8, 60)), np.full(60, 32)) for _ in "bt"
        )
        found = coverage(base, tuned, k=k).expansion
        hits += found.low <= truth <= found.high
    assert hits >= stats.binom.ppf(1e-3, runs, 0.94)


def test_a_subset_chosen_by_other_draws_shows_what_base_solves_when_drawn_anew():
    """The same model twice on what it failed before: as much expansion as it solves itself."""
    rng = np.random.default_rng(7)
    rates = rng.beta(0.3, 10, 2000)
    screened, again, tuned = (rng.binomial(64, rates) for _ in range(3))
    base, tuned = (pass_at_k(c, 64, [64], n_resamples=40) for c in (again, tuned))
    found = coverage(base, tuned, among=screened == 0)
    resolved = found.both.estimate + found.only_base.estimate
    assert found.problem.shape == (4, (screened == 0).sum())
    assert found.expansion.estimate > 0.05
    assert found.expansion.estimate + found.both.estimate == pytest.approx(resolved, abs=0.04)
    same = coverage(base, tuned, among=base.correct == 0)
    assert (same.both.estimate, same.shrinkage.estimate, same.preservation) == (0, 0, None)


def test_the_same_model_expands_as_much_as_redrawing_says():
    rng = np.random.default_rng(8)
    rates = rng.beta(0.3, 10, 4000)
    base, again = (passk.PassAtK((), (), rng.binomial(64, rates), np.full(4000, 64)) for _ in range(2))
    found = coverage(base, again, k=16)
    assert found.redrawn.estimate == pytest.approx(found.expansion.estimate, abs=0.01)
    assert found.redrawn.estimate == pytest.approx(found.shrinkage.estimate, abs=0.01)
    assert found.redrawn.estimate > 0.05


def test_what_only_tuned_solves_is_set_beside_guessing():
    base, tuned = counts(0, 0, 0, 4), counts(1, 6, 0, 4)
    rates = np.array([0.1, 0.1, 0.1, 0.1])
    found = coverage(*(pass_at_k(c, 8, **QUICK) for c in (base, tuned)), tuned_rates=rates)
    floor = 1 - 0.9**8
    assert found.only_tuned.estimate == 0.5
    assert found.tuned_alone.guessed == pytest.approx(0.75 * floor)
    assert found.tuned_alone.above_guessing.estimate == 0.25
    assert found.tuned_alone.guessing.by_guessing.tolist() == [True, False, False, False]
    assert found.base_alone is None
    part = coverage(
        *(pass_at_k(c, 8, **QUICK) for c in (base, tuned)),
        among=np.array([True, False, False, True]),
        base_rates=np.arange(4) / 10,
    )
    np.testing.assert_allclose(part.base_alone.guessing.floor, 1 - (1 - np.array([0, 0.3])) ** 8)


# --- perplexity


@pytest.fixture(scope="module")
def traces():
    """Responses of 5, 1, 12 and 3 tokens to prompts of 4, 3, 1 and 10."""
    generator = torch.Generator().manual_seed(9)
    lengths = ((4, 5), (3, 1), (1, 12), (10, 3))
    return [Row(tuple(torch.randint(8, 100, (p + r,), generator=generator).tolist()), p) for p, r in lengths]


def by_hand(lm, row):
    """Mean of -log p of the response, one row alone and one token at a time."""
    with torch.no_grad():
        logprobs = lm.model(torch.tensor([row.tokens]), use_cache=False).logits[0].double().log_softmax(-1)
    nats = [-float(logprobs[t - 1, row.tokens[t]]) for t in range(row.prompt_length, len(row.tokens))]
    return sum(nats) / len(nats)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_it_is_what_a_loop_over_the_response_gives(tiny, traces, family):
    lm = tiny(family)
    found = trace_perplexity(lm, traces)
    expected = np.array([by_hand(lm, row) for row in traces])
    np.testing.assert_allclose(found.nats, expected, atol=2e-5)
    np.testing.assert_allclose(found.perplexity, np.exp(expected), rtol=1e-4)
    assert found.n_tokens.tolist() == [5, 1, 12, 3]
    assert found.pooled_nats == pytest.approx(expected @ [5, 1, 12, 3] / 21, abs=2e-5)
    assert found.pooled_perplexity == pytest.approx(math.exp(found.pooled_nats))


def test_neither_batches_nor_pieces_nor_parts_of_logits_change_it(llama, traces, monkeypatch):
    together = trace_perplexity(llama, traces).nats
    np.testing.assert_allclose(trace_perplexity(llama, traces, max_rows=1).nats, together, atol=2e-5)
    monkeypatch.setattr(passk, "stream", partial(stream, piece=4))
    monkeypatch.setattr(passk, "MAX_LOGITS", 3 * llama.d_vocab)
    np.testing.assert_allclose(trace_perplexity(llama, traces).nats, together, atol=2e-5)


def test_a_model_without_a_preference_is_as_perplexed_as_its_vocabulary_is_large(llama, traces, model_of):
    uniform = adopt(model_of("llama"), llama.tokenizer, name="uniform")
    with torch.no_grad():
        uniform.model.lm_head.weight.zero_()
    found = trace_perplexity(uniform, traces, writer=llama)
    np.testing.assert_allclose(found.perplexity, llama.d_vocab, rtol=1e-5)


def test_the_model_is_left_as_it_was(llama, traces, hook_count):
    before = hook_count(llama.model)
    trace_perplexity(llama, traces)
    assert hook_count(llama.model) == before
    assert trace_perplexity(llama, traces).nats.tolist() == trace_perplexity(llama, traces).nats.tolist()


def test_a_given_response_is_read_after_its_prompt(llama):
    row = response_row(llama.tokenizer, "why", "the thing")
    assert trace_perplexity(llama, [row]).nats[0] == pytest.approx(by_hand(llama, row), abs=2e-5)


# --- refusals


@pytest.mark.parametrize(
    ("correct", "n", "ks", "text"),
    [
        (counts(1, 2), 8, [9], r"pass@9 was asked for, and problem 0 has 8 samples"),
        (counts(1, 2), counts(8, 4), [5], r"problem 1 has 4 samples, the largest k that they allow"),
        (counts(1, 2), 8, [0], "pass@0 was asked for; k is a number of draws, from 1"),
        (counts(1, 2), 8, [], "No k was asked for"),
        (counts(1, 9), 8, [1], "Problem 1 has 9 right samples of 8"),
        (counts(-1, 2), 8, [1], "Problem 0 has -1 right samples of 8"),
        (counts(0, 0), counts(8, 0), [1], "Problem 1 has 0 right samples of 0"),
        (counts(1, 2), counts(8, 8, 8), [1], "2 counts of right samples and 3 of samples"),
        (np.zeros(0, int), 8, [1], "at least one problem"),
    ],
)
def test_counts_that_cannot_be_are_refused(correct, n, ks, text):
    with pytest.raises(InputError, match=text):
        pass_at_k(correct, n, ks, **QUICK)


def test_comparisons_of_different_problems_or_k_are_refused():
    two, three = pass_at_k(counts(1, 2), 8, [1, 8], **QUICK), pass_at_k(counts(1, 2, 3), 8, [1, 8], **QUICK)
    for compare in (compare_pass_at_k, efficiency_gap, coverage):
        with pytest.raises(InputError, match="base has 2 problems and tuned 3"):
            compare(two, three)
    with pytest.raises(InputError, match=r"base was computed at k = \[1, 8\] and tuned at \[1, 4\]"):
        compare_pass_at_k(two, pass_at_k(counts(1, 2), 8, [1, 4], **QUICK))
    one = pass_at_k(counts(1), 8, [1, 8], **QUICK)
    with pytest.raises(InputError, match="One problem does not tell"):
        compare_pass_at_k(one, one)
    with pytest.raises(InputError, match="pass@16 was asked for"):
        efficiency_gap(two, two, k=16)


def test_coverage_of_nothing_and_rates_that_do_not_fit_are_refused():
    two = pass_at_k(counts(1, 2), 8, [1, 8], **QUICK)
    with pytest.raises(InputError, match=r"`among` keeps 0 of 2 problems, and there are 2"):
        coverage(two, two, among=np.zeros(2, bool))
    with pytest.raises(InputError, match=r"`among` keeps 3 of 3 problems, and there are 2"):
        coverage(two, two, among=np.ones(3, bool))
    with pytest.raises(InputError, match="3 rates of guessing for 2 problems"):
        coverage(two, two, base_rates=np.full(3, 0.1), among=np.array([True, False]))
    with pytest.raises(InputError, match=r"pass one in 0\.\.1 for each"):
        guessing(two, np.array([0.1, 1.1]))
    with pytest.raises(InputError, match="pass@9 was asked for"):
        guessing(two, np.array([0.1, 0.1]), k=9)
    with pytest.raises(InputError, match="level must lie strictly between 0 and 1"):
        coverage(two, two, level=95.0)
    with pytest.raises(InputError, match="level must lie strictly between 0 and 1"):
        guessing(two, np.array([0.1, 0.1]), level=95.0)


def test_rates_of_guessing_need_other_problems():
    with pytest.raises(InputError, match="Answers to 1 problems and 1 gold ones"):
        guess_rates([["7"]], ["7"])
    with pytest.raises(InputError, match="Answers to 1 problems and 2 gold ones"):
        guess_rates([["7"]], ["7", "8"])
    with pytest.raises(InputError, match="Nothing was drawn for the problems other than 0"):
        guess_rates([["7"], []], ["7", "8"])


def test_what_has_no_perplexity_is_refused(llama, traces, tokenizer_with, vector):
    other = replace(llama, tokenizer=tokenizer_with(swap=("!", 60)), name="other")
    with pytest.raises(
        InputError, match="tokenizers of tiny-llama and of other, which wrote the rows, differ"
    ):
        trace_perplexity(llama, traces, writer=other)
    with pytest.raises(InputError, match="Row 1 is a prompt without a response"):
        trace_perplexity(llama, [traces[0], Row((9, 10), 2)])
    with pytest.raises(InputError, match=r"Row 0 holds token 5000; tiny-llama has ids 0\.\."):
        trace_perplexity(llama, [Row((9, 5000), 1)])
    with pytest.raises(InputError, match="no rows to read"):
        trace_perplexity(llama, [])
    with inject(llama, [Add(Site(1, "resid_post"), vector, positions=everything)]):
        with pytest.raises(InputError, match="inside an open `inject`"):
            trace_perplexity(llama, traces)
