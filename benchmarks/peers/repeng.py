"""repeng, which asks for numpy below 2: timed in its own environment, beside plain transformers there."""

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers import Absent
from benchmarks.result import Entry
from hooks import LanguageModel
from hooks.rows import Row

PYTHON = Path(__file__).parents[2] / ".venv-repeng" / "bin" / "python"
JOB = Path(__file__).with_name("repeng_job.py")


def ask(
    lm: LanguageModel,
    prompts: Sequence[Row] = (),
    *,
    texts: Sequence[tuple[str, str]] = (),
    new_tokens: int = 1,
    repeats: int = 5,
) -> Mapping[str, Any]:
    """What ``repeng_job.py`` measured, on a copy of this model written for it.

    Args:
        prompts: Rows of one length to continue, if any.
        texts: Pairs to extract from, if any.

    Raises:
        Absent: if its environment was not made, or the job fails there; for a family other than Llama.
    """
    if lm.model.config.model_type != "llama":
        raise Absent(f"timed here for llama, and {lm.name} is {lm.model.config.model_type}")
    if not PYTHON.exists():
        raise Absent("its environment .venv-repeng was not made; `make bench` makes it")
    asked = {
        "prompts": [row.tokens for row in prompts],
        "texts": texts,
        "new_tokens": new_tokens,
        "repeats": repeats,
        "threads": torch.get_num_threads(),
        "eos": lm.tokenizer.eos_token,
        "stops": sorted(lm.stop_ids),
        "rope_theta": lm.model.config.rope_parameters["rope_theta"],  # which its transformers does not read
    }
    with tempfile.TemporaryDirectory() as folder:
        with redirect_stderr(StringIO()):  # it draws a bar
            lm.model.save_pretrained(folder)
        lm.tokenizer.save_pretrained(folder)
        done = subprocess.run(
            [PYTHON, "-P", JOB, folder], input=json.dumps(asked), capture_output=True, text=True, check=False
        )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        print(done.stderr, file=sys.stderr)
        raise Absent(f"its job failed: {last[0][:160]}")
    return json.loads(done.stdout)


def entries(answer: Mapping[str, Any], what: str, names: Mapping[str, str]) -> list[Entry]:
    """Lines of a table, each with its ratio in that environment, which is the one that means something."""
    times, versions = answer["times"][what], answer["versions"]
    where = f"in its own environment, transformers {versions['transformers']}, numpy {versions['numpy']}"
    base = statistics.median(next(iter(times.values())))
    return [
        Entry(
            names[job].format(**versions),
            seconds=statistics.median(values),
            n=len(values),
            low=min(values),
            high=max(values),
            note=f"{where}; x {statistics.median(values) / base:.3f} there",
        )
        for job, values in times.items()
    ]
