"""Jobs alternate, repeats are counted without the warm-up, and memory is what a job takes above the rest."""

import time

import pytest
import torch

from benchmarks.timing import PEAK_RESET, Timing, alternate, measured


def test_jobs_run_forwards_and_backwards_in_turn():
    order: list[str] = []
    alternate({name: lambda name=name: order.append(name) for name in "abc"}, repeats=3)
    warm_up, memory, *timed = ("".join(order[start : start + 3]) for start in range(0, len(order), 3))
    assert (warm_up, memory) == ("abc", "abc")
    assert timed == ["abc", "cba", "abc"]


def test_every_job_is_timed_as_often_as_asked():
    calls: list[None] = []
    timings = alternate({"once": lambda: calls.append(None)}, repeats=4, memory=False)
    assert len(timings["once"].seconds) == 4
    assert len(calls) == 5  # and once to warm up
    assert timings["once"].peak_bytes is None


def test_the_median_is_not_moved_by_one_slow_run():
    assert Timing((1.0, 90.0, 2.0)).median == 2.0


def test_a_job_that_waits_takes_that_long():
    timings = alternate(
        {"waits": lambda: time.sleep(0.05), "does not": lambda: None}, repeats=3, memory=False
    )
    assert timings["waits"].median >= 0.05 > timings["does not"].median


@pytest.mark.skipif(torch.cuda.is_available(), reason="memory of the GPU is measured there")
@pytest.mark.skipif(not PEAK_RESET.exists(), reason="the peak can be reset on Linux alone")
def test_memory_is_the_peak_that_a_job_reaches_though_it_gives_it_back():
    wide = 64 * 2**20
    torch.ones(wide // 4)  # freed; the peak of another job is not this one's
    _, small = measured(lambda: None)
    _, large = measured(lambda: torch.ones(wide // 4).sum())
    assert small is not None
    assert large is not None
    assert small < 0.1 * wide
    assert 0.9 * wide < large < 1.5 * wide
