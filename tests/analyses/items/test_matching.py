"""Matching: the best of all pairings, balance where it was planted away, and nothing but covariates."""

from itertools import permutations

import numpy as np
import pytest

from analyses.items.matching import match, spread, standardised_difference
from hooks.errors import InputError


def planted(n: int = 120, m: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two groups that overlap, of which the first is longer and surer."""
    rng = np.random.default_rng(seed)
    return rng.normal([30, -0.5], [6, 0.4], (n, 2)), rng.normal([25, -0.9], [7, 0.5], (m, 2))


def one(n: int) -> list[str]:
    return ["" for _ in range(n)]


def test_what_was_planted_apart_is_balanced_afterwards():
    a, b = planted()
    scale = spread(a, b)
    before = standardised_difference(a, b, scale)
    pairs = match(a, b, one(120), one(200))
    after = standardised_difference(a[pairs[:, 0]], b[pairs[:, 1]], scale)
    assert (np.abs(before) > 0.6).all()
    assert (np.abs(after) < 0.1).all()
    assert len(pairs) > 60


def test_no_pair_is_further_apart_than_the_caliper_and_nobody_is_in_two():
    a, b = planted()
    pairs = match(a, b, one(120), one(200), caliper=0.2)
    apart = np.abs(a[pairs[:, 0]] - b[pairs[:, 1]]) / spread(a, b)
    assert apart.max() <= 0.2
    assert len(set(pairs[:, 0])) == len(set(pairs[:, 1])) == len(pairs)
    cost = (apart**2).sum(1)
    assert (np.diff(cost) >= 0).all(), "the closest come first"


def test_pairs_stay_within_their_stratum():
    a, b = planted()
    rng = np.random.default_rng(1)
    sa, sb = rng.choice(["word", "number", "x"], 120), rng.choice(["word", "number", "y"], 200)
    pairs = match(a, b, list(sa), list(sb))
    assert [sa[i] for i, _ in pairs] == [sb[j] for _, j in pairs]
    assert set(sa[pairs[:, 0]]) == {"word", "number"}


@pytest.mark.parametrize("seed", range(8))
def test_the_pairing_is_the_best_of_all(seed: int):
    """A slow loop over every pairing: the most pairs within the caliper, and then the nearest."""
    a, b = planted(5, 6, seed)
    caliper, scale = 0.8, spread(a, b)
    apart = np.abs(a[:, None] - b[None]) / scale
    near, cost = (apart <= caliper).all(-1), (apart**2).sum(-1)
    best = min(
        (
            -sum(near[i, j] for i, j in enumerate(order)),
            sum(cost[i, j] for i, j in enumerate(order) if near[i, j]),
        )
        for order in permutations(range(6), 5)
    )
    pairs = match(a, b, one(5), one(6), caliper=caliper)
    assert (-len(pairs), sum(cost[i, j] for i, j in pairs)) == pytest.approx(best)


def test_units_do_not_matter():
    a, b = planted()
    scale, shift = np.array([1000.0, 0.01]), np.array([5.0, -3.0])
    there = match(a * scale + shift, b * scale + shift, one(120), one(200))
    np.testing.assert_array_equal(there, match(a, b, one(120), one(200)))


def test_the_order_of_the_members_does_not_matter():
    a, b = planted()
    shuffle = np.random.default_rng(2).permutation(200)
    pairs = match(a, b, one(120), one(200))
    shuffled = match(a, b[shuffle], one(120), one(200))
    assert {(i, shuffle[j]) for i, j in shuffled.tolist()} == set(map(tuple, pairs.tolist()))


def test_a_covariate_in_which_nobody_differs_does_not_matter():
    a, b = planted()
    with_constant = match(np.c_[a, np.ones(120)], np.c_[b, np.ones(200)], one(120), one(200))
    np.testing.assert_array_equal(with_constant, match(a, b, one(120), one(200)))


def test_groups_with_nobody_in_reach_make_no_pairs():
    a, b = planted()
    assert match(a, b, one(120), ["other"] * 200).shape == (0, 2)
    assert match(np.array([[0.0], [1.0]]), np.array([[5.0], [6.0]]), one(2), one(2)).shape == (0, 2)


def test_the_difference_is_in_standard_deviations():
    a, b = np.array([[1.0], [3.0]]), np.array([[0.0], [2.0]])
    assert spread(a, b) == pytest.approx(np.sqrt(2))
    assert standardised_difference(a, b, spread(a, b)) == pytest.approx(1 / np.sqrt(2))


def test_what_cannot_be_matched_is_refused():
    a, b = planted()
    with pytest.raises(InputError, match=r"caliper=0.0 .* a positive number"):
        match(a, b, one(120), one(200), caliper=0.0)
    a[0, 0] = np.nan
    with pytest.raises(InputError, match="not finite"):
        match(a, b, one(120), one(200))
