"""Splits: read off the prompt's text, and off nothing else."""

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyses.tasks.problem import Problem, by_split, split_of
from hooks.errors import InputError

PROBLEMS = [Problem(f"p{i}", f"What is {i} plus {i * i}?", str(i + i * i), "own") for i in range(3000)]


@given(prompt=st.text(), salt=st.text(max_size=5))
def test_the_split_depends_on_the_prompt_alone(prompt: str, salt: str):
    one = Problem("a", prompt, "1", "here", level="1")
    twin = Problem("b", prompt, "2", "there", level="3", solutions={"long": "..."})
    assert split_of(one, salt=salt) == split_of(twin, salt=salt)


def test_a_duplicate_that_differs_in_spaces_and_case_lands_beside_its_twin():
    for problem in PROBLEMS[:200]:
        shouted = replace(problem, prompt=f"  {problem.prompt.upper()}\n")
        spread = replace(problem, prompt=problem.prompt.replace(" ", "\n "))
        assert split_of(shouted) == split_of(problem) == split_of(spread)


def test_the_split_is_where_a_hash_worked_out_by_hand_puts_it():
    problem = Problem("a", "How many?", "1", "own")
    digest = hashlib.sha256(b"pepper\0how many?").hexdigest()
    place = int(digest[:12], 16) / 16**12
    expected = "fit" if place < 0.5 else "select" if place < 0.7 else "confirm"
    assert split_of(problem, (0.5, 0.2, 0.3), salt="pepper") == expected


@pytest.mark.parametrize("shares", [(0.4, 0.2, 0.4), (0.7, 0.2, 0.1), (0.0, 0.5, 0.5)])
def test_the_shares_are_met_within_four_standard_errors(shares: tuple[float, float, float]):
    splits = by_split(PROBLEMS, shares)
    for share, members in zip(shares, splits.values(), strict=True):
        error = (share * (1 - share) / len(PROBLEMS)) ** 0.5
        assert abs(len(members) / len(PROBLEMS) - share) <= 4 * error


def test_every_problem_is_in_one_split_and_keeps_its_order():
    splits = by_split(PROBLEMS)
    assert list(splits) == ["fit", "select", "confirm"]
    members = {problem.id for split in splits.values() for problem in split}
    assert members == {problem.id for problem in PROBLEMS}
    assert sum(map(len, splits.values())) == len(PROBLEMS)
    for members in splits.values():
        assert members == sorted(members, key=lambda problem: int(problem.id[1:]))


def test_adding_problems_moves_none_that_was_there():
    before, after = by_split(PROBLEMS[:100]), by_split(PROBLEMS)
    for split, members in before.items():
        assert members == [problem for problem in after[split] if int(problem.id[1:]) < 100]


def test_another_salt_makes_an_independent_partition():
    agree = sum(split_of(p) == split_of(p, salt="again") for p in PROBLEMS) / len(PROBLEMS)
    chance = 0.4**2 + 0.2**2 + 0.4**2
    assert abs(agree - chance) < 4 * (chance * (1 - chance) / len(PROBLEMS)) ** 0.5


def test_an_empty_split_is_still_a_key():
    assert by_split(PROBLEMS[:5], (1.0, 0.0, 0.0)) == {
        "fit": PROBLEMS[:5],
        "select": [],
        "confirm": [],
    }


@pytest.mark.parametrize(
    "shares", [(0.5, 0.5, 0.5), (1.2, -0.1, -0.1), (float("nan"), 0.5, 0.5), (0.4, 0.2, 0.3)]
)
def test_shares_that_do_not_sum_to_one_are_refused(shares: tuple[float, float, float]):
    with pytest.raises(InputError, match=r"sum to 1; \(0\.4, 0\.2, 0\.4\) would work"):
        split_of(PROBLEMS[0], shares)


def test_problems_can_stand_in_a_set_though_their_solutions_are_a_dict():
    twin = replace(PROBLEMS[0], solutions={"long": "..."})
    assert len({PROBLEMS[0], PROBLEMS[0], twin}) == 2
