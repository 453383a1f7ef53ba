"""Two prompts of equal length that differ in one thing, and so in their next token.

The clean prompt asks for ``answer``, the corrupted one for ``corrupted_answer``; position by position
their tokens play the same part, so that an activation of one can be put in the place of the other's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hooks.errors import InputError
from hooks.rows import Row


@dataclass(frozen=True)
class PromptPair:
    """A clean and a corrupted prompt, with the token that each asks for."""

    clean: Row
    corrupted: Row
    answer: int
    corrupted_answer: int
    subject: tuple[int, int]
    """First position, and the one after the last, of what the two prompts differ in."""

    def __post_init__(self) -> None:
        n, m = len(self.clean.tokens), len(self.corrupted.tokens)
        if n != m:
            raise InputError(
                f"A clean prompt of {n} tokens and a corrupted one of {m}: patching needs equal lengths. "
                "Choose a corrupted subject of as many tokens."
            )
        if self.answer == self.corrupted_answer:
            raise InputError(
                f"Both prompts of a pair ask for token {self.answer}; choose another corrupted prompt."
            )
        start, stop = self.subject
        if not 0 <= start < stop <= n:
            raise InputError(f"subject {start}:{stop} is not inside a prompt of {n} tokens.")

    def __len__(self) -> int:
        return len(self.clean.tokens)

    @property
    def swapped(self) -> "PromptPair":
        """The same with clean and corrupted exchanged: noising instead of denoising."""
        return PromptPair(self.corrupted, self.clean, self.corrupted_answer, self.answer, self.subject)


def logit_difference(
    logits: Float[Tensor, "pair d_vocab"], pairs: Sequence[PromptPair]
) -> Float[Tensor, " pair"]:
    """logit(answer) - logit(corrupted answer), in nats, of the next token of each pair."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    right, wrong = (
        torch.tensor(ids, device=logits.device)[:, None]
        for ids in ([p.answer for p in pairs], [p.corrupted_answer for p in pairs])
    )
    return (wide.gather(-1, right) - wide.gather(-1, wrong))[:, 0]


def answer_logprob(
    logits: Float[Tensor, "pair d_vocab"], pairs: Sequence[PromptPair]
) -> Float[Tensor, " pair"]:
    """log p(answer), in nats, of the next token of each pair."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
    right = torch.tensor([p.answer for p in pairs], device=logits.device)
    return wide.gather(-1, right[:, None])[:, 0]
