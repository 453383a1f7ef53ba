"""Named jobs, repeated in alternating order: their seconds, and the most memory that each takes."""

import ctypes
import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

Job = Callable[[], object]

PEAK_RESET = Path("/proc/self/clear_refs")
"""Written to, Linux forgets the highest resident size that this process has had."""


@dataclass(frozen=True)
class Timing:
    """Of one job."""

    seconds: tuple[float, ...]
    """Of each repeat."""

    peak_bytes: int | None = None
    """The most memory above that before the job; None where it was not measured."""

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def alternate(jobs: Mapping[str, Job], *, repeats: int = 5, memory: bool = True) -> dict[str, Timing]:
    """Run the jobs in turn, one round forwards and the next one backwards, so that none is always last.

    One round warms up, a second measures memory if asked to, and ``repeats`` more are timed. What a job
    returns is dropped at once.
    """
    for job in jobs.values():
        job()
    peaks = {name: measured(job)[1] if memory else None for name, job in jobs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(repeats):
        for name in list(jobs) if number % 2 == 0 else reversed(list(jobs)):
            seconds[name].append(timed(jobs[name]))
    return {name: Timing(tuple(values), peaks[name]) for name, values in seconds.items()}


def timed(job: Job) -> float:
    """Seconds of one run, with the garbage of others collected first, and the accelerator's queue empty."""
    gc.collect()
    _settle()
    began = time.perf_counter()
    job()
    _settle()
    return time.perf_counter() - began


def measured(job: Job) -> tuple[float, int | None]:
    """Seconds of one run, and the most memory that it takes above what was taken before it: of the GPU
    where there is one, else resident memory as Linux counts it; None on other systems."""
    gc.collect()
    if torch.cuda.is_available():
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        seconds = timed(job)
        return seconds, torch.cuda.max_memory_allocated() - before
    if not PEAK_RESET.exists():
        return timed(job), None
    _give_back()
    PEAK_RESET.write_text("5")
    before = _resident("VmRSS")
    seconds = timed(job)
    return seconds, max(0, _resident("VmHWM") - before)


def _settle() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _give_back() -> None:
    """Return freed memory to the system, where the C library can: else the next job uses it unseen."""
    if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
