"""The machine's ceilings: how many operations a second it does at most, and how many bytes it reads.

A token takes 2 x (weights that multiply it) operations; attention over so few tokens adds little. Few
rows at a time are limited by reading the weights from memory, many by arithmetic.
"""

import statistics
from collections.abc import Sequence

import torch
from torch import nn

from benchmarks.timing import timed
from hooks import LanguageModel

REPEATS = 5


def products_of(lm: LanguageModel, *, unembedding: bool = True) -> list[torch.Tensor]:
    """The matrices that multiply every token."""
    head = lm.model.get_output_embeddings()
    wanted = [
        m.weight
        for m in lm.model.modules()
        if (isinstance(m, nn.Linear) or type(m).__name__ == "Conv1D") and (unembedding or m is not head)
    ]
    return [w for w in wanted if w.ndim == 2]


def operations(lm: LanguageModel, *, unembedding: bool = True) -> int:
    """Multiplications and additions that one token takes in the weight matrices."""
    return 2 * sum(w.numel() for w in products_of(lm, unembedding=unembedding))


@torch.no_grad()
def square_rate(lm: LanguageModel, n: int = 4096) -> float:
    """Operations a second of one large product, in the model's dtype on its device; the best of several."""
    a = torch.randn(n, n, device=lm.device).to(lm.dtype)
    return max(2 * n**3 / timed(lambda: a @ a) for _ in range(REPEATS))


@torch.no_grad()
def read_rate(lm: LanguageModel, n: int = 2**27) -> float:
    """Bytes a second of one sum over a tensor far larger than the caches; the best of several."""
    a = torch.ones(n, device=lm.device)
    return max(4 * n / timed(a.sum) for _ in range(REPEATS))


@torch.no_grad()
def product_time(weights: Sequence[torch.Tensor], rows: int) -> float:
    """Seconds in which the model's matrices multiply ``rows`` rows and nothing else is done."""
    inputs = {w.shape[1]: torch.randn(rows, w.shape[1], device=w.device).to(w.dtype) for w in weights}

    def multiply() -> None:
        for weight in weights:
            nn.functional.linear(inputs[weight.shape[1]], weight)

    return statistics.median(timed(multiply) for _ in range(REPEATS))
