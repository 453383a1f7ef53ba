"""How the next token is chosen, so that a row draws the same in whichever batch it runs."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooks.errors import InputError

LIKELY = 256
"""Tokens that are put in order at first: the nucleus of most rows is among them. To sort 49,152 for 256 rows
took 2.5 s on one core, more than the step of a small model that it followed."""


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
        d_vocab = logits.shape[-1]
        top, order = logits.topk(min(LIKELY, d_vocab), dim=-1)
        apart = (logits.float() - top[:, :1].float()) / self.temperature
        total = apart.exp_().sum(-1, keepdim=True, dtype=torch.float64)
        chosen, short = self._drawn(top, order, total, uniform)
        if top.shape[-1] < d_vocab and short.any():
            top, order = logits[short].sort(-1, descending=True)
            chosen[short] = self._drawn(top, order, total[short], uniform[short])[0]
        return chosen

    def _drawn(
        self,
        top: Float[Tensor, "batch top"],
        order: Int[Tensor, "batch top"],
        total: Float[Tensor, "batch 1"],
        uniform: Float[Tensor, " batch"],
    ) -> tuple[Int[Tensor, " batch"], Bool[Tensor, " batch"]]:
        """The token of each row, from its likeliest in order; and where it may lie past them."""
        p = ((top.double() - top[:, :1].double()) / self.temperature).exp() / total
        before = p.cumsum(-1) - p
        held = before[:, -1] + p[:, -1]
        short = ~(held > uniform) if self.top_p == 1 else ~(held >= self.top_p)
        p = p.masked_fill(before >= self.top_p, 0)  # the token that crosses top_p stays in
        cumulative = p.cumsum(-1)
        nucleus = torch.ones_like(total) if self.top_p == 1 else cumulative[:, -1:]
        at = torch.searchsorted(cumulative, uniform[:, None] * nucleus, right=True)
        return order.gather(-1, at.clamp(max=top.shape[-1] - 1))[:, 0], short
