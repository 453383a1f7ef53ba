"""What becomes of an answer along a response: right to wrong, wrong to right, and lost.

A change of the answer is read in two ways. ``announced``: only what the text declares, in a box or as "the
answer is". ``any number``: the last number up to there, which takes every intermediate result for an
answer, and so counts more changes than the model made; it bounds them from above.
"""

from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any, Literal

import numpy as np

from analyses.tasks import Problem, judge
from analyses.thinking.study import difference, mean
from interp.stats import wilson
from interp.thinking import AnswerTrace, answer_trace

Reading = Literal["announced", "any number"]
READINGS: tuple[Reading, ...] = ("announced", "any number")
COUNTS = ("right_to_wrong", "wrong_to_right")

Traces = Mapping[Reading, AnswerTrace] | None
"""Of one response; None of a blank one."""


def traces(problem: Problem, text: str) -> Traces:
    """The answers along a response, read both ways.

    The right one stands in the gold's spelling, however the problem's verifier spells what it reads.
    """
    if not text.strip():
        return None
    judged = cache(partial(judge, problem))

    def read(prefix: str, *, reading: Reading) -> str | None:
        verdict = judged(prefix)
        if reading == "announced" and verdict.rule == "number":
            return None
        return problem.answer if verdict.correct else verdict.stated

    return {
        reading: answer_trace(text, partial(read, reading=reading), problem.answer) for reading in READINGS
    }


def flips(read: Sequence[Traces], reading: Reading, seed: int) -> dict[str, Any]:
    """Of the responses that say something: changes in each, and shares of them; blank ones are counted."""
    of = [both[reading] for both in read if both is not None]
    n = len(of)
    if not n:
        return {"n": 0, "blank": len(read)}
    ever = sum(t.first_right is not None for t in of)
    lost = sum(t.lost for t in of)
    return {
        "n": n,
        "blank": len(read) - n,
        **{
            name: {
                "total": sum(getattr(t, name) for t in of),
                **mean(np.array([getattr(t, name) for t in of], float), seed),
            }
            for name in COUNTS
        },
        "ever_right": wilson(ever, n).as_dict(),
        "lost": wilson(lost, n).as_dict(),
        "lost_of_ever_right": wilson(lost, ever).as_dict() if ever else None,
        "stated": wilson(sum(t.stated[-1] is not None for t in of), n).as_dict(),
    }


def more_flips(off: Sequence[Traces], on: Sequence[Traces], seed: int) -> dict[str, Any]:
    """On less off, over problems with a response that says something in both."""
    pairs = [two for two in zip(off, on, strict=True) if two[0] is not None and two[1] is not None]
    more: dict[str, Any] = {}
    for reading in READINGS:
        of = [tuple(both[reading] for both in two if both is not None) for two in pairs]
        values = {
            **{name: [[getattr(t, name) for t in two] for two in of] for name in (*COUNTS, "lost")},
            "ever_right": [[t.first_right is not None for t in two] for two in of],
        }
        more[reading] = {
            name: difference(np.array(columns)[:, 1], np.array(columns)[:, 0], seed) if pairs else None
            for name, columns in values.items()
        }
    return more
