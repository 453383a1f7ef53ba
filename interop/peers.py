"""The programs, each run in an environment of its own, and what their logits say beside ours."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.peers import Absent
from interop.cases import PLACEMENTS, Case, Placement, cases
from interop.compare import Difference, Verdict, common_prefix, difference, holds, judge
from interop.weights import as_float32

ROOT = Path(__file__).parents[1]
LLAMA, REPENG = (ROOT / name / "bin" / "python" for name in (".venv-llama", ".venv-repeng"))
STEERING = ROOT / ".venv-steering" / "lib"
JOBS = Path(__file__).with_name("jobs")


@dataclass(frozen=True)
class Peer:
    """Another program, and how it is asked."""

    title: str
    command: tuple[str | Path, ...]
    needs: Path
    """Made by ``make interop``; without it the program takes no part."""

    exact: bool = True
    """It computes in float32 with our weights, so that only rounding is between us."""

    placements: tuple[Placement, ...] = ("right", "a block late")
    reads_gguf: bool = False
    """Else it reads a folder of transformers."""

    continues: bool = False
    """It also decodes greedily."""

    path: Path | None = None
    """Where its packages are, if not in its interpreter's own folder."""


def _script(name: str) -> tuple[str | Path, ...]:
    return ("-P", JOBS / f"{name}_job.py")


PEERS: Mapping[str, Peer] = {
    "llama.cpp": Peer(
        "llama.cpp, the model as shipped (quantised)",
        (LLAMA, *_script("llama_cpp")),
        LLAMA,
        exact=False,
        placements=tuple(PLACEMENTS),
        reads_gguf=True,
        continues=True,
    ),
    "llama.cpp-float32": Peer(
        "llama.cpp, the same weights in float32",
        (LLAMA, *_script("llama_cpp")),
        LLAMA,
        placements=tuple(PLACEMENTS),
        reads_gguf=True,
        continues=True,
    ),
    "llama-results": Peer(
        "llama.cpp's program: llama-results --control-vector FILE, float32",
        (LLAMA, *_script("llama_results")),
        LLAMA.with_name("llama-results"),
        reads_gguf=True,
    ),
    "repeng": Peer("repeng, ControlVector.import_gguf(FILE)", (REPENG, *_script("repeng")), REPENG),
    "steering-vectors": Peer(
        "steering-vectors, SteeringVector.apply",
        (sys.executable, *_script("steering_vectors")),
        STEERING / "steering_vectors",
        path=STEERING,
    ),
    "transformer-lens": Peer(
        "TransformerLens, blocks.N.hook_resid_post",
        (sys.executable, "-m", "interop.jobs.transformer_lens_job"),
        JOBS,
    ),
}


@dataclass(frozen=True)
class Models:
    """One model in the forms that the programs read."""

    shipped: Path
    """The GGUF file."""

    folder: Path
    """As transformers reads it."""

    rope_theta: float

    def gguf(self, *, exact: bool) -> Path:
        """As llama.cpp reads it: the file, or its weights in float32."""
        return as_float32(self.shipped) if exact else self.shipped


@dataclass(frozen=True)
class Ours:
    """What every program is held to."""

    texts: Sequence[str]
    rows: Sequence[tuple[int, ...]]
    folder: Path
    """Holds the logits, ``CASE.npy``, of the unsteered model and of each dose at the right block."""

    continued: Mapping[str, Sequence[tuple[int, ...]]]
    """Greedy continuations by case."""

    blocks: Mapping[str, int]
    """Where each case adds."""

    files: Mapping[str, Path]
    """Control vectors by case."""

    added: Mapping[str, np.ndarray]

    def logits(self, case: Case) -> np.ndarray:
        """Ours, of what a case should be: its dose at the right block."""
        return _logits(self.folder, Case(case.dose))


@dataclass(frozen=True)
class Outcome:
    """What one program's logits say."""

    versions: Mapping[str, str]
    seconds: float
    differences: Mapping[str, Difference]
    """By case, each from ours at the right block."""

    prefixes: Mapping[str, Sequence[tuple[int, int]]]
    """By case and prompt: tokens in common with our greedy continuation, of how many."""

    verdicts: Mapping[float, Verdict] = field(default_factory=dict)
    holds: bool = False

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Outcome":
        return cls(
            versions=value["versions"],
            seconds=value["seconds"],
            differences={k: Difference.from_json(v) for k, v in value["differences"].items()},
            prefixes={k: [(a, b) for a, b in v] for k, v in value["prefixes"].items()},
            verdicts={float(k): Verdict(**v) for k, v in value["verdicts"].items()},
            holds=value["holds"],
        )

    def as_json(self) -> dict[str, Any]:
        return {
            "versions": dict(self.versions),
            "seconds": self.seconds,
            "differences": {k: v.as_json() for k, v in self.differences.items()},
            "prefixes": {k: [list(pair) for pair in v] for k, v in self.prefixes.items()},
            "verdicts": {
                f"{k:g}": {"within": v.within, "apart": dict(v.apart)} for k, v in self.verdicts.items()
            },
            "holds": self.holds,
        }


def ask(name: str, ours: Ours, models: Models, doses: Sequence[float], new_tokens: int) -> Outcome:
    """Run one program's job and compare what it says.

    Raises:
        Absent: if its environment was not made, or its job fails there.
    """
    peer = PEERS[name]
    if not peer.needs.exists():
        raise Absent(f"{peer.needs.relative_to(ROOT)} was not made; `make interop` makes it")
    asked, lengths = cases(doses, peer.placements), [len(row) for row in ours.rows]
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=ours.folder) as scratch:
        folder = Path(scratch)
        answer = _run(peer, folder, ours, models, asked, new_tokens)
        differences = {
            case.name: difference(ours.logits(case), _logits(folder, case), lengths) for case in asked
        }
    theirs = answer.get("continued", {})
    prefixes = {
        case.name: [
            (common_prefix(a, b), len(a))
            for a, b in zip(ours.continued[Case(case.dose).name], theirs[case.name], strict=True)
        ]
        for case in asked
        if case.name in theirs
    }
    verdicts = {
        dose: judge(
            differences[Case().name],
            differences[Case(dose).name],
            {p: differences[Case(dose, p).name] for p in peer.placements if p != "right"},
        )
        for dose in doses
    }
    return Outcome(
        versions=answer["versions"],
        seconds=time.perf_counter() - began,
        differences=differences,
        prefixes=prefixes,
        verdicts=verdicts,
        holds=holds(verdicts, exact=peer.exact),
    )


def _logits(folder: Path, case: Case) -> np.ndarray:
    return np.load(folder / f"{case.name}.npy", mmap_mode="r")


def _run(
    peer: Peer, folder: Path, ours: Ours, models: Models, asked: Sequence[Case], new_tokens: int
) -> Mapping[str, Any]:
    """Have a job fill ``folder``; its answer."""
    request = {
        "texts": ours.texts,
        "rows": ours.rows,
        "cases": [
            {
                "name": case.name,
                "block": ours.blocks[case.name],
                "file": str(ours.files[case.name]) if case.dose else None,
            }
            for case in asked
        ],
        "model": str(models.gguf(exact=peer.exact) if peer.reads_gguf else models.folder),
        "float32": peer.exact,
        "rope_theta": models.rope_theta,
        "new_tokens": new_tokens if peer.continues else 1,
        "threads": torch.get_num_threads(),
    }
    (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
    np.savez(folder / "added.npz", **ours.added)
    environment = dict(os.environ)
    if peer.path is not None:
        environment["PYTHONPATH"] = str(peer.path)
    done = subprocess.run(
        [*peer.command, folder], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"it ended with {done.returncode}"]
        print(done.stderr, file=sys.stderr)
        raise Absent(f"its job failed: {last[0][:300]}")
    answer: Mapping[str, Any] = json.loads((folder / "answer.json").read_text(encoding="utf-8"))
    return answer
