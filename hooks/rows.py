"""Token rows and the left-padded batches they run in, sorted by length and sized by memory."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import TypeVar

import psutil
import torch
from jaxtyping import Int
from torch import Tensor

from hooks.errors import InputError

MAX_ROWS = 64
"""Rows of one pass over whole sequences: past it nothing is gained on a CPU."""

MEMORY_SHARE = 0.5
"""Share of the free memory that one batch may take."""

PIECE = 1024
"""Columns of one pass: a wider batch runs in pieces of it, over a KV cache."""

PIECE_TOKENS = 4096
"""Tokens of one piece, over all its rows: what keeps an accelerator busy."""

WINDOW = 1024
"""Rows that are sorted by length together, where there are too many to be held."""

T = TypeVar("T")


@dataclass(frozen=True)
class Row:
    """One sequence of token ids; the first ``prompt_length`` of them are the prompt."""

    tokens: tuple[int, ...]
    prompt_length: int

    def __post_init__(self) -> None:
        if not 0 < self.prompt_length <= len(self.tokens):
            raise InputError(
                f"A row of {len(self.tokens)} tokens cannot have a prompt of {self.prompt_length}; "
                "a prompt has at least one token."
            )


@dataclass(frozen=True)
class Batch:
    """Rows padded on the left to one width; or a piece of such a batch: some of its columns."""

    row: Int[Tensor, " batch"]
    """The number of each row in the list that it came from."""

    input_ids: Int[Tensor, "batch pos"]
    attention_mask: Int[Tensor, "batch pos"]
    position_ids: Int[Tensor, "batch pos"]
    """Absolute position of each token in its row; 0 on padding, which nothing attends to."""

    prompt_length: Int[Tensor, " batch"]
    cut_from: "Batch | None" = None
    """The batch that this is a piece of; None where it is no piece."""

    start: int = 0
    """The first of its columns in that batch; 0 begins new rows, and any other goes on with the same."""

    @property
    def whole(self) -> "Batch":
        """All columns of these rows: what decides which of their tokens are selected."""
        return self if self.cut_from is None else self.cut_from

    @property
    def columns(self) -> slice:
        """Which columns of :attr:`whole` these are."""
        return slice(self.start, self.start + self.input_ids.shape[1])

    @property
    def inputs(self) -> dict[str, Tensor]:
        """Keyword arguments of a forward pass; that of a piece follows the pieces before it in a cache."""
        return {
            "input_ids": self.input_ids,
            "attention_mask": self.whole.attention_mask[:, : self.columns.stop],
            "position_ids": self.position_ids,
        }

    def pieces(self, size: int) -> Iterator["Batch"]:
        """This batch in pieces of up to ``size`` columns, as even as can be; itself where one is enough."""
        width = self.input_ids.shape[1]
        if width <= size:
            yield self
            return
        count = -(-width // size)
        for start, stop in pairwise(width * n // count for n in range(count + 1)):
            yield self.cut(start, stop)

    def cut(self, start: int, stop: int) -> "Batch":
        """The piece of these columns."""
        here = slice(start, stop)
        return Batch(
            row=self.row,
            input_ids=self.input_ids[:, here],
            attention_mask=self.attention_mask[:, here],
            position_ids=self.position_ids[:, here],
            prompt_length=self.prompt_length,
            cut_from=self,
            start=start,
        )


def pad_left(
    rows: Sequence[Row], numbers: Sequence[int], *, pad_id: int, device: torch.device, first: int = 0
) -> Batch:
    """One batch of ``rows[n] for n in numbers``, of which row 0 is called ``first``."""
    chosen = [rows[n] for n in numbers]
    width = max(len(row.tokens) for row in chosen)
    padding = [width - len(row.tokens) for row in chosen]
    ids = [[pad_id] * p + list(r.tokens) for p, r in zip(padding, chosen, strict=True)]
    position = torch.arange(width)[None] - torch.tensor(padding)[:, None]
    return Batch(
        row=torch.tensor([first + n for n in numbers], device=device),
        input_ids=torch.tensor(ids, device=device),
        attention_mask=(position >= 0).long().to(device),
        position_ids=position.clamp(min=0).to(device),
        prompt_length=torch.tensor([row.prompt_length for row in chosen], device=device),
    )


def plan(lengths: Sequence[int], *, row_bytes: int, free_bytes: int, max_rows: int) -> list[list[int]]:
    """Group row numbers into batches: longest first, so a batch too large fails at once.

    Args:
        lengths: Tokens of each row.
        row_bytes: Memory of one row per token.
        free_bytes: Memory a batch may take. A single row is never split.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    batches: list[list[int]] = []
    for number in order:
        if batches:
            rows, longest = len(batches[-1]) + 1, lengths[batches[-1][0]]
            if rows <= max_rows and rows * longest * row_bytes <= free_bytes:
                batches[-1].append(number)
                continue
        batches.append([number])
    return batches


def free_bytes(*devices: torch.device) -> int:
    """Memory that one batch may take on each of these devices: a share of what is free now."""
    return min(map(_free_bytes, devices))


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * MEMORY_SHARE)
    return int(psutil.virtual_memory().available * MEMORY_SHARE)


def batches_of(
    rows: Sequence[Row],
    *,
    pad_id: int,
    device: torch.device,
    row_bytes: int,
    max_rows: int = MAX_ROWS,
    devices: Sequence[torch.device] = (),
    numbers: Sequence[int] | None = None,
    limit: int | None = None,
    first: int = 0,
) -> Iterator[Batch]:
    """Batches of all ``rows``, sorted by length.

    Args:
        device: Where the batches are made.
        devices: Where else they will take memory.
        numbers: Take only these rows.
        limit: Memory that a batch may take; None takes what is free now.
        first: The number by which row 0 is called.
    """
    taken = range(len(rows)) if numbers is None else numbers
    lengths = [len(rows[number].tokens) for number in taken]
    free = free_bytes(device, *devices) if limit is None else limit
    groups = plan(lengths, row_bytes=row_bytes, free_bytes=free, max_rows=max_rows)
    for places in groups:
        yield pad_left(rows, [taken[place] for place in places], pad_id=pad_id, device=device, first=first)


def windows(items: Iterable[T], size: int) -> Iterator[tuple[int, list[T]]]:
    """``items`` in lists of ``size``, each with the number of its first one; never more than one is held."""
    source, first = iter(items), 0
    while window := list(islice(source, size)):
        yield first, window
        first += len(window)
