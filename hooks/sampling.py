"""How the next token is chosen, so that a row draws the same in whichever batch it runs."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooks.errors import InputError


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen: greedily at temperature 0, else from the top-p nucleus.

    Each row draws from its own stream, seeded by (seed, row number), so what it samples does not
    depend on the batch that it happens to run in.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf or not 0 < self.top_p <= 1:
            raise InputError(
                f"temperature={self.temperature}, top_p={self.top_p}: temperature is 0 (greedy) or "
                "more, and top_p is in (0, 1]."
            )

    def uniforms(self, row: int, n: int) -> Float[Tensor, " n"]:
        """The numbers in [0, 1) that row ``row`` samples with."""
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + row) % 2**63)
        return torch.rand(n, generator=generator, dtype=torch.float64)

    def choose(
        self, logits: Float[Tensor, "batch d_vocab"], uniform: Float[Tensor, " batch"]
    ) -> Int[Tensor, " batch"]:
        """The next token of each row."""
        if self.temperature == 0:
            return logits.argmax(-1)
        p, order = (logits.double() / self.temperature).softmax(-1).sort(-1, descending=True)
        before = p.cumsum(-1) - p
        p = p.masked_fill(before >= self.top_p, 0)  # the token that crosses top_p stays in
        cumulative = p.cumsum(-1)
        at = torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True)
        return order.gather(-1, at.clamp(max=logits.shape[-1] - 1))[:, 0]
