"""``make interop``: do the real programs apply our vector as we do?

    python -m interop [NAME ...] [--model FILE.gguf] [--vector FILE] [--layer N] [--out FOLDER] [--require]

Writes ``results.json`` as each program ends, ``interop.md``, the vector, and the control vectors that were
read; the same ``--out`` again runs what is missing. Exits 1 if the criterion does not hold for one that ran.
"""

import argparse
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from analyses.pairs import POLES, builtin_pairs
from analyses.tasks import split_of, word_problems
from benchmarks.peers import Absent
from hooks import LanguageModel, load
from hooks.chat import encode
from hooks.errors import InputError, RunError, UnlatchError
from hooks.files import write_json, write_text
from hooks.gguf import as_folder, bundled_gguf
from hooks.rows import Row
from interop.cases import DOSES, PLACEMENTS, TEXTS, cases, check
from interop.ours import continuations, logits
from interop.peers import PEERS, Models, Ours, Outcome, ask
from interop.table import page, table
from interp.contrast import contrast
from interp.steering_vector import SteeringVector

NEW_TOKENS = 64


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is asked for and is not in the folder yet."""
    parser = argparse.ArgumentParser(prog="python -m interop", description=str(__doc__).partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one or more of {', '.join(PEERS)}")
    parser.add_argument(
        "--model", type=Path, default=None, help="a .gguf file; the bundled model if not given"
    )
    parser.add_argument(
        "--vector", type=Path, default=None, help="a .safetensors steering vector; else one is made"
    )
    parser.add_argument(
        "--layer", type=int, default=None, help="where it is added; its recommended one, or the middle"
    )
    parser.add_argument("--doses", type=float, nargs="+", default=DOSES)
    parser.add_argument("--new-tokens", type=int, default=NEW_TOKENS, help="of the greedy continuations")
    parser.add_argument("--out", type=Path, default=Path(f"runs/interop-{time.strftime('%Y%m%d-%H%M%S')}"))
    parser.add_argument("--require", action="store_true", help="exit 1 also if a program could not take part")
    asked = parser.parse_args(argv)
    if unknown := [name for name in asked.names if name not in PEERS]:
        raise InputError(f"No program {unknown[0]!r}. There are {', '.join(PEERS)}.")
    if any(not 0 < dose < float("inf") for dose in asked.doses):
        raise InputError(f"Doses {asked.doses}: pass finite ones above zero; the sign is turned here.")

    gguf = bundled_gguf() if asked.model is None else asked.model
    lm = load(gguf, device="cpu", dtype=torch.float32)
    asked.out.mkdir(parents=True, exist_ok=True)
    vector, layer = _vector(lm, asked.vector, asked.layer, asked.out)
    setting = _setting(lm, vector, layer, asked)
    outcomes: dict[str, Outcome | str] = dict(_found(asked.out, setting))
    wanted = asked.names or list(PEERS)
    with tempfile.TemporaryDirectory(dir=asked.out) as scratch:
        if missing := [name for name in wanted if name not in outcomes]:
            ours = _ours(lm, vector, layer, asked, Path(scratch))
            rope = lm.model.config.rope_parameters["rope_theta"]
            models = Models(gguf, as_folder(gguf), rope)
        for name in missing:
            try:
                outcomes[name] = ask(name, ours, models, asked.doses, asked.new_tokens)
            except Absent as reason:
                outcomes[name] = str(reason)
            print(table(name, outcomes[name], asked.doses), flush=True)
            _write(asked.out, setting, outcomes)
    ordered = {name: outcomes[name] for name in PEERS if name in outcomes}
    print(f"Report: {write_text(asked.out / 'interop.md', page(setting, ordered, asked.doses))}")
    ran = [outcome for outcome in ordered.values() if isinstance(outcome, Outcome)]
    absent = len(ran) < len(ordered)
    return int(not ran or not all(outcome.holds for outcome in ran) or (asked.require and absent))


def _vector(lm: LanguageModel, file: Path | None, layer: int | None, out: Path) -> tuple[SteeringVector, int]:
    """The vector of a file, or one of verbosity at the middle layer; kept beside the results."""
    kept = out / "vector.safetensors"
    if file is not None:
        vector = SteeringVector.load(file)
    elif kept.exists():
        vector = SteeringVector.load(kept)
    else:
        problems = [problem for problem in word_problems() if split_of(problem) == "fit"]
        pairs = builtin_pairs("verbosity", problems, 24, 0)
        at = lm.n_layers // 2 if layer is None else layer
        vector = contrast(lm, pairs, layers=[at], poles=POLES["verbosity"])
    layer = check(vector, layer, lm)
    vector.save(kept)
    return vector, layer


def _setting(
    lm: LanguageModel, vector: SteeringVector, layer: int, asked: argparse.Namespace
) -> dict[str, Any]:
    """What a result depends on."""
    values = vector.vectors[layer].numpy().tobytes()
    return {
        "model": Path(lm.name).name,
        "fingerprint": lm.fingerprint,
        "vector": f"{vector.poles[0]} - {vector.poles[1]}, {hashlib.sha256(values).hexdigest()[:16]}",
        "layer": layer,
        "resid_norm": vector.resid_norm[layer],
        "doses": list(asked.doses),
        "new_tokens": asked.new_tokens,
        "texts": hashlib.sha256("\0".join(TEXTS).encode()).hexdigest()[:16],
        "versions": {name: version(name) for name in ("torch", "transformers", "numpy", "gguf")},
    }


def _ours(
    lm: LanguageModel, vector: SteeringVector, layer: int, asked: argparse.Namespace, scratch: Path
) -> Ours:
    """Our logits and continuations, and every file that another program reads."""
    rows = [Row(ids, len(ids)) for ids in (encode(lm.tokenizer, text, template=False) for text in TEXTS)]
    files = asked.out / "control-vectors"
    every = cases(asked.doses, tuple(PLACEMENTS))
    continued = {}
    for case in every:
        if case.placement == "right":
            edits = [case.edit(vector, layer)] if case.dose else []
            np.save(scratch / f"{case.name}.npy", logits(lm, rows, edits))
            continued[case.name] = continuations(lm, rows, edits, asked.new_tokens)
    return Ours(
        texts=TEXTS,
        rows=[row.tokens for row in rows],
        folder=scratch,
        continued=continued,
        blocks={case.name: case.moved(vector, layer)[1] for case in every},
        files={case.name: case.export(vector, layer, files).resolve() for case in every if case.dose},
        added={case.name: case.added(vector, layer).numpy() for case in every if case.dose},
    )


def _found(out: Path, setting: Mapping[str, Any]) -> dict[str, Outcome]:
    """What an earlier run left.

    Raises:
        RunError: if that was of another setting.
    """
    if not (file := out / "results.json").exists():
        return {}
    found = json.loads(file.read_text(encoding="utf-8"))
    for name, value in found["setting"].items():
        if value != setting.get(name):
            raise RunError(
                f"{out} was made with {name} {value}, and this would be {setting.get(name)}: the results "
                "do not belong together. Pass another --out."
            )
    return {name: Outcome.from_json(value) for name, value in found["programs"].items()}


def _write(out: Path, setting: Mapping[str, Any], outcomes: Mapping[str, Outcome | str]) -> None:
    ran = {name: each.as_json() for name, each in outcomes.items() if isinstance(each, Outcome)}
    absent = {name: each for name, each in outcomes.items() if isinstance(each, str)}
    write_json(out / "results.json", {"setting": setting, "programs": ran, "absent": absent})


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UnlatchError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
