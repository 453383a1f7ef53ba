"""Decoding: tokens per second against what the machine's arithmetic allows, and what bounds each.

A step reads every weight once, however many rows it has: few rows are limited by memory, many by
arithmetic. What a step does beside its matrix products is attention, norms, the cache and Python.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from analyses.tasks import word_problems
from benchmarks.ceiling import operations, product_time, products_of, read_rate, square_rate
from benchmarks.inputs import endless
from benchmarks.result import Curve, Entry, Result, Table
from hooks import LanguageModel
from hooks.chat import prompt_row
from hooks.edits import Edit
from hooks.generate import generate_rows
from hooks.rows import Row


@dataclass(frozen=True)
class Size:
    """How much is run."""

    rows: tuple[int, ...] = (1, 4, 16, 64, 128, 256)
    steps: int = 24


QUICK = Size(rows=(1, 4), steps=4)


def run(lm: LanguageModel, *, quick: bool = False) -> Result:
    """The median step of each number of rows, in which all of them were running."""
    size = QUICK if quick else Size()
    weights, needed, ceiling, reading = products_of(lm), operations(lm), square_rate(lm), read_rate(lm)
    n_bytes = sum(w.numel() * w.itemsize for w in weights)
    prompts = [prompt_row(lm.tokenizer, p.prompt) for p in word_problems(96)]
    entries, facts = [], {"ceiling": ceiling, "operations_per_token": float(needed)}
    rates: dict[str, list[tuple[float, float]]] = {"decoding": [], "its matrix products alone": []}
    for rows in size.rows:
        times = step_times(endless(lm), [prompts[i % len(prompts)] for i in range(rows)], size.steps)
        seconds, products = statistics.median(times), product_time(weights, rows)
        fraction, arithmetic = (rows * needed / s / ceiling for s in (seconds, products))
        memory = n_bytes / products / reading
        facts[f"fraction_of_ceiling_{rows}_rows"] = fraction
        rates["decoding"].append((rows, rows / seconds))
        rates["its matrix products alone"].append((rows, rows / products))
        entries.append(
            Entry(
                f"a step of {rows} row{'s' * (rows > 1)}",
                seconds=seconds,
                n=len(times),
                low=min(times),
                high=max(times),
                note=f"{rows / seconds:.1f} tok/s, {fraction:.0%} of the ceiling; "
                + bound(products / seconds, arithmetic, memory),
            )
        )
    at_most = [(rows, ceiling / needed) for rows in size.rows]
    return Result(
        tables=(
            Table(
                "Decoding",
                f"{needed / 1e6:.0f} million operations a token; the ceiling is one square product, "
                f"{ceiling / 1e9:.0f} GF/s, {ceiling / needed:.0f} tokens a second; the weights are "
                f"{n_bytes / 1e6:.0f} MB, and memory is read at {reading / 1e9:.1f} GB/s at most. Seconds of "
                "one step in which all rows were running.",
                tuple(entries),
            ),
        ),
        curves=(
            Curve(
                "Decoding: tokens a second against rows",
                "rows that run together",
                "tokens a second",
                {**rates, "arithmetic ceiling": at_most},
            ),
        ),
        facts=facts,
    )


def step_times(lm: LanguageModel, rows: Sequence[Row], steps: int, edits: Sequence[Edit] = ()) -> list[float]:
    """Seconds of the steps in which all ``rows`` ran: one fewer than ``steps`` where none ends early."""
    ends: list[float] = []

    def ended(running: int) -> None:
        if running == len(rows):
            ends.append(time.perf_counter())

    generate_rows(lm, rows, edits=edits, max_new_tokens=steps, max_rows=len(rows), on_tokens=ended)
    return [after - before for before, after in pairwise(ends)]


def bound(share: float, arithmetic: float, memory: float) -> str:
    """What limits a step.

    Args:
        share: The part of the step that its matrix products take when they run alone.
        arithmetic: The part of the arithmetic ceiling that they reach.
        memory: The part of the rate of reading that they reach.
    """
    if share < 0.5:
        what = "bound by what is not products"
    elif max(arithmetic, memory) < 0.5:
        what = "bound by products too small for either ceiling"
    else:
        what = "bound by reading the weights" if memory > arithmetic else "bound by arithmetic"
    rates = f"at {arithmetic:.0%} of arithmetic and {memory:.0%} of reading"
    return f"products are {min(share, 1):.0%} of it, {rates}: {what}"
