"""The run folder: what a result looks like on disk, written as it goes and resumable.

    config.json        resolved; ``unlatch replay`` reads it
    environment.json   versions, machine, device, the model's fingerprint
    records.jsonl      one line an item and condition, appended a chunk at a time
    vectors/           steering vectors
    means/             what blocks add on average, of a layers run
    results.json       every number with its n and interval; its presence means the run is complete
    report.html        made from the others

What is in ``results.json`` depends on the config alone, so a run that was killed and resumed ends
with the same bytes as one that was not. Chunks are cut before anything runs, and one that is not
whole on disk is run again as a whole: the same rows always share a batch.
"""

import json
import math
import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock
from safetensors.torch import save as to_bytes
from torch import Tensor

from hooks.errors import RunError
from hooks.files import HOLDER, LOCK, hold, let_go, whole, write_json, writing
from hooks.language_model import LanguageModel
from interp.steering_vector import SteeringVector, library_versions

Status = Literal["new", "resumed", "complete"]
Record = dict[str, Any]
Key = tuple[str, str]
"""A condition, and an item that is run under it."""

FREE_BYTES = 64 * 1024 * 1024
"""Free disk space that a run asks for before it starts."""

OWN = {LOCK, HOLDER, f"{HOLDER}.part", "config.json.part"}
"""What a run that was killed as it began may leave."""


class RunFolder:
    """One run on disk, which no other process writes. Open it with :meth:`open` in a ``with`` block.

    The lock dies with the process that holds it, however that ends.
    """

    def __init__(self, path: Path, status: Status, lock: FileLock) -> None:
        self.path = path
        self.status = status
        self._lock = lock
        self._records: dict[tuple[str, str], Record] = {}
        if status != "new":
            self._read()

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *_raised: object) -> None:
        let_go(self.path, self._lock)

    @staticmethod
    def open(path: Path, command: str, config: Any) -> "RunFolder":
        """Create the folder, or continue it if it holds an incomplete run of the same config.

        Raises:
            RunError: if another process is writing it; if it holds a run of another config, or anything
                else; if it cannot be written, or the disk is nearly full.
        """
        wanted = {"command": command, **json.loads(json.dumps(asdict(config)))}
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
            if not (path / "config.json").exists() and {f.name for f in path.iterdir()} - OWN:
                raise RunError(
                    f"{path} is not empty and holds no run. Pass another --out; nothing in it was touched."
                )
            lock = hold(path)
            try:
                return RunFolder(path, _status(path, wanted), lock)
            except BaseException:
                let_go(path, lock)
                raise

    def _read(self) -> None:
        """Take up the records on disk; a line that was cut off is dropped from the file."""
        file = self.path / "records.jsonl"
        if not file.exists():
            return
        data = file.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            with writing(file), file.open("r+b") as stream:
                stream.truncate(whole)
        for line in data[:whole].splitlines():  # of bytes, so that U+2028 in a text ends no line
            record = json.loads(line)
            self._records[record["condition"], record["item"]] = record

    def get(self, condition: str, item: str) -> Record:
        """The record of one item under one condition."""
        return self._records[condition, item]

    def fields(self, condition: str, item: str) -> dict[str, Any]:
        """What is recorded of one item under one condition, without these."""
        return {k: x for k, x in self.get(condition, item).items() if k not in ("condition", "item")}

    def missing(self, work: Sequence[Key], *, chunk: int) -> list[Sequence[Key]]:
        """The chunks of ``work`` that are not whole on disk. How it is cut depends on ``work`` alone."""
        parts = [work[start : start + chunk] for start in range(0, len(work), chunk)]
        return [part for part in parts if not all(key in self._records for key in part)]

    def add(self, part: Sequence[Key], fields: Sequence[Mapping[str, Any]]) -> None:
        """Write the records of one chunk: the fields of each of its (condition, item), in order."""
        lines = [
            {"condition": condition, "item": item, **values}
            for (condition, item), values in zip(part, fields, strict=True)
        ]
        self._append("records.jsonl", lines)
        self._records.update({(r["condition"], r["item"]): r for r in lines})

    def _append(self, name: str, lines: Sequence[Mapping[str, Any]]) -> None:
        file = self.path / name
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        with writing(file), file.open("ab") as stream:
            stream.write(text.encode())
            stream.flush()
            os.fsync(stream.fileno())

    def save(self, name: str, vector: SteeringVector) -> Path:
        """Write one steering vector into ``vectors/``."""
        file = self.path / "vectors" / name
        with writing(file):
            return vector.save(file)

    def save_tensors(self, folder: str, name: str, tensors: Mapping[str, Tensor]) -> Path:
        """Write named tensors into one safetensors file of ``folder``, whole or not at all."""
        file = self.path / folder / name
        with writing(file):
            file.parent.mkdir(exist_ok=True)
            with whole(file) as part:
                part.write_bytes(to_bytes({key: t.cpu().contiguous() for key, t in tensors.items()}))
        return file

    def write(self, name: str, value: Any) -> Path:
        """Write one JSON file, whole or not at all."""
        return write_json(self.path / name, value)


def _status(path: Path, wanted: Mapping[str, Any]) -> Status:
    """Whether the run is new, and then begun, or its config is on disk already."""
    if (free := shutil.disk_usage(path).free) < FREE_BYTES:
        raise RunError(
            f"No disk space for a run in {path}: {free >> 20} MiB are free, "
            f"{FREE_BYTES >> 20} MiB are asked for. Free some, or pass another --out."
        )
    file = path / "config.json"
    if not file.exists():
        write_json(file, wanted)
        return "new"
    if json.loads(file.read_text()) != wanted:
        raise RunError(
            f"{path} already holds a run with other settings. Pass another --out, or delete it "
            "yourself; `unlatch replay` runs its own settings again."
        )
    return "complete" if (path / "results.json").exists() else "resumed"


def known(value: float) -> float | None:
    """The number, or None for NaN, which is no JSON."""
    return None if math.isnan(value) else float(value)


def described(lm: LanguageModel) -> dict[str, Any]:
    """The model that results are of."""
    return {
        "name": lm.name,
        "n_layers": lm.n_layers,
        "d_model": lm.d_model,
        "fingerprint": lm.fingerprint,
    }


def environment(lm: LanguageModel, **facts: Any) -> dict[str, Any]:
    """What is needed to say where a number came from."""
    return {
        "model": lm.name,
        "fingerprint": lm.fingerprint,
        "device": str(lm.device),
        **facts,
        "python": platform.python_version(),
        "platform": platform.system(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "versions": library_versions(),
    }
