"""Two prompts of equal length that differ in one thing, and so in their next token.

The clean prompt asks for ``answer``, the corrupted one for ``corrupted_answer``; position by position
their tokens play the same part, so that an activation of one can be put in the place of the other's.
How well a run answers is measured by the two next tokens alone:

    logit difference  logit(answer) - logit(corrupted answer)        logprob  log p(answer)
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hooks.edits import widened
from hooks.errors import InputError
from hooks.language_model import LanguageModel
from hooks.positions import Positions, first
from hooks.replay import Replay, Variant
from hooks.rows import MAX_ROWS, Batch, Row, batches_of, pad_left

Where = Literal["subject", "onward", "last", "all"]
"""The tokens that the two prompts differ in, those and all that follow, the last token, or every token."""


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

    def span(self, where: Where) -> tuple[int, int]:
        """First position, and the one after the last."""
        match where:
            case "subject":
                return self.subject
            case "onward":
                return self.subject[0], len(self)
            case "last":
                return len(self) - 1, len(self)
            case "all":
                return 0, len(self)

    def positions(self, where: Where) -> Positions:
        start, stop = self.span(where)
        return first(stop) - first(start) if start else first(stop)

    @property
    def swapped(self) -> "PromptPair":
        """The same with clean and corrupted exchanged: noising instead of denoising."""
        return PromptPair(self.corrupted, self.clean, self.corrupted_answer, self.answer, self.subject)


def logit_difference(
    logits: Float[Tensor, "pair d_vocab"], pairs: Sequence[PromptPair]
) -> Float[Tensor, " pair"]:
    """logit(answer) - logit(corrupted answer), in nats, of the next token of each pair."""
    wide = widened(logits)
    right, wrong = (
        torch.tensor(ids, device=logits.device)[:, None]
        for ids in ([p.answer for p in pairs], [p.corrupted_answer for p in pairs])
    )
    return (wide.gather(-1, right) - wide.gather(-1, wrong))[:, 0]


def answer_logprob(
    logits: Float[Tensor, "pair d_vocab"], pairs: Sequence[PromptPair]
) -> Float[Tensor, " pair"]:
    """log p(answer), in nats, of the next token of each pair."""
    wide = widened(logits).log_softmax(-1)
    right = torch.tensor([p.answer for p in pairs], device=logits.device)
    return wide.gather(-1, right[:, None])[:, 0]


@dataclass(frozen=True)
class Outcomes:
    """How well runs answer, in aligned arrays; in nats."""

    logit_difference: Float[np.ndarray, "*runs"]
    logprob: Float[np.ndarray, "*runs"]

    @staticmethod
    def of(values: Float[np.ndarray, "*runs 2"]) -> "Outcomes":
        """From what :func:`read` gives of each run."""
        return Outcomes(values[..., 0], values[..., 1])

    @property
    def values(self) -> Float[np.ndarray, "*runs 2"]:
        """As :func:`read` gives them."""
        return np.stack([self.logit_difference, self.logprob], -1)


def read(logits: Float[Tensor, "runs d_vocab"], pairs: Sequence[PromptPair]) -> Float[Tensor, "runs 2"]:
    """Both measures of each run, whose pair stands beside it."""
    return torch.stack([logit_difference(logits, pairs), answer_logprob(logits, pairs)], -1)


def replayed(
    recorded: Replay, pairs: Sequence[PromptPair], variants: Sequence[Variant]
) -> Float[np.ndarray, "variants 2"]:
    """Both measures of each variant, of the pair of its row."""

    def measures(logits: Tensor, numbers: Sequence[int]) -> Tensor:
        return read(logits, [pairs[variants[number].place] for number in numbers])

    return recorded.run(variants, measures).values.double().cpu().numpy()


def paired_batches(
    lm: LanguageModel,
    pairs: Sequence[PromptPair],
    *,
    captured: int,
    where: Where = "all",
    max_rows: int = MAX_ROWS,
) -> Iterator[tuple[list[int], Batch, Batch]]:
    """Batches of pairs, sorted by length: their numbers, their clean and their corrupted prompts.

    Args:
        captured: Sites of one of the two that are held at a time.
        where: Pairs of which so many tokens have to run again share a batch, within a factor of two.
    """
    alike: dict[int, list[int]] = defaultdict(list)
    for number, pair in enumerate(pairs):
        alike[(len(pair) - pair.span(where)[0] - 1).bit_length()].append(number)
    clean_rows, corrupted_rows = [pair.clean for pair in pairs], [pair.corrupted for pair in pairs]
    for some in alike.values():
        batches = batches_of(
            clean_rows,
            pad_id=lm.pad_id,
            device=lm.device,
            devices=lm.devices,
            row_bytes=lm.token_bytes(captured=captured, cached=True),
            max_rows=max_rows,
            numbers=some,
        )
        for clean in batches:
            numbers = clean.row.tolist()
            corrupted = pad_left(corrupted_rows, numbers, pad_id=lm.pad_id, device=lm.device)
            yield numbers, clean, corrupted


def first_column(batch: Batch, pairs: Sequence[PromptPair], where: Where) -> int:
    """The first column of the batch that holds a token of ``where``; ``pairs`` are those of its rows."""
    width = batch.input_ids.shape[1]
    return min(width - len(pair) + pair.span(where)[0] for pair in pairs)
