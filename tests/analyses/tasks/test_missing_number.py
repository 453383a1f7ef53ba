"""The removed number is one that the solution needs, and the one beside the point is in none."""

import re
from collections import Counter

import pytest

from analyses.tasks.missing_number import missing_number
from analyses.tasks.problem import Problem
from analyses.tasks.word_problems import template_of, word_problems
from hooks.errors import InputError

PROBLEMS, TRIPLES = word_problems(360), missing_number(360)


def numbers(text):
    return Counter(re.findall(r"\d+", text))


def test_the_clause_that_is_missing_is_the_first_and_its_numbers_are_used():
    for problem, made in zip(PROBLEMS, TRIPLES, strict=True):
        lost = numbers(made.complete) - numbers(made.missing)
        assert lost
        assert lost.keys() <= numbers(problem.solutions["brief"]).keys()
        assert made.irrelevant == problem.prompt
        assert made.states == f"The answer is {problem.answer}."


def test_the_clause_beside_the_point_is_alike_in_length_and_numbers_and_is_used_nowhere():
    for problem, made in zip(PROBLEMS, TRIPLES, strict=True):
        beside = numbers(made.complete) - numbers(made.irrelevant)
        lost = numbers(made.complete) - numbers(made.missing)
        assert beside.total() == lost.total()
        assert not beside.keys() & numbers(problem.prompt + problem.solutions["brief"]).keys()
        assert abs(len(made.missing.split()) - len(made.irrelevant.split())) <= 2


def test_it_stands_before_the_needed_one_in_about_half():
    first = sum(not made.complete.startswith(made.irrelevant.split(".")[0]) for made in TRIPLES)
    assert 140 < first < 220


def test_groups_are_the_templates_and_each_problem_is_of_one():
    assert len({made.group for made in TRIPLES}) == 28
    for place in range(84):  # the levels take turns, and so do their templates
        level = PROBLEMS[place].level
        n = {"1": 10, "2": 9, "3": 9}[level]
        assert TRIPLES[place].group == f"{level}/{place // 3 % n}"


def test_the_seed_decides_and_fewer_are_the_first_of_more():
    assert missing_number(30) == TRIPLES[:30]
    assert missing_number(30, seed=1) != TRIPLES[:30]


def test_a_problem_from_elsewhere_has_no_template():
    with pytest.raises(InputError, match="Problem x is of none of the templates"):
        template_of(Problem("x", "How many?", "3", "file", level="1"))
