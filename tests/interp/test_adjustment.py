"""The six quantities, counted by hand; and the floors, met by a guesser."""

import numpy as np
import pytest

from hooks.errors import InputError
from interp.adjustment import adjustment

FAST = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0], dtype=bool)
SLOW = np.array([1, 1, 1, 0, 1, 1, 0, 0, 0, 0], dtype=bool)


def test_the_quantities_are_what_a_count_gives():
    found = adjustment(FAST, SLOW, [0.5] * 10)
    assert found.fast.estimate == 0.4
    assert found.slow.estimate == 0.5
    assert found.adjustment.estimate == pytest.approx(0.1)
    assert found.correction.estimate == 0.2
    assert found.overthinking.estimate == 0.1
    assert (found.correction_rate.estimate, found.correction_rate.n) == (pytest.approx(2 / 6), 6)
    assert (found.overthinking_rate.estimate, found.overthinking_rate.n) == (pytest.approx(1 / 4), 4)


def test_adjustment_is_correction_less_overthinking_and_so_are_the_rates_weighted():
    rng = np.random.default_rng(0)
    for _ in range(20):
        fast, slow = rng.random((2, 50)) < rng.random((2, 1))
        found = adjustment(fast, slow, [0.25] * 50, n_resamples=100)
        assert found.adjustment.estimate == pytest.approx(
            found.correction.estimate - found.overthinking.estimate
        )
        by_rates = 0.0
        if found.correction_rate:
            by_rates += found.correction_rate.estimate * (1 - found.fast.estimate)
        if found.overthinking_rate:
            by_rates -= found.overthinking_rate.estimate * found.fast.estimate
        assert found.adjustment.estimate == pytest.approx(by_rates)


@pytest.mark.parametrize("m", [2, 5])
def test_whoever_guesses_anew_is_at_the_floors(m):
    rng = np.random.default_rng(m)
    fast, slow = rng.integers(m, size=(2, 20_000)) == 0
    found = adjustment(fast, slow, [1 / m] * 20_000, n_resamples=100)
    assert found.guessed_correction_rate == pytest.approx(1 / m)
    assert found.guessed_overthinking_rate == pytest.approx(1 - 1 / m)
    assert found.correction_rate.estimate == pytest.approx(1 / m, abs=0.02)
    assert found.overthinking_rate.estimate == pytest.approx(1 - 1 / m, abs=0.02)


def test_floors_are_of_the_items_that_count_and_have_candidates():
    rates = [0.5, 0.25, None, None, 0.2, None, None, None, None, None]
    found = adjustment(FAST, SLOW, rates)
    assert found.guessed_overthinking_rate == pytest.approx(1 - 0.375)
    assert found.guessed_correction_rate == pytest.approx(0.2)
    assert adjustment(FAST, SLOW, [None] * 10).guessed_correction_rate is None


def test_a_rate_of_nothing_is_none():
    everything, nothing = np.ones(4, bool), np.zeros(4, bool)
    assert adjustment(everything, nothing, [0.5] * 4).correction_rate is None
    assert adjustment(nothing, everything, [0.5] * 4).overthinking_rate is None


def test_columns_of_different_lengths_are_refused():
    with pytest.raises(InputError, match="4 fast answers, 10 slow ones and 10 guess rates"):
        adjustment(FAST[:4], SLOW, [0.5] * 10)
    with pytest.raises(InputError, match="at least one item"):
        adjustment(FAST[:0], SLOW[:0], [])
