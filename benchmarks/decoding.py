"""Tokens per second of decoding against what the machine's arithmetic allows, and what bounds each.

python -m benchmarks.decoding [MODEL]

A token takes 2 x (weights that multiply it) operations. Two ceilings: the rate of one large square
product, and the rate at which the model's own weight matrices multiply as many rows as are running,
which at few rows is set by reading the weights from memory.
"""

import statistics
import sys
import time
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from analyses.tasks import word_problems
from hooks import LanguageModel, load
from hooks.chat import prompt_row
from hooks.generate import generate_rows
from hooks.rows import Row

STEPS, REPEATS = 24, 5


def products_of(lm: LanguageModel) -> list[torch.Tensor]:
    """The matrices that multiply every token."""
    wanted = [
        m.weight for m in lm.model.modules() if isinstance(m, nn.Linear) or type(m).__name__ == "Conv1D"
    ]
    return [w for w in wanted if w.ndim == 2]


@torch.no_grad()
def square_rate(n: int = 4096) -> float:
    """Operations a second of one large product in float32; the best of several."""
    a = torch.randn(n, n)
    best = 0.0
    for _ in range(REPEATS):
        began = time.perf_counter()
        a @ a
        best = max(best, 2 * n**3 / (time.perf_counter() - began))
    return best


@torch.no_grad()
def product_time(weights: Sequence[torch.Tensor], rows: int) -> float:
    """Seconds in which the model's matrices multiply ``rows`` rows and nothing else is done."""
    inputs = {w.shape[1]: torch.randn(rows, w.shape[1], dtype=w.dtype, device=w.device) for w in weights}
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        for weight in weights:
            nn.functional.linear(inputs[weight.shape[1]], weight)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def step_time(lm: LanguageModel, rows: Sequence[Row]) -> float:
    """Median seconds of the steps in which all of ``rows`` were running."""
    ends: list[float] = []

    def ended(running: int) -> None:
        if running == len(rows):
            ends.append(time.perf_counter())

    generate_rows(lm, rows, max_new_tokens=STEPS, max_rows=len(rows), on_tokens=ended)
    return statistics.median(after - before for before, after in pairwise(ends))


def main(model: str) -> None:
    lm = load(model)
    weights = products_of(lm)
    operations = 2 * sum(w.numel() for w in weights)
    ceiling = square_rate()
    print(f"{lm.name}: {operations / 1e6:.0f} million operations a token, {ceiling / 1e9:.0f} GF/s at most")
    prompts = [prompt_row(lm.tokenizer, p.prompt) for p in word_problems(96)]
    for rows in (1, 16, 64, 128, 256):
        seconds = step_time(lm, [prompts[i % len(prompts)] for i in range(rows)])
        products = product_time(weights, rows)
        print(
            f"{rows:4} rows {rows / seconds:7.1f} tok/s, {rows * operations / seconds / ceiling:4.0%} of the "
            f"ceiling; the products take {products / seconds:4.0%} of a step, at "
            f"{rows * operations / products / ceiling:4.0%} of the ceiling"
        )


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m-instruct")
