"""Finding the rung: the planted one comes back, and a ladder without one says so."""

from collections.abc import Sequence

import numpy as np
import pytest

from analyses.tasks import find_rung, rungs_of
from analyses.tasks.problem import Problem
from hooks.errors import InputError
from interp.stats import wilson


class Solver:
    """Solves a share of each level's problems, and remembers what it was given."""

    def __init__(self, **shares: float) -> None:
        self.shares = {level.removeprefix("l"): share for level, share in shares.items()}
        self.given: list[Sequence[Problem]] = []

    def __call__(self, problems: Sequence[Problem]) -> np.ndarray:
        self.given.append(problems)
        share = self.shares[problems[0].level]
        return np.arange(len(problems)) < round(share * len(problems))


def test_the_hardest_rung_inside_is_chosen_and_the_climb_ends_below_the_range():
    solve = Solver(l1=1.0, l2=0.75, l3=0.5, l4=0.25, l5=0.0, l6=0.5)
    found = find_rung(solve, "block-stacking", n=12)
    assert (found.source, found.inside) == ("block-stacking@4", True)
    assert list(found.accuracies) == [f"block-stacking@{rung}" for rung in "12345"], "6 was not tried"
    assert found.accuracy == wilson(3, 12) == found.accuracies["block-stacking@4"]
    assert all(len({problem.id for problem in given}) == 12 for given in solve.given)


def test_a_dip_that_stays_inside_does_not_end_the_climb():
    found = find_rung(Solver(l1=0.5, l2=0.75, l3=0.25), "word-problems", n=4)
    assert (found.source, found.inside) == ("word-problems@3", True)


@pytest.mark.parametrize(
    ("shares", "nearest"),
    [((1.0, 0.75, 0.75), "2"), ((0.0, 0.0, 0.0), "1"), ((0.65, 0.0, 0.0), "1"), ((1.0, 0.05, 0.0), "2")],
)
def test_where_no_rung_is_inside_the_nearest_is_given_and_said_to_be_outside(
    shares: tuple[float, float, float], nearest: str
):
    solve = Solver(l1=shares[0], l2=shares[1], l3=shares[2])
    found = find_rung(solve, "word-problems", n=20)
    assert (found.source, found.inside) == (f"word-problems@{nearest}", False)


def test_the_ends_of_the_range_are_inside():
    assert find_rung(Solver(l1=0.6, l2=0.0), "word-problems", n=5).inside
    assert find_rung(Solver(l1=1.0, l2=0.1, l3=0.0), "word-problems", n=10).source == "word-problems@2"


def test_the_same_seed_gives_the_same_problems_and_another_gives_others():
    first, again, other = Solver(l2=0.5), Solver(l2=0.5), Solver(l2=0.5)
    for solve, seed in ((first, 1), (again, 1), (other, 2)):
        find_rung(solve, "block-stacking@2", n=6, seed=seed)
    assert first.given == again.given
    assert {p.id for p in first.given[0]}.isdisjoint(p.id for p in other.given[0])


def test_a_source_without_rungs_is_its_own_and_only_one():
    assert rungs_of("openai/gsm8k:main/test") == ("openai/gsm8k:main/test",)
    assert rungs_of("my@file.jsonl") == ("my@file.jsonl",)
    assert rungs_of("word-problems@2") == ("word-problems@2",)
    assert rungs_of("word-problems") == ("word-problems@1", "word-problems@2", "word-problems@3")
    assert rungs_of("gym:chain_sum")[0] == "gym:chain_sum@2"
    assert rungs_of("gym:gcd") == ("gym:gcd",)


def test_a_range_or_a_solver_that_cannot_be_is_refused():
    with pytest.raises(InputError, match=r"low=0\.6 and high=0\.1 are no range of accuracies; 0\.1 and 0\.6"):
        find_rung(Solver(l1=0.5), "word-problems", low=0.6, high=0.1)
    match = r"solve gave an array of float64 and shape \(4,\) for 4 problems of word-problems@1\. Booleans"
    with pytest.raises(InputError, match=match):
        find_rung(lambda problems: np.ones(len(problems)), "word-problems", n=4)
    with pytest.raises(InputError, match=r"shape \(3,\) for 4 problems"):
        find_rung(lambda problems: np.ones(len(problems) - 1, dtype=bool), "word-problems", n=4)
