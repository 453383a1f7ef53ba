"""Sets that cannot measure anything are refused before a run, each by name."""

from dataclasses import replace
from typing import Any

import pytest

from analyses.tasks import checked, gym, load_problems, word_problems
from analyses.tasks.judge import VERIFIERS
from analyses.tasks.problem import Problem
from analyses.tasks.verify import Verdict
from hooks.errors import InputError

PROBLEMS = word_problems(9)


def numbered(*answers: str, verifier: str = "answer") -> list[Problem]:
    return [
        Problem(
            id=f"p{place}", prompt=f"Question {place}?", answer=answer, source="by hand", verifier=verifier
        )
        for place, answer in enumerate(answers)
    ]


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Names a verifier that takes the texts for which a function is true."""

    def plant(takes: Any) -> str:
        monkeypatch.setitem(
            VERIFIERS, "planted", lambda p, text: Verdict(takes(p, text), text or None, "stated")
        )  # type: ignore[arg-type]
        return "planted"

    return plant


def test_problems_that_can_be_judged_come_back_as_they_were():
    assert checked(PROBLEMS) is PROBLEMS
    assert checked(load_problems("block-stacking", n=12))
    checked(PROBLEMS[:1])


def test_no_problems_are_refused():
    with pytest.raises(InputError, match=r"There are no problems\. One or more would work"):
        checked([])


def test_two_problems_of_one_id_are_both_named():
    twins = [*PROBLEMS[:4], replace(PROBLEMS[5], id=PROBLEMS[1].id)]
    with pytest.raises(
        InputError, match=rf"Problems 2 and 5 both have the id '{PROBLEMS[1].id}'.*own for each"
    ):
        checked(twins)


def test_a_verifier_that_takes_nothing_is_named_with_its_problem(planted: Any):
    verifier = planted(lambda problem, text: problem.id != "p1" and text == problem.answer)
    match = r"verifier 'planted' does not take the gold answer of problem p1, '4', so that every response"
    with pytest.raises(InputError, match=match):
        checked(numbered("3", "4", "5", verifier=verifier))


@pytest.mark.parametrize(
    ("takes", "match"),
    [
        (lambda *_: True, r"'planted' takes an empty text for an answer to problem p0"),
        (lambda _, text: text != "", r"'planted' takes 'I like to walk .*' for an answer to problem p0"),
        (lambda _, text: text.isdigit(), r"takes '4' and '5' and '6', gold answers of other problems, .* p0"),
    ],
)
def test_a_verifier_that_takes_everything_is_named_with_its_problem(planted: Any, takes: Any, match: str):
    with pytest.raises(InputError, match=match):
        checked(numbered("3", "4", "5", "6", verifier=planted(takes)))


def test_a_verifier_that_takes_everything_of_one_problem_is_found_among_good_ones(planted: Any):
    verifier = planted(lambda problem, text: problem.id == "p7" or text == problem.answer)
    problems = numbered(*map(str, range(10)), verifier=verifier)
    with pytest.raises(InputError, match=r"an answer to problem p7, whose gold answer is '7'"):
        checked(problems)


def test_equal_answers_in_two_forms_and_two_possible_answers_are_no_fault():
    checked(numbered("0.5", "1/2", "50e-2", "3"))
    checked(numbered("yes", "no", "yes", "no"))


def test_a_verifier_that_is_not_there_is_refused():
    with pytest.raises(
        InputError, match=r"p0 names the verifier 'oracle', which is not there\. answer, .* would"
    ):
        checked(numbered("3", verifier="oracle"))


def test_the_check_finds_the_lenient_verifier_for_which_a_data_set_is_refused(
    monkeypatch: pytest.MonkeyPatch,
):
    pytest.importorskip("reasoning_gym")
    monkeypatch.delitem(gym.REFUSED, "game_of_life_halting")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"'gym' takes 'I like to walk .* whose gold answer is 'False'"):
        checked(load_problems("gym:game_of_life_halting", n=6))
