"""``make bench``: unlatch beside the bare model, a plain loop over transformers, and other libraries.

    python -m benchmarks [NAME ...] [--model MODEL] [--out FOLDER] [--quick]

Writes ``results.json`` as each benchmark ends, and ``report.html``; the same ``--out`` again runs what is
missing. Without names all are run, which takes about half an hour on two cores.
"""

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks import (
    capture,
    cluster,
    curves,
    decoding,
    dictionary,
    extraction,
    generation,
    passk,
    patching,
    play,
    startup,
    sweep,
)
from benchmarks.record import Record
from benchmarks.result import Result, as_text
from hooks import LanguageModel, load
from hooks.errors import InputError, UnlatchError

BENCHMARKS: Mapping[str, Callable[..., Result]] = {
    "capture": capture.run,
    "extraction": extraction.run,
    "generation": generation.run,
    "sweep": sweep.run,
    "patching": patching.run,
    "decoding": decoding.run,
    "passk": passk.run,
    "curves": curves.run,
    "dictionary": dictionary.run,
    "play": play.run,
    "cluster": cluster.run,
    "startup": startup.run,
}
LIBRARIES = (
    "torch",
    "transformers",
    "numpy",
    "transformer-lens",
    "steering-vectors",
    "nnsight",
    "sae-lens",
    "ray",
    "unlatch",
)


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is asked for and is not in the folder yet."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=str(__doc__).partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one or more of {', '.join(BENCHMARKS)}")
    parser.add_argument("--model", default="smollm2-135m-instruct", help="as hooks.load takes it")
    parser.add_argument("--out", type=Path, default=Path(f"runs/bench-{time.strftime('%Y%m%d-%H%M%S')}"))
    parser.add_argument("--quick", action="store_true", help="few points: shows that everything runs")
    asked = parser.parse_args(argv)
    if unknown := [name for name in asked.names if name not in BENCHMARKS]:
        raise InputError(f"No benchmark {unknown[0]!r}. There are {', '.join(BENCHMARKS)}.")
    lm = load(asked.model)
    record = Record(asked.out, _environment(lm, asked.quick))
    for name in asked.names or BENCHMARKS:
        if name in record.results:
            print(f"\n{name}: already in {asked.out}", flush=True)
            continue
        began = time.perf_counter()
        record.add(name, BENCHMARKS[name](lm, quick=asked.quick))
        print(as_text(record.results[name]))
        print(f"  ({name} took {time.perf_counter() - began:.0f} s)", flush=True)
    print(f"\nReport: {record.page(BENCHMARKS)}")


def _environment(lm: LanguageModel, quick: bool) -> dict[str, Any]:
    """What a time depends on."""
    return {
        "model": lm.name,
        "dtype": str(lm.dtype).removeprefix("torch."),
        "device": torch.cuda.get_device_name() if lm.device.type == "cuda" else str(lm.device),
        "quick": quick,
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "platform": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": {name: found for name in LIBRARIES if (found := _version(name))},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


if __name__ == "__main__":
    try:
        main()
    except UnlatchError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
