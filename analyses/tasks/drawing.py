"""Different problems drawn from the endless streams of a family, one stream a rung, in turn."""

from collections.abc import Iterator, Mapping
from itertools import cycle

from analyses.tasks.problem import Problem
from hooks.errors import InputError

MOST = 360  # where no number is asked for: as many as there are word problems
_PATIENCE = 500  # draws in a row that were all there before


def draw(source: str, streams: Mapping[str, Iterator[Problem]], n: int | None) -> list[Problem]:
    """The first ``n`` problems of different prompts, the rungs in turn.

    Fewer of them are the first of more.

    Args:
        streams: By rung, easiest first; a rung that repeats itself 500 times in a row is used up.
        n: None takes 360, or as many as there are before the first rung is used up.

    Raises:
        InputError: if a rung is used up before there are ``n``.
    """
    problems: list[Problem] = []
    seen: set[str] = set()
    for rung in cycle(streams):
        if len(problems) == (MOST if n is None else n):
            return problems
        fresh = _fresh(streams[rung], seen)
        if fresh is None:
            break
        seen.add(fresh.prompt)
        problems.append(fresh)
    if n is None and problems:
        return problems
    which = f"whose rung {rung} runs" if len(streams) > 1 else "which runs"
    raise InputError(
        f"n={n} problems were asked of {source}, {which} out of different ones after {len(problems)}. "
        f"n={len(problems)} or fewer would work."
    )


def _fresh(stream: Iterator[Problem], seen: set[str]) -> Problem | None:
    for problem, _ in zip(stream, range(_PATIENCE), strict=False):
        if problem.prompt not in seen:
            return problem
    return None
