"""The work of a run: do what is not on disk yet, and write its records as they come."""

from collections.abc import Callable, Sequence

from analyses.progress import Stage
from analyses.run_folder import Key, RunFolder
from analyses.workers import Task, Workers

Work = tuple[Sequence[Key], Task]
"""A task, and what its records are of, in order."""

Start = Callable[[str, int], Stage]
"""Begins a stage of the progress bar, by its name and its length."""


def record(
    work: Sequence[Work],
    workers: Workers,
    run: RunFolder,
    stage: Stage,
    *,
    counts: Callable[[Sequence[Key]], int] = len,
) -> None:
    """Do all of ``work``, in whatever order it ends; ``counts`` says by how much keys move the stage on."""
    for place, fields in workers.map([task for _, task in work], stage.tokens):
        keys, _ = work[place]
        run.add(keys, fields)
        stage.rows(counts(keys))


def compute(what: str, work: Sequence[Work], workers: Workers, run: RunFolder, start: Start) -> None:
    """Do those tasks whose records are not all on disk; the stage counts tasks."""
    todo = [(keys, task) for keys, task in work if run.missing(keys, chunk=len(keys))]
    stage = start(what, len(work))
    stage.rows(len(work) - len(todo))
    record(todo, workers, run, stage, counts=lambda _: 1)
