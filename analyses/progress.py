"""A progress bar on stderr for whatever takes time, with tokens a second and time left."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

console = Console(file=sys.stderr, highlight=False)
"""Everything that is not a result is said here."""


class _Speed(TextColumn):
    """Tokens a second since the task began."""

    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: Task) -> Text:
        tokens = task.fields.get("tokens", 0)
        elapsed = task.finished_time or task.elapsed or 0.0
        return Text(f"{tokens / elapsed:,.0f} tok/s" if tokens and elapsed > 0.5 else "")


class Stage:
    """One task of the bar: report rows as they finish, and tokens as they come."""

    def __init__(self, bar: Progress, description: str, total: int) -> None:
        self._bar, self._tokens = bar, 0
        self._task = bar.add_task(description, total=total, tokens=0)

    def rows(self, n: int = 1) -> None:
        self._bar.advance(self._task, n)

    def say(self, description: str) -> None:
        """Call the stage something else, such as how a training stands."""
        self._bar.update(self._task, description=description)

    def tokens(self, n: int) -> None:
        self._tokens += n
        self._bar.update(self._task, tokens=self._tokens)

    def token_rows(self, n: int) -> None:
        """Tokens, where they are what the stage counts."""
        self.tokens(n)
        self.rows(n)


@contextmanager
def progress() -> Iterator[Callable[[str, int], Stage]]:
    """Yields a function that starts a stage: ``stage = start("layers", total=48)``."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        _Speed(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:

        def start(description: str, total: int) -> Stage:
            return Stage(bar, description, total)

        yield start
