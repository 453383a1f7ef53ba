"""Ray: how much faster two workers of one thread each answer the same problems than one does."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from analyses.answers import Answers, Condition
from analyses.tasks import word_problems
from analyses.workers import RayWorkers
from benchmarks.peers import require, unless_absent
from benchmarks.result import Aim, Entry, Result, Table, entries_of
from benchmarks.timing import Timing, timed
from hooks import LanguageModel


@dataclass(frozen=True)
class Size:
    """How much is run."""

    tasks: int = 4
    rows: int = 32
    new_tokens: int = 32
    repeats: int = 3


QUICK = Size(tasks=2, rows=2, new_tokens=4, repeats=1)


def run(lm: LanguageModel, *, quick: bool = False) -> Result:
    """Each cluster is timed once its workers have loaded the model and done a task, one after the other."""
    size = QUICK if quick else Size()
    problems = word_problems(size.tasks * size.rows)
    tasks = [
        Answers(
            tuple(Condition("plain") for _ in range(size.rows)),
            tuple(problems[start : start + size.rows]),
            max_new_tokens=size.new_tokens,
            think=None,
        )
        for start in range(0, len(problems), size.rows)
    ]
    absent: dict[str, str] = {}
    timings: dict[str, Timing] = {}
    with unless_absent("Ray", absent):
        name = require("ray")
        for n in (1, 2):
            with _cluster(n) as address:
                workers = RayWorkers(address, lm)
                while len(workers.actors) < n:
                    _do(workers, tasks[:1])
                job = partial(_do, workers, tasks)
                seconds = [timed(job) for _ in range(size.repeats)]
                timings[f"{name}, {n} worker{'s' * (n > 1)}"] = Timing(tuple(seconds))
    aims = ()
    if timings:
        one, two = (timing.median for timing in timings.values())
        aims = (Aim("throughput of two workers over one", one / two, 1.7, at_most=False),)
    return Result(
        tables=(
            Table(
                "Ray workers",
                f"{size.tasks} tasks of {size.rows} problems, {size.new_tokens} new tokens, on this machine; "
                "one thread a worker.",
                (*entries_of(timings), *(Entry(name, note=reason) for name, reason in absent.items())),
                aims,
            ),
        )
    )


def _do(workers: RayWorkers, tasks: Sequence[Answers]) -> None:
    for _ in workers.map(tasks, lambda _: None):
        pass


@contextmanager
def _cluster(cpus: int) -> Iterator[str]:
    """A cluster of one node of this machine; its address."""
    import ray

    ray.init(num_cpus=cpus, num_gpus=0, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        yield str(ray.get_runtime_context().gcs_address)
    finally:
        ray.shutdown()
