"""Problems of reasoning-gym, by the name of its data set, judged by its own verifiers.

Its verifiers give credit in part; here a response is right only at a score of 1. So a plan for the
Tower of Hanoi or a path through a grid is right only when none is shorter, as their prompts of the
path ask and those of the tower do not.

Source: Stojanovski et al. 2025, "Reasoning Gym: Reasoning Environments for Reinforcement Learning
with Verifiable Rewards", arXiv:2505.24760; the package reasoning-gym.
Differs from the source: the answer is looked for in the whole response and not between tags, and the
names in :data:`REFUSED` are not offered.
"""

import difflib
import functools
import hashlib
import importlib
import json
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any, NamedTuple

from analyses.tasks.gym_answers import Reading, read, reads
from analyses.tasks.problem import Problem
from analyses.tasks.verify import Verdict
from hooks.errors import InputError

PREFIX = "gym:"

_SIZE = 20_000  # items a data set is asked for, of which few are made
_EVALUATES = "its verifier evaluates what the model wrote as code"
_NO_GOLD = "it gives no answer to hold its verifier against"

REFUSED: Mapping[str, str] = {
    **dict.fromkeys(
        (
            "binary_matrix",
            "countdown",
            "intermediate_integration",
            "n_queens",
            "polynomial_multiplication",
            "puzzle24",
            "simple_integration",
            "spiral_matrix",
            "string_insertion",
        ),
        _EVALUATES,
    ),
    **dict.fromkeys(("boxnet", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour"), _NO_GOLD),
    **dict.fromkeys(
        (
            "isomorphic_strings",
            "knight_swap",
            "list_functions",
            "ransom_note",
            "time_intervals",
            "word_ladder",
        ),
        "its items change with Python's hash seed or the date, so that no seed brings them back",
    ),
    **dict.fromkeys(("arc_agi", "rearc"), "its verifier compares tuples, which no JSON file keeps"),
    "codeio": "it runs programs that come as data",
    "composite": "it mixes other data sets, which have names of their own",
    "game_of_life_halting": "its verifier takes any text but 'True' for 'False'",
}
"""Data sets that are not offered, and why."""


class _Rung(NamedTuple):
    config: Mapping[str, Any]
    """What the data set is made with."""
    keep: Callable[[Mapping[str, Any]], bool] = lambda _: True
    """Which of its items are of the rung."""


def _steps(length: int) -> Callable[[Mapping[str, Any]], bool]:
    return lambda item: len(item["metadata"]["solution"]) == length


def _between(name: str, value: int) -> dict[str, int]:
    return {f"min_{name}": value, f"max_{name}": value}


_ONE_DIGIT = _between("digits", 1)
_GRID = {"min_rows": 4, "max_rows": 5, "min_cols": 4, "max_cols": 5, "p_blocked": 0.3}

LADDERS: Mapping[str, Mapping[str, _Rung]] = {
    "chain_sum": {str(n): _Rung({**_between("terms", n), **_ONE_DIGIT}) for n in (2, 3, 4, 5, 6, 8, 12)},
    "basic_arithmetic": {
        str(n): _Rung({**_between("terms", n), **_ONE_DIGIT, "operators": ["+", "-", "*"]})
        for n in (2, 3, 4, 5, 6, 8)
    },
    "products": {
        str(n): _Rung({**_between("terms", n), **_ONE_DIGIT}, lambda item: item["answer"] != "0")
        for n in (2, 3, 4, 5, 6)
    },
    "gsm_symbolic": {"": _Rung({}, lambda item: not item["answer"].startswith("-"))},
    "leg_counting": {
        str(n): _Rung({**_between("animals", n), "min_instances": 2, "max_instances": 9})
        for n in (1, 2, 3, 4, 6, 8)
    },
    "tower_of_hanoi": {
        str(n): _Rung({**_between("disks", n), "min_pegs": 3, "max_pegs": 5}) for n in range(1, 7)
    },
    "shortest_path": {str(n): _Rung(_GRID, _steps(n)) for n in range(1, 8)},
}
"""Rungs by name, easiest first: terms, terms, factors, none, kinds of animals, disks, steps of the path.

Products of 0 are left out, for else "0" would be right for nearly half of those with six factors; so are
grids without a path, and the negative answers of gsm_symbolic, which its verifier does not take itself.
"""


def rungs(name: str) -> tuple[str, ...]:
    """The rungs of a data set, easiest first; one without a name where it has no ladder here."""
    return tuple(LADDERS.get(name, {"": None}))


def gym_problems(name: str, rung: str, seed: int, source: str) -> Iterator[Problem]:
    """Problems of one rung; their prompts may repeat.

    Raises:
        InputError: if the package is not installed, has no such data set, or the name is refused.
    """
    known(name)
    made_with = LADDERS.get(name, {}).get(rung, _Rung({}))
    start = int.from_bytes(hashlib.sha256(f"{name}/{rung}/{seed}".encode()).digest()[:4], "big")
    items = _gym().create_dataset(name, seed=start, size=_SIZE, **made_with.config)
    made = (items[place] for place in range(_SIZE))
    return (_problem(item, name, rung, source) for item in made if item["answer"] and made_with.keep(item))


def known(name: str) -> None:
    """Refuse a name that cannot be had.

    Raises:
        InputError: if the package is not installed, has no such data set, or the name is refused.
    """
    names = sorted(set(_gym().factory.DATASETS) - set(REFUSED))
    if name in REFUSED:
        raise InputError(
            f"{PREFIX}{name} is not offered: {REFUSED[name]}. Another data set, such as "
            f"{PREFIX}chain_sum, would work."
        )
    if name not in names:
        near = difflib.get_close_matches(name, names, n=3) or ["chain_sum", "leg_counting"]
        would = " or ".join(f"{PREFIX}{one}" for one in near)
        raise InputError(f"reasoning-gym has no data set called {name!r}. {would} would work.")


def judge_gym(problem: Problem, response: str) -> Verdict:
    """What a response states, and whether reasoning-gym's own verifier gives it full marks."""
    name, metadata = problem.facts["name"], problem.facts["metadata"]
    reading: Reading = read(problem.facts["reads"], problem, response)
    entry = {"question": problem.prompt, "answer": problem.answer, "metadata": metadata}
    right = any(_scorer(name)(text, entry) >= 1 - 1e-9 for text in reading.candidates)
    return Verdict(right, reading.stated, reading.rule)


def _problem(item: Mapping[str, Any], name: str, rung: str, source: str) -> Problem:
    prompt, answer = item["question"].strip(), item["answer"]
    digest = hashlib.sha256(prompt.encode()).hexdigest()[:12]
    metadata = json.loads(json.dumps(item["metadata"], default=str))
    return Problem(
        id="-".join(part for part in (name, rung, digest) if part),
        prompt=prompt,
        answer=answer,
        source=source,
        level=rung,
        verifier="gym",
        facts={"name": name, "reads": reads(name, answer), "metadata": metadata},
    )


def _gym() -> ModuleType:
    try:
        return importlib.import_module("reasoning_gym")
    except ImportError:
        raise InputError(
            f"Sources that begin with {PREFIX!r} need the package reasoning-gym, which is not installed. "
            "pip install 'unlatch[gym]' would work, or the source 'word-problems'."
        ) from None


@functools.cache
def _scorer(name: str) -> Callable[[str, Mapping[str, Any]], float]:
    scorer: Callable[[str, Mapping[str, Any]], float] = _gym().factory.get_score_answer_fn(name)
    return scorer
