"""A run that is killed, at any moment, by a signal that it cannot see, ends as one that was not."""

import errno
import multiprocessing
import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from analyses import verbosity
from analyses.configs import VerbosityConfig
from hooks.errors import RunError

KILLS = 20
VECTORS = ("estimate", "shuffled", "verbosity")


@pytest.fixture(scope="module")
def processes():
    """Processes that have imported everything and run nothing yet."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["analyses.verbosity"])
    first = context.Process(target=os.getpid)
    first.start()
    first.join()
    return context


def content(run: Path) -> dict[str, object]:
    """What a run found; not where and when it ran. (safetensors orders metadata by chance.)"""
    found: dict[str, object] = {"results.json": (run / "results.json").read_bytes()}
    for name in VECTORS:
        file = run / "vectors" / f"{name}.safetensors"
        with safe_open(file, "np") as opened:
            found[name] = opened.metadata(), {k: t.tobytes() for k, t in load_file(file).items()}
    return found


def start(processes, config: VerbosityConfig, out: Path):
    process = processes.Process(target=verbosity.run, args=(config, out))
    process.start()
    return process


def test_a_run_killed_at_random_moments_ends_with_the_same_bytes(
    processes, finished: Path, config: VerbosityConfig, tmp_path: Path
):
    """``kill -9`` at twenty moments, drawn over the time that a run takes; each is then resumed."""
    began = time.monotonic()
    start(processes, config, tmp_path / "whole").join()
    whole = time.monotonic() - began
    assert content(tmp_path / "whole") == content(finished)
    draws, out, killed, resumed = random.Random(0), tmp_path / "0", 0, 0
    while True:
        process = start(processes, config, out)
        process.join(draws.uniform(0, whole) if killed < KILLS else None)
        if process.is_alive():
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            process.join()
        if process.exitcode == -signal.SIGKILL:
            killed += 1
            continue
        assert process.exitcode == 0
        assert content(out) == content(finished)
        assert (out / "report.html").exists()
        assert not list(out.rglob("*.part")), "something half written was left"
        if killed == KILLS:
            break
        resumed += 1
        out = tmp_path / str(resumed)


def test_a_disk_that_fills_up_at_any_write_loses_nothing_that_was_written(
    finished: Path, config: VerbosityConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Each file of the run finds the disk full once, half written; the same command goes on from there."""
    out, fsync, replace = tmp_path / "run", os.fsync, Path.replace
    failed: list[str] = []

    def full(name: str):
        if name not in failed and not name.startswith("."):
            failed.append(name)
            raise OSError(errno.ENOSPC, "No space left on device")

    def full_fsync(descriptor: int):
        full(f"chunk {len((out / 'records.jsonl').read_bytes().splitlines()) // 8}")
        fsync(descriptor)

    def full_replace(self: Path, target: Path):
        if out in self.parents:
            full(target.name)
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", full_fsync)
    monkeypatch.setattr(Path, "replace", full_replace)
    before: dict[str, bytes] = {}
    for _ in range(40):
        n = len(failed)
        with suppress(RunError):
            verbosity.run(config, out)
        if len(failed) == n:
            break
        now = {f.name: f.read_bytes() for f in out.rglob("*") if f.is_file()}
        whole = {name for name in before if name.endswith((".json", ".html")) and not name.startswith(".")}
        assert all(now[name] == before[name] for name in whole), "what was written is written no more"
        passing = {name for name in before if name.endswith(".part") or name.startswith(".holder")}
        assert before.keys() - passing <= now.keys()
        before = now
    written = {"config.json", "environment.json", "results.json", "report.html", "chunk 1"}
    assert written | {f"{name}.safetensors" for name in VECTORS} <= set(failed)
    assert content(out) == content(finished)
