import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from analyses import run_folder
from analyses.run_folder import RunFolder
from hooks.errors import RunError


@dataclass(frozen=True)
class Settings:
    size: int = 3


WORK = [(condition, str(item)) for condition in ("a", "b") for item in range(3)]


def compute(part):
    return [{"tokens": len(condition) + int(item)} for condition, item in part]


def done(run, work, compute):
    """The records of all work, that which is missing computed in chunks of four."""
    with run:
        for part in run.missing(work, chunk=4):
            run.add(part, compute(part))
        return [run.get(*key) for key in work]


def test_chunks_may_come_in_any_order(tmp_path: Path):
    with RunFolder.open(tmp_path / "r", "demo", Settings()) as run:
        for part in reversed(run.missing(WORK, chunk=4)):
            run.add(part, compute(part))
        assert run.missing(WORK, chunk=4) == []
    with RunFolder.open(tmp_path / "r", "demo", Settings()) as again:
        assert again.missing(WORK, chunk=4) == []
        assert [again.get(*key)["tokens"] for key in WORK] == [f["tokens"] for f in compute(WORK)]


def test_work_is_done_once_and_read_back_from_disk(tmp_path: Path):
    first = done(RunFolder.open(tmp_path / "r", "demo", Settings()), WORK, compute)
    again = RunFolder.open(tmp_path / "r", "demo", Settings())
    assert again.status == "resumed"
    assert done(again, WORK, lambda part: pytest.fail(f"ran {part} again")) == first


def test_a_chunk_cut_off_while_it_was_written_runs_again_whole(tmp_path: Path):
    whole = done(RunFolder.open(tmp_path / "r", "demo", Settings()), WORK, compute)
    file = tmp_path / "r" / "records.jsonl"
    data = file.read_bytes()
    for cut in range(len(data)):
        file.write_bytes(data[:cut])
        ran: list[tuple[str, str]] = []

        def counted(part, ran=ran):
            ran.extend(part)
            return compute(part)

        assert done(RunFolder.open(tmp_path / "r", "demo", Settings()), WORK, counted) == whole
        assert ran in (WORK, WORK[4:], []), "only whole chunks may run"
        assert all(json.loads(line) for line in file.read_text().splitlines())


def test_a_text_with_any_line_separator_is_one_record(tmp_path: Path):
    def said(part):
        return [{"text": "a\u2028b\u0085c\x0bd\r\ne"} for _ in part]

    first = done(RunFolder.open(tmp_path / "r", "demo", Settings()), WORK, said)
    assert done(RunFolder.open(tmp_path / "r", "demo", Settings()), WORK, said) == first


HOLD = """
import sys
from dataclasses import dataclass
from pathlib import Path
from analyses.run_folder import RunFolder

@dataclass(frozen=True)
class Settings:
    size: int = 3

with RunFolder.open(Path(sys.argv[1]), "demo", Settings()):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_processes_cannot_write_one_run_and_the_second_is_told_who_does(tmp_path: Path):
    """The first is then killed, and leaves the folder free."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "r")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        before = {f.name: f.read_bytes() for f in (tmp_path / "r").iterdir()}
        with pytest.raises(RunError, match=f"is being written by process {holder.pid} on"):
            RunFolder.open(tmp_path / "r", "demo", Settings())
        assert {f.name: f.read_bytes() for f in (tmp_path / "r").iterdir()} == before
        holder.kill()
        holder.wait()
    with RunFolder.open(tmp_path / "r", "demo", Settings()) as mine:
        assert mine.status == "resumed"
        assert json.loads((tmp_path / "r" / ".holder.json").read_text())["pid"] == os.getpid()


def test_a_run_that_is_closed_is_free_again(tmp_path: Path):
    with RunFolder.open(tmp_path / "r", "demo", Settings()):
        with pytest.raises(RunError, match="is being written by process"):
            RunFolder.open(tmp_path / "r", "demo", Settings())
    with RunFolder.open(tmp_path / "r", "demo", Settings()) as again:
        assert again.status == "resumed"
    with pytest.raises(RunError, match="other settings"):
        RunFolder.open(tmp_path / "r", "demo", Settings(size=4))
    with RunFolder.open(tmp_path / "r", "demo", Settings()) as again:
        assert again.status == "resumed", "a refused opening holds no lock"


@pytest.mark.parametrize("left", [".lock", ".holder.json", ".holder.json.part", "config.json.part"])
def test_a_run_killed_as_it_began_begins_again(tmp_path: Path, left: str):
    (tmp_path / left).write_text('{"pid":')
    with RunFolder.open(tmp_path, "demo", Settings()) as run:
        assert run.status == "new"


def test_a_folder_with_other_settings_is_refused_and_left_alone(tmp_path: Path):
    RunFolder.open(tmp_path / "r", "demo", Settings())
    before = (tmp_path / "r" / "config.json").read_bytes()
    with pytest.raises(RunError, match=r"already holds a run with other settings. Pass another --out"):
        RunFolder.open(tmp_path / "r", "demo", Settings(size=4))
    assert (tmp_path / "r" / "config.json").read_bytes() == before


def test_a_folder_with_something_else_in_it_is_refused(tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("\\documentclass{article}")
    with pytest.raises(RunError, match="is not empty and holds no run"):
        RunFolder.open(tmp_path, "demo", Settings())
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_complete_run_is_known_by_its_results(tmp_path: Path):
    with RunFolder.open(tmp_path / "r", "demo", Settings()) as run:
        run.write("results.json", {"x": 1})
    assert RunFolder.open(tmp_path / "r", "demo", Settings()).status == "complete"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full stands in for a full disk")
def test_a_full_disk_says_what_is_safe(tmp_path: Path):
    run = RunFolder.open(tmp_path / "r", "demo", Settings())
    (tmp_path / "r" / "records.jsonl").symlink_to("/dev/full")
    with pytest.raises(RunError, match=r"The disk is full: .*records.jsonl.* give the same command again"):
        done(run, WORK, compute)


def test_a_nearly_full_disk_is_refused_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(run_folder, "FREE_BYTES", 1 << 62)
    with pytest.raises(RunError, match="No disk space for a run"):
        RunFolder.open(tmp_path / "r", "demo", Settings())


def test_a_path_below_a_file_is_refused_with_its_reason(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"Cannot write .*: Not a directory"):
        RunFolder.open(tmp_path / "file" / "r", "demo", Settings())
