"""A program is asked in a process of its own; one that cannot be asked is named; what was found is kept."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.peers import Absent
from hooks.errors import RunError
from interop import __main__ as command
from interop.cases import PLACEMENTS, Case, cases
from interop.compare import Verdict
from interop.peers import PEERS, Models, Ours, Outcome, ask
from interop.table import page, table

DOSES = [0.3]
ROWS = [(5, 6, 7), (8, 9)]
JOB = """
import json, sys
from pathlib import Path
import numpy as np
folder = Path(sys.argv[1])
asked = json.loads((folder / "request.json").read_text())
added = np.load(folder / "added.npz")
drawn = np.random.default_rng(0).standard_normal((sum(map(len, asked["rows"])), 6))
for case in asked["cases"]:
    steered = drawn + (added[case["name"]] if case["file"] else 0)
    np.save(folder / f"{case['name']}.npy", steered.astype(np.float32))
words = {case["name"]: [[1, 2, 3], [4]] for case in asked["cases"]}
(folder / "answer.json").write_text(json.dumps({"versions": {"stand-in": "1"}, "continued": words}))
"""


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    """A program that is run in place of llama.cpp: its logits are fixed numbers plus what a case adds."""

    def made(job: str = JOB) -> None:
        file = tmp_path / "job.py"
        file.write_text(job)
        peer = replace(PEERS["llama.cpp"], command=(sys.executable, "-P", file), needs=file, reads_gguf=False)
        monkeypatch.setattr("interop.peers.PEERS", {**PEERS, "llama.cpp": peer})

    return made


@pytest.fixture
def ours(tmp_path):
    """Our side of the same: each misplaced case adds something else than the right one."""
    every = cases(DOSES, tuple(PLACEMENTS))
    drawn = np.random.default_rng(0).standard_normal((5, 6))
    adds = {case.name: np.eye(6)[n] for n, case in enumerate(every) if case.dose}
    np.save(tmp_path / "unsteered.npy", drawn.astype(np.float32))
    np.save(tmp_path / f"{Case(0.3).name}.npy", (drawn + adds[Case(0.3).name]).astype(np.float32))
    continued = {case.name: [(1, 2, 9), (4,)] for case in every if case.placement == "right"}
    files = {case.name: tmp_path / f"{case.name}.gguf" for case in every if case.dose}
    return Ours(["a", "b"], ROWS, tmp_path, continued, dict.fromkeys((c.name for c in every), 2), files, adds)


def asked(ours) -> Outcome:
    nowhere = ours.folder / "none"
    return ask("llama.cpp", ours, Models(nowhere, nowhere, 1e4), DOSES, 3)


def test_a_program_that_says_the_same_holds(ours, stand_in):
    stand_in()
    outcome = asked(ours)
    assert outcome.holds
    assert outcome.versions == {"stand-in": "1"}
    assert outcome.differences["unsteered"].positions == 5
    assert outcome.verdicts == {0.3: Verdict(True, dict.fromkeys(list(PLACEMENTS)[1:], True))}
    assert outcome.prefixes["unsteered"] == [(2, 3), (1, 1)]
    assert sorted(p.name for p in ours.folder.iterdir() if p.is_dir()) == []  # its files are gone


def test_a_program_that_ignores_the_vector_does_not_hold(ours, stand_in):
    stand_in(JOB.replace('if case["file"]', "if False"))
    outcome = asked(ours)
    assert not outcome.holds
    assert not outcome.verdicts[0.3].within
    assert "DOES NOT HOLD" in table("llama.cpp", outcome, DOSES)


def test_a_job_that_fails_and_an_environment_that_was_not_made_are_named(ours, stand_in, monkeypatch, capsys):
    stand_in("raise SystemExit('no such model')")
    with pytest.raises(Absent, match="its job failed: no such model"):
        asked(ours)
    assert "no such model" in capsys.readouterr().err
    missing = replace(PEERS["llama.cpp"], needs=PEERS["llama.cpp"].needs.with_name("never-made"))
    monkeypatch.setattr("interop.peers.PEERS", {"llama.cpp": missing})
    with pytest.raises(Absent, match="was not made; `make interop` makes it"):
        asked(ours)
    assert "Not run: why" in table("llama.cpp", "why", DOSES)


def test_what_was_found_is_taken_up_again_and_belongs_to_one_setting(ours, stand_in, tmp_path):
    stand_in()
    setting, outcome = {"model": "tiny", "layer": 2}, asked(ours)
    command._write(tmp_path, setting, {"llama.cpp": outcome, "repeng": "not made"})
    assert command._found(tmp_path, setting) == {"llama.cpp": outcome}
    assert json.loads((tmp_path / "results.json").read_text())["absent"] == {"repeng": "not made"}
    with pytest.raises(RunError, match="made with layer 2, and this would be 3"):
        command._found(tmp_path, {**setting, "layer": 3})
    shown = page(setting, {"llama.cpp": outcome, "repeng": "not made"}, DOSES)
    assert f"- {PEERS['llama.cpp'].title}: holds" in shown
    assert "not run (not made)" in shown
