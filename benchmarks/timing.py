"""Alternating repetitions of named jobs, and their medians as ratios of the first."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping


def alternate(jobs: Mapping[str, Callable[[], object]], *, repeats: int = 5) -> dict[str, float]:
    """Median seconds of each job, run in turn ``repeats`` times after one warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for repeat in range(repeats + 1):
        for name, job in jobs.items():
            gc.collect()
            start = time.perf_counter()
            job()
            if repeat:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def show(title: str, medians: Mapping[str, float], aims: Mapping[str, str] | None = None) -> None:
    """Print one table; every ratio is over the first row."""
    base = next(iter(medians.values()))
    print(f"\n{title}")
    for name, seconds in medians.items():
        aim = (aims or {}).get(name, "")
        print(f"  {name:44} {seconds:8.3f} s   x {seconds / base:5.3f}   {aim}")
