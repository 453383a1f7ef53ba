"""The verdict finds what was planted, says when nothing was, and lets no method shout another down."""

import numpy as np
import pytest
from scipy.stats import binom

from analyses.layers.verdict import METHODS, PRIMARY, agreement, headline, judge, summary

N, LAYERS = 40, 12


def peaked(at: int, *, noise: float = 0.3, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    curve = np.exp(-0.5 * ((np.arange(LAYERS) - at) / 1.0) ** 2)
    return curve + noise * rng.standard_normal((N, LAYERS))


def told(reasoning: int, knowledge: int, method=METHODS[0], *, noise=0.3, seed=0):
    found = {
        "knowledge": peaked(knowledge, noise=noise, seed=seed),
        "reasoning": peaked(reasoning, noise=noise, seed=seed + 1),
    }
    return summary(method, found, found, n_resamples=500)


def test_a_planted_difference_is_found_with_its_sign():
    deeper, shallower, same = judge_each(told(8, 3), told(3, 8), told(5, 5))
    assert (deeper["verdict"], shallower["verdict"], same["verdict"]) == (
        "deeper",
        "shallower",
        "not settled",
    )
    assert deeper["depth"]["difference"]["estimate"] == pytest.approx(
        -shallower["depth"]["difference"]["estimate"], abs=1.5
    )


def judge_each(*summaries):
    return [judge([s])[0] for s in summaries]


def test_the_headline_says_the_sentence_with_its_interval():
    (judged,) = judge_each(told(8, 3))
    text = headline("m", [judged])
    d = judged["depth"]["difference"]
    assert text.startswith(f"In m reasoning sits deeper than knowledge, by {d['estimate']:.1f} layers [")
    assert f"n = {N} matched pairs" in text
    (judged,) = judge_each(told(5, 5))
    assert headline("m", [judged]).startswith("Not settled for m: reasoning sits")


def test_other_methods_are_counted_and_a_contradiction_is_named():
    methods = [told(8, 3, METHODS[0]), told(8, 3, METHODS[1]), told(3, 8, METHODS[2]), told(5, 5, METHODS[3])]
    text = headline("m", judge(methods))
    assert "Of 3 other methods: 1 deeper, 1 shallower, 1 not settled." in text
    assert "contradict each other" in text


def test_no_positive_layer_is_said_and_gives_no_verdict():
    method = METHODS[0]
    down = {"knowledge": -np.ones((N, LAYERS)), "reasoning": peaked(4)}
    (judged,) = judge_each(summary(method, down, down, n_resamples=200))
    assert judged["verdict"] == "undefined"
    assert headline("m", [judged]) == (
        "Not settled for m: the mean curve of knowledge is above zero at no layer."
    )


def test_pairs_with_a_curve_that_is_not_finite_are_left_out_together_and_counted():
    found = {"knowledge": peaked(3), "reasoning": peaked(8, seed=1)}
    found["knowledge"][5, 2] = np.nan
    found["reasoning"][9] = np.inf
    s = summary(METHODS[0], found, found, n_resamples=200)
    assert s["left_out"] == 2
    assert s["depth"]["difference"]["n"] == N - 2
    assert s["families"]["reasoning"]["curve"][0]["n"] == N - 2


def test_the_primary_is_not_adjusted_and_the_others_are():
    judged = judge([told(6, 5, m, noise=1.0, seed=i) for i, m in enumerate(METHODS[:5])])
    assert judged[0]["p_adjusted"] == judged[0]["depth"]["p"]
    assert all(s["p_adjusted"] >= s["depth"]["p"] for s in judged[1:])
    assert any(s["p_adjusted"] > s["depth"]["p"] for s in judged[1:])


def test_shuffled_labels_are_settled_no_more_often_than_they_may_be():
    """Families five layers apart, every pair's labels swapped by a coin: of 100 runs at 5%, more than 13 come
    by chance in one such test of two thousand. With one label in ten swapped, nearly all are settled."""
    knowledge, reasoning = (peaked(at, noise=0.5, seed=at)[:, 2:10] for at in (3, 8))

    def settled(runs, swapped):
        count = 0
        for seed in range(runs):
            swap = np.random.default_rng(seed).random((N, 1)) < swapped
            found = {
                "knowledge": np.where(swap, reasoning, knowledge),
                "reasoning": np.where(swap, knowledge, reasoning),
            }
            (judged,) = judge_each(summary(METHODS[0], found, found, n_resamples=200, seed=seed))
            count += judged["verdict"] in ("deeper", "shallower")
        return count

    assert settled(100, 0.5) <= binom.ppf(0.999, 100, 0.05)
    assert settled(20, 0.1) > 18


def test_methods_agree_with_themselves():
    judged = judge([told(8, 3, METHODS[0], noise=0.0), told(8, 3, METHODS[1], noise=0.0)])
    table = agreement(judged, "reasoning")
    assert table == [[pytest.approx(1)] * 2] * 2


def test_every_method_says_what_the_opposite_would_look_like_and_has_a_floor():
    assert METHODS[0].name == PRIMARY
    assert len({m.name for m in METHODS}) == len(METHODS)
    for method in METHODS:
        assert method.floor
        assert method.opposite.endswith(".")
