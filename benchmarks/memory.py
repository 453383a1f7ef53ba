"""Peak memory of a capture at 1, 10 and 100 times the tokens, as more rows and as longer rows.

python -m benchmarks.memory [MODEL] [TOKENS]

Each case is a process of its own: its peak of resident memory while it captures, above what it held
before, with a pass over 16 tokens behind it. Rows of random tokens; two sites, the deeper one in block
2; nothing is kept. Keys and values of three layers grow with a row. ``whole`` runs it in one pass.
"""

import argparse
import ctypes
import gc
import json
import subprocess
import sys
import time
from pathlib import Path

import torch

from hooks import Site, load
from hooks.capture import stream
from hooks.rows import PIECE, Row

SITES = [Site(0, "resid_post"), Site(2, "resid_post")]
FACTORS = (1, 10, 100)
ROWS, MAX_ROWS = 10, 8
"""Rows that share the base's tokens, and rows of a batch, which the base fills."""


def measure(model: str, rows: int, length: int, piece: int) -> dict[str, float]:
    """What one capture adds to the peak of this process, in MiB, and its seconds."""
    lm = load(model)
    draw = torch.Generator().manual_seed(0)

    def read(n: int, tokens: int) -> int:
        drawn = (tuple(torch.randint(100, lm.d_vocab, (tokens,), generator=draw).tolist()) for _ in range(n))
        stream_of = stream(
            lm, (Row(ids, 1) for ids in drawn), SITES, max_rows=MAX_ROWS, piece=piece, window=64
        )
        return sum(int(batch.attention_mask.sum()) for batch, _ in stream_of)

    read(1, 16)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what loading the model left would be used again, unseen
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak starts again from what is held now
    before, began = _status("VmRSS"), time.perf_counter()
    assert read(rows, length) == rows * length
    seconds = time.perf_counter() - began
    return {"mib": _status("VmHWM") - before, "before": before, "seconds": seconds}


def _status(name: str) -> float:
    """One line of what the kernel says of this process, in MiB; ``ru_maxrss`` cannot be set back."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="smollm2-135m-instruct")
    parser.add_argument("tokens", nargs="?", type=int, default=200)
    parser.add_argument("--case", type=int, nargs=3, metavar=("ROWS", "LENGTH", "PIECE"))
    args = parser.parse_args()
    if args.case:
        print(json.dumps(measure(args.model, *args.case)))
        return
    base = args.tokens
    cases = [(f"{ROWS * f} rows of {base // ROWS}", ROWS * f, base // ROWS, PIECE) for f in FACTORS]
    cases += [(f"1 row of {base * f}", 1, base * f, PIECE) for f in FACTORS]
    cases += [(f"1 row of {base * 10}, whole", 1, base * 10, base * 10)]
    print(f"{args.model}; peak above the loaded model, pieces of {PIECE}")
    for name, *case in cases:
        command = [sys.executable, "-m", "benchmarks.memory", args.model, "--case", *map(str, case)]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found = json.loads(out.splitlines()[-1])
        print(
            f"  {name:24} {found['mib']:8.0f} MiB  ({found['before']:.0f} before)  {found['seconds']:6.1f} s"
        )


if __name__ == "__main__":
    main()
