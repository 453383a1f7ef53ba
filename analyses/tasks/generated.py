"""Problems that are made and not read: by name, or by name and rung."""

from collections.abc import Iterator
from dataclasses import replace

from analyses.tasks import block_stacking, gym
from analyses.tasks.drawing import MOST, draw
from analyses.tasks.problem import Problem
from analyses.tasks.word_problems import LEVELS, word_problems
from hooks.errors import InputError

BUILT_IN = "word-problems"


def is_generated(source: str) -> bool:
    """Whether the source is a name such as ``block-stacking`` or ``gym:chain_sum@3``."""
    name = source.partition("@")[0]
    return name in (BUILT_IN, block_stacking.SOURCE) or name.startswith(gym.PREFIX)


def rungs_of(source: str) -> tuple[str, ...]:
    """The sources of a ladder's single rungs, easiest first; a source without rungs is its own."""
    name, at, _ = source.partition("@")
    if at or not is_generated(source):
        return (source,)
    return tuple(f"{name}@{rung}" if rung else name for rung in _rungs(name))


def generated(source: str, n: int | None, seed: int) -> list[Problem]:
    """Problems of one rung, or of all rungs in turn.

    Raises:
        InputError: if there is no such name or rung, or there are fewer than ``n``.
    """
    name, at, rung = source.partition("@")
    if name.startswith(gym.PREFIX):
        gym.known(name.removeprefix(gym.PREFIX))
    rungs = _rungs(name)
    if at and (rung not in rungs or not rung):
        would = " or ".join(rungs_of(name))
        raise InputError(f"{name} has no rung {rung!r}. {would} would work.")
    asked = (rung,) if at else rungs
    if name == BUILT_IN:
        problems = word_problems(MOST if n is None else n, seed, asked)
        return [replace(problem, source=source) for problem in problems]
    return draw(source, {one: _stream(name, one, seed, source) for one in asked}, n)


def _rungs(name: str) -> tuple[str, ...]:
    if name == BUILT_IN:
        return LEVELS
    return block_stacking.RUNGS if name == block_stacking.SOURCE else gym.rungs(name.removeprefix(gym.PREFIX))


def _stream(name: str, rung: str, seed: int, source: str) -> Iterator[Problem]:
    if name == block_stacking.SOURCE:
        return block_stacking.block_stacking(rung, seed, source)
    return gym.gym_problems(name.removeprefix(gym.PREFIX), rung, seed, source)
