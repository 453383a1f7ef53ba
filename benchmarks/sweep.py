"""Sweep: every layer x dose over the same prompts, packed as rows, against one ``generate`` per cell.

The loop over all cells would take most of an hour, so it is timed on cells spread evenly over the grid,
and scaled by their number; ours too where the table says so. That does not favour ours: with fewer plans
fewer rows share a prefill, and the emptying of the last batch is a larger share.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from benchmarks import steered
from benchmarks.inputs import a_vector, equal_prompts, evenly, whole_batch
from benchmarks.result import Aim, Entry, Result, Table
from benchmarks.timing import Job, measured
from hooks import Add, LanguageModel
from hooks.sweep import sweep_rows


@dataclass(frozen=True)
class Prompts:
    """One sweep over so many prompts, and how many cells of it are run."""

    n: int
    aim: float
    """How many times faster than the loop it should be, at least."""

    packed: int
    """Cells that ours runs together."""

    looped: int
    """Cells that the loop runs."""

    peers: int
    """Cells that other libraries' loops run; 0 leaves them out."""

    rounds: int = 1
    """How often ours runs its cells, between which the loop runs its own."""


@dataclass(frozen=True)
class Size:
    """How much is run."""

    doses: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3)
    new_tokens: int = 64
    layers: int | None = None
    """So many of the layers; None takes all."""

    prompts: tuple[Prompts, ...] = (
        Prompts(4, 8.0, packed=120, looped=12, peers=2, rounds=2),
        Prompts(16, 4.0, packed=30, looped=6, peers=0),
    )


QUICK = Size((0.05, 0.3), 4, layers=2, prompts=(Prompts(2, 8.0, packed=4, looped=2, peers=1, rounds=2),))

Cell = tuple[int, float]
"""A layer and a dose."""


@dataclass
class _Cost:
    """What one way of sweeping took."""

    name: str
    cells: int
    """Of each run."""

    seconds: list[float] = field(default_factory=list)
    peaks: list[int] = field(default_factory=list)

    def add(self, job: Job) -> None:
        seconds, peak = measured(job)
        self.seconds.append(seconds)
        self.peaks += [] if peak is None else [peak]

    def entry(self, grid: int) -> Entry:
        scale = grid / self.cells
        return Entry(
            self.name,
            seconds=statistics.fmean(self.seconds) * scale,
            n=len(self.seconds),
            peak_bytes=max(self.peaks, default=None),
            low=min(self.seconds) * scale,
            high=max(self.seconds) * scale,
            note=f"runs of {self.cells} of {grid} cells" + (", scaled" if scale > 1 else ""),
        )


def run(lm: LanguageModel, *, quick: bool = False) -> Result:
    """One table for each number of prompts."""
    size = QUICK if quick else Size()
    vector = a_vector(lm)
    layers = evenly(range(lm.n_layers), size.layers or lm.n_layers)
    edits = {(layer, dose): vector.at(layer, dose=dose) for layer in layers for dose in size.doses}
    return Result(tables=tuple(_table(lm, edits, prompts, size.new_tokens) for prompts in size.prompts))


def _table(lm: LanguageModel, edits: dict[Cell, Add], prompts: Prompts, new_tokens: int) -> Table:
    rows = equal_prompts(lm, prompts.n)
    batch = whole_batch(lm, rows)
    packed, looped = evenly(list(edits), prompts.packed), evenly(list(edits), prompts.looped)
    absent: dict[str, str] = {}
    others = steered.peers(lm, batch, new_tokens, absent) if prompts.peers else {}
    ways = {"transformers generate": steered.plain(lm, batch, new_tokens), **others}
    for way in ways.values():
        way(0, None)
    sweep_rows(lm, rows, {"warm-up": []}, max_new_tokens=2)

    made: dict[Cell, steered.Tokens] = {}
    expected: dict[Cell, steered.Tokens] = {}
    ours = _Cost("unlatch sweep, packed rows", len(packed))
    loops = {name: _Cost(f"loop of {name}", 1) for name in ways}

    def pack() -> None:
        found = sweep_rows(lm, rows, {str(c): [edits[c]] for c in packed}, max_new_tokens=new_tokens)
        made.update({c: [list(completion.tokens) for completion in found[str(c)]] for c in packed})

    def one(name: str, cell: Cell) -> None:
        (amount,) = edits[cell].parameters()
        tokens = ways[name](cell[0], amount.to(lm.dtype))
        if name == "transformers generate":
            expected[cell] = tokens

    for number in range(prompts.rounds):
        ours.add(pack)
        for cell in looped[number :: prompts.rounds]:
            loops["transformers generate"].add(partial(one, "transformers generate", cell))
    for name in others:
        for cell in evenly(looped, prompts.peers):
            loops[name].add(partial(one, name, cell))

    grid = len(edits)
    entries = [loop.entry(grid) for loop in loops.values()]
    mine = ours.entry(grid)
    assert entries[0].seconds is not None
    assert mine.seconds is not None
    both = [(made[c], expected[c]) for c in made.keys() & expected.keys()]
    tokens = [len(row) for cell in made.values() for row in cell]
    return Table(
        f"Sweep, {prompts.n} prompts",
        f"{len({layer for layer, _ in edits})} layers x {len({dose for _, dose in edits})} doses = {grid} "
        f"cells, {prompts.n} prompts of {len(rows[0].tokens)} tokens, at most {new_tokens} new (mean "
        f"{statistics.fmean(tokens):.1f}), greedy. {_same(both)} of the cells that both ran are equal token "
        "for token. Seconds are for the whole grid: the mean run, scaled by the number of cells.",
        (entries[0], mine, *entries[1:], *(Entry(name, note=reason) for name, reason in absent.items())),
        (Aim("the loop over unlatch sweep", entries[0].seconds / mine.seconds, prompts.aim, at_most=False),),
    )


def _same(both: Sequence[tuple[steered.Tokens, steered.Tokens]]) -> str:
    rows = [mine == theirs for cell in both for mine, theirs in zip(*cell, strict=True)]
    return f"{sum(rows)} of {len(rows)} completions"
