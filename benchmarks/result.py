"""What a benchmark finds: tables of times, curves, and single numbers; as values, as JSON, as text."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.timing import Timing


@dataclass(frozen=True)
class Entry:
    """One line of a table: a job that ran, or the reason why it did not."""

    job: str
    seconds: float | None = None
    """Median over the repeats."""

    n: int = 0
    """Repeats."""

    peak_bytes: int | None = None
    note: str = ""
    """What else is to be known; for a job that did not run, why."""

    low: float | None = None
    """Fastest repeat."""

    high: float | None = None
    """Slowest repeat."""


@dataclass(frozen=True)
class Aim:
    """A ratio of two jobs' times, and the bound that it should keep to."""

    what: str
    ratio: float
    bound: float
    at_most: bool = True

    @property
    def met(self) -> bool:
        return self.ratio <= self.bound if self.at_most else self.ratio >= self.bound

    def __str__(self) -> str:
        side = "at most" if self.at_most else "at least"
        return f"{self.what}: {self.ratio:.3g}, aim {side} {self.bound:g}: {'met' if self.met else 'MISSED'}"


@dataclass(frozen=True)
class Table:
    """Jobs on the same inputs. Ratios are over the first job that ran."""

    title: str
    setting: str
    """The inputs, and how they were timed."""

    entries: tuple[Entry, ...]
    aims: tuple[Aim, ...] = ()

    def ratio(self, entry: Entry) -> float | None:
        base = next((e.seconds for e in self.entries if e.seconds is not None), None)
        return None if base is None or entry.seconds is None else entry.seconds / base


@dataclass(frozen=True)
class Curve:
    """One cost against one size; a line for each thing that was measured."""

    title: str
    x: str
    y: str
    lines: Mapping[str, Sequence[tuple[float, float]]]
    log: bool = True
    """Both axes are logarithmic."""


@dataclass(frozen=True)
class Result:
    """All that one benchmark found."""

    tables: tuple[Table, ...] = ()
    curves: tuple[Curve, ...] = ()
    facts: Mapping[str, float] | None = None
    """Single numbers by name, for what is computed from them later."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "Result":
        tables = (
            Table(
                t["title"],
                t["setting"],
                tuple(Entry(**e) for e in t["entries"]),
                tuple(Aim(**a) for a in t["aims"]),
            )
            for t in value["tables"]
        )
        return Result(tuple(tables), tuple(Curve(**c) for c in value["curves"]), value["facts"])


def entries_of(timings: Mapping[str, Timing], absent: Mapping[str, str] | None = None) -> tuple[Entry, ...]:
    """Lines for the jobs that ran, then for those that are ``absent``, with the reason."""
    ran = [
        Entry(
            job=name,
            seconds=timing.median,
            n=len(timing.seconds),
            peak_bytes=timing.peak_bytes,
            low=min(timing.seconds),
            high=max(timing.seconds),
        )
        for name, timing in timings.items()
    ]
    return (*ran, *(Entry(name, note=reason) for name, reason in (absent or {}).items()))


def as_text(result: Result) -> str:
    """The tables for a terminal, then the curves as numbers."""
    lines: list[str] = []
    for table in result.tables:
        lines += ["", table.title, f"  {table.setting}"]
        lines += [f"  {_line(table, entry)}" for entry in table.entries]
        lines += [f"  {aim}" for aim in table.aims]
    for curve in result.curves:
        lines += ["", f"{curve.title}: {curve.y} against {curve.x}"]
        width = max(len(name) for name in curve.lines)
        for name, points in curve.lines.items():
            lines.append(f"  {name:{width}}  " + "  ".join(f"{x:g}: {y:.3g}" for x, y in points))
    return "\n".join(lines)


def _line(table: Table, entry: Entry) -> str:
    if entry.seconds is None:
        return f"{entry.job:48} not run: {entry.note}"
    memory = "" if entry.peak_bytes is None else f"{entry.peak_bytes / 2**20:7.0f} MiB"
    ratio = table.ratio(entry)
    spread = "" if entry.low is None or entry.high is None else f"[{entry.low:.3f}, {entry.high:.3f}]"
    return (
        f"{entry.job:48} {entry.seconds:9.3f} s {spread:20} n = {entry.n:<3} x {ratio:6.3f} {memory:>11}"
        f"{'  ' + entry.note if entry.note else ''}"
    )
