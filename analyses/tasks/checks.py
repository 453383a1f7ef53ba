"""Problems that cannot measure anything are refused before a model spends time on them."""

from collections.abc import Sequence

from analyses.tasks.judge import VERIFIERS, judge
from analyses.tasks.problem import Problem
from hooks.errors import InputError

NO_ANSWER = "I like to walk along the river when the weather is fine."
_OTHERS = 4


def checked(problems: Sequence[Problem]) -> Sequence[Problem]:
    """The problems as they came, if each has an id of its own and a verifier that can tell.

    A verifier can tell if it takes the problem's gold answer, and takes neither an empty text, nor a
    sentence that answers nothing, nor most of four other gold answers of the set.

    Raises:
        InputError: if there are no problems, two have one id, or a verifier cannot tell; by name.
    """
    if not problems:
        raise InputError("There are no problems. One or more would work.")
    _have_own_ids(problems)
    golds = [_accepted_gold(problem) for problem in problems]
    stated = {gold: problem.answer for gold, problem in zip(golds, problems, strict=True)}
    for place, (gold, problem) in enumerate(zip(golds, problems, strict=True)):
        _refuses_no_answer(problem, _others(stated, gold, place))
    return problems


def _have_own_ids(problems: Sequence[Problem]) -> None:
    places: dict[str, int] = {}
    for place, problem in enumerate(problems, start=1):
        first = places.setdefault(problem.id, place)
        if first != place:
            raise InputError(
                f"Problems {first} and {place} both have the id {problem.id!r}: "
                f"{_short(problems[first - 1].prompt)!r} and {_short(problem.prompt)!r}. "
                "An id of its own for each problem would work."
            )


def _accepted_gold(problem: Problem) -> str:
    """The gold answer as its verifier normalises it."""
    if problem.verifier not in VERIFIERS:
        raise InputError(
            f"Problem {problem.id} names the verifier {problem.verifier!r}, which is not there. "
            f"{', '.join(VERIFIERS)} would work."
        )
    verdict = judge(problem, problem.answer)
    if not verdict.correct:
        raise InputError(
            f"The verifier {problem.verifier!r} does not take the gold answer of problem {problem.id}, "
            f"{_short(problem.answer)!r}, so that every response would be wrong. A gold answer that it can "
            "read, or another verifier, would work."
        )
    return verdict.stated or problem.answer


def _others(stated: dict[str, str], own: str, place: int) -> list[str]:
    """Up to four gold answers of other problems that differ from one's own, others for each."""
    differing = [answer for gold, answer in stated.items() if gold != own]
    return [differing[(place + step) % len(differing)] for step in range(min(_OTHERS, len(differing)))]


def _refuses_no_answer(problem: Problem, others: list[str]) -> None:
    for text, what in (("", "an empty text"), (NO_ANSWER, f"{NO_ANSWER!r}")):
        if judge(problem, text).correct:
            raise InputError(_accepts(problem, what))
    taken = [text for text in others if judge(problem, text).correct]
    if len(others) > 1 and 2 * len(taken) > len(others):
        shown = " and ".join(repr(_short(text)) for text in taken)
        raise InputError(_accepts(problem, f"{shown}, gold answers of other problems,"))


def _accepts(problem: Problem, what: str) -> str:
    return (
        f"The verifier {problem.verifier!r} takes {what} for an answer to problem {problem.id}, whose gold "
        f"answer is {_short(problem.answer)!r}: it would call anything right. Without this problem, or with "
        "another verifier, the set would work."
    )


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
