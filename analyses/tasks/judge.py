"""Is a response right? The verifier that its problem names decides."""

from collections.abc import Callable, Mapping

from analyses.tasks.block_stacking import judge_plan
from analyses.tasks.gym import judge_gym
from analyses.tasks.problem import Problem
from analyses.tasks.verify import Verdict, verify


def judge(problem: Problem, response: str) -> Verdict:
    """What a response states, and whether that solves the problem."""
    return VERIFIERS[problem.verifier](problem, response)


def _answer(problem: Problem, response: str) -> Verdict:
    return verify(problem.answer, response)


VERIFIERS: Mapping[str, Callable[[Problem, str], Verdict]] = {
    "answer": _answer,
    "block-stacking": judge_plan,
    "gym": judge_gym,
}
