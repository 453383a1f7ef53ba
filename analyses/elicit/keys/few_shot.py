"""Worked examples before the problem, of its own kind, from the fit problems."""

from collections.abc import Mapping
from dataclasses import dataclass

from analyses.elicit.key import Bench, Key
from analyses.tasks import Problem
from hooks.chat import Prompt

STYLES = ("brief", "long", "direct")
"""Of worked solutions, the one that is shown where there are several."""


@dataclass(frozen=True)
class Shots:
    """Turns of a conversation; questions and answers in one text where there is no chat template."""

    of_source: Mapping[str, tuple[Problem, ...]]
    chat: bool

    def __call__(self, problem: Problem) -> Prompt:
        shown = [(shot.prompt, _solution(shot)) for shot in self.of_source[problem.source]]
        if not self.chat:
            return "".join(f"Q: {q}\nA: {a}\n\n" for q, a in shown) + f"Q: {problem.prompt}\nA:"
        turns = [
            turn
            for q, a in shown
            for turn in ({"role": "user", "content": q}, {"role": "assistant", "content": a})
        ]
        return [*turns, {"role": "user", "content": problem.prompt}]


def make(bench: Bench) -> Key:
    """The first of the fit problems of each source.

    Source: Wei et al. 2022, arXiv:2201.11903.
    """
    n = bench.config.n_shots
    of_source: dict[str, tuple[Problem, ...]] = {}
    for problem in bench.fit:
        if len(before := of_source.get(problem.source, ())) < n:
            of_source[problem.source] = (*before, problem)
    chat = bench.lm.tokenizer.chat_template is not None
    return Key("few-shot", f"{n} worked examples before it", prompt=Shots(of_source, chat))


def _solution(problem: Problem) -> str:
    of_style = problem.solutions
    return next((of_style[style] for style in STYLES if style in of_style), problem.answer)
