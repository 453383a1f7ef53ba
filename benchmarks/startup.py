"""Start-up: wall time of fresh interpreters, from nothing to the help text or the imported package."""

import subprocess
import sys
from functools import partial

from benchmarks.result import Result, Table, entries_of
from benchmarks.timing import Job, alternate
from hooks import LanguageModel

COMMANDS = {
    "import torch, transformers": ("-c", "import torch, transformers"),
    "import hooks": ("-c", "import hooks"),
    "import transformer_lens": ("-c", "import transformer_lens"),
    "unlatch --help": ("-m", "analyses.cli", "--help"),
    "unlatch verbosity --help": ("-m", "analyses.cli", "verbosity", "--help"),
}


def run(lm: LanguageModel, *, quick: bool = False) -> Result:  # noqa: ARG001  every benchmark takes a model
    """Each is run by its own interpreter, so memory is not this process's and is not measured."""
    jobs: dict[str, Job] = {name: partial(_interpreter, *code) for name, code in COMMANDS.items()}
    timings = alternate(jobs, repeats=1 if quick else 5, memory=False)
    return Result(tables=(Table("Start-up", "A fresh interpreter each time.", entries_of(timings)),))


def _interpreter(*code: str) -> None:
    subprocess.run([sys.executable, *code], check=True, capture_output=True)
