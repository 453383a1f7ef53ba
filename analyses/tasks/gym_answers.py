"""What a response states, as reasoning-gym's verifiers can read it.

    number       the stated number, by the rules of :mod:`analyses.tasks.verify`
    moves        every "Move disk 1 from Peg 1 to Peg 3" after the last "answer:", or of the whole
    directions   the longest run of up, down, left and right there; "infeasible" where there is none
    text         what a tag, a box or "the answer is" marks, else a block of code, else the whole

A verifier is handed nothing that it would fail on; the response is then wrong.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from analyses.tasks.problem import Problem
from analyses.tasks.verify import Rule, boxed, verify


class Reading(NamedTuple):
    candidates: tuple[str, ...]
    """What to hand to the verifier; the answer is right if it takes one of them."""
    stated: str | None
    rule: Rule


NOTHING = Reading((), None, "none")

_NUMBER = re.compile(r"0|-?[1-9][0-9]*|-?(?:0|[1-9][0-9]*)\.[0-9]*[1-9]")
_KINDS = {"tower_of_hanoi": "moves", "shortest_path": "directions"}


def reads(name: str, gold: str) -> str:
    """How a response to a problem with this gold answer is read: a key of the table above."""
    return _KINDS.get(name, "number" if _NUMBER.fullmatch(gold) else "text")


def read(kind: str, problem: Problem, response: str) -> Reading:
    """The answer that a response states."""
    return _READERS[kind](problem, response)


def _number(problem: Problem, response: str) -> Reading:
    verdict = verify(problem.answer, response)
    if verdict.stated is None:
        return NOTHING
    return Reading(_readable(problem, verdict.stated), verdict.stated, verdict.rule)


# Plans.

_MARK = re.compile(r"<answer>|\banswer\b[* ]*(?:is[* ]*)?:|####", re.IGNORECASE)
_HANOI = re.compile(
    r"\bmove +(?:the +)?(?:dis[ck] +)?#?(?P<disk>[0-9]{1,3}) +from +(?:peg +)?(?P<start>[0-9]{1,3}) +"
    r"(?:on)?to +(?:peg +)?(?P<end>[0-9]{1,3})\b",
    re.IGNORECASE,
)
_DIRECTIONS = frozenset({"up", "down", "left", "right"})
_FILLERS = frozenset({"then", "and", "go", "move", "step"})


def _marked(response: str) -> str:
    """What follows the last mark of an answer, else all; without emphasis."""
    text = re.sub(r"[*`_]", "", response)
    return text[max((mark.end() for mark in _MARK.finditer(text)), default=0) :]


def _moves(problem: Problem, response: str) -> Reading:
    moves = list(_HANOI.finditer(_marked(response))) or list(_HANOI.finditer(response))
    if not moves:
        return NOTHING
    lines = [f"Move disk {int(m['disk'])} from Peg {int(m['start'])} to Peg {int(m['end'])}" for m in moves]
    pegs = range(1, problem.facts["metadata"]["num_pegs"] + 1)
    # Their verifier prints an error for a peg that is not there.
    possible = all(int(move[side]) in pegs for move in moves for side in ("start", "end"))
    return Reading(("\n".join(lines),) if possible else (), "; ".join(lines), "plan")


def _directions(problem: Problem, response: str) -> Reading:
    del problem
    for text in (_marked(response), response):
        words = re.findall(r"[a-z]+", text.casefold())
        run = max(reversed(list(_runs(words))), key=len, default=[])
        if run:
            return Reading((" ".join(run),), " ".join(run), "plan")
        if "infeasible" in words:
            return Reading(("infeasible",), "infeasible", "plan")
    return NOTHING


def _runs(words: list[str]) -> list[list[str]]:
    runs: list[list[str]] = [[]]
    for word in words:
        if word in _DIRECTIONS:
            runs[-1].append(word)
        elif word not in _FILLERS:
            runs.append([])
    return runs


# Texts.

_AROUND = " \n\t\"'*`"
_TAGGED = re.compile(r"<answer>(.*?)(?:</answer>|\Z)", re.IGNORECASE | re.DOTALL)
_STATED = re.compile(r"\banswer\b(?: +is\b *:?| *:) *(?P<line>[^\n]*)(?P<rest>.*)", re.IGNORECASE | re.DOTALL)
_FENCED = re.compile(r"```[a-z]*\n(.*?)```", re.DOTALL)


def _text(problem: Problem, response: str) -> Reading:
    found, rule = _where(response, lines=problem.answer.count("\n") + 1)
    raw = found.strip()
    bare = raw.strip(_AROUND).removesuffix(".").strip(_AROUND)
    return Reading(_readable(problem, raw, bare), " ".join(bare.split()), rule) if bare else NOTHING


def _where(response: str, lines: int) -> tuple[str, Rule]:
    tagged = _TAGGED.findall(response)
    if tagged:
        return tagged[-1], "stated"
    box = boxed(response)
    if box is not None:
        return box, "boxed"
    marks = [mark.end() for mark in re.finditer(r"\banswer\b", response, re.IGNORECASE)]
    for end in reversed(marks):
        stated = _STATED.match(response, end - len("answer"))
        if stated:
            line, rest = stated["line"], stated["rest"]
            return (line if lines == 1 and line.strip() else line + rest), "stated"
    fenced = _FENCED.findall(response)
    return (fenced[-1] if fenced else response), "stated"


# What a verifier cannot read.


def _readable(problem: Problem, *texts: str) -> tuple[str, ...]:
    can_read = _CAN_READ.get(problem.facts["name"], lambda _: True)
    return tuple(text for text in dict.fromkeys(texts) if can_read(text))


def _is_grid(text: str) -> bool:
    try:
        grid = json.loads(text)
    except (ValueError, RecursionError):  # no JSON, or a number of thousands of digits
        return False
    return isinstance(grid, list) and all(isinstance(row, list) for row in grid)


_CAN_READ: Mapping[str, Callable[[str], bool]] = {
    "complex_arithmetic": lambda text: "nan" not in text.casefold(),
    "game_of_life": _is_grid,
    "gsm_symbolic": lambda text: bool(re.fullmatch(r"[0-9]+(?:\.[0-9]+)?", text)),
    "prime_factorization": lambda text: bool(re.fullmatch(r"[0-9]{1,19}(?: *× *[0-9]{1,19})*", text)),
}
"""Where a verifier fails on other texts or takes them: complex_arithmetic gives NaN full marks,
game_of_life raises on an object and prime_factorization on what is no number, and gsm_symbolic reads "-5",
"5/2" and "5 or 6" as 5."""

_READERS: Mapping[str, Callable[[Problem, str], Reading]] = {
    "number": _number,
    "moves": _moves,
    "directions": _directions,
    "text": _text,
}
