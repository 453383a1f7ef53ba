"""Token rows and the left-padded batches they run in, sorted by length and sized by memory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import psutil
import torch
from jaxtyping import Int
from torch import Tensor

from hooks.errors import InputError

MAX_ROWS = 64
"""Rows of one pass over whole sequences: past it nothing is gained on a CPU."""

MEMORY_SHARE = 0.5
"""Share of the free memory that one batch may take."""


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
    """Rows padded on the left to one width."""

    row: Int[Tensor, " batch"]
    """The number of each row in the list that it came from."""

    input_ids: Int[Tensor, "batch pos"]
    attention_mask: Int[Tensor, "batch pos"]
    position_ids: Int[Tensor, "batch pos"]
    """Absolute position of each token in its row; 0 on padding, which nothing attends to."""

    prompt_length: Int[Tensor, " batch"]

    @property
    def inputs(self) -> dict[str, Tensor]:
        """Keyword arguments of a forward pass."""
        return {
            "input_ids": self.input_ids,
            "attention_mask": self.attention_mask,
            "position_ids": self.position_ids,
        }


def pad_left(rows: Sequence[Row], numbers: Sequence[int], *, pad_id: int, device: torch.device) -> Batch:
    """One batch of ``rows[n] for n in numbers``."""
    chosen = [rows[n] for n in numbers]
    width = max(len(row.tokens) for row in chosen)
    padding = [width - len(row.tokens) for row in chosen]
    ids = [[pad_id] * p + list(r.tokens) for p, r in zip(padding, chosen, strict=True)]
    position = torch.arange(width)[None] - torch.tensor(padding)[:, None]
    return Batch(
        row=torch.tensor(list(numbers), device=device),
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
) -> Iterator[Batch]:
    """Batches of all ``rows``, sorted by length.

    Args:
        device: Where the batches are made.
        devices: Where else they will take memory.
    """
    lengths = [len(row.tokens) for row in rows]
    free = free_bytes(device, *devices)
    groups = plan(lengths, row_bytes=row_bytes, free_bytes=free, max_rows=max_rows)
    for numbers in groups:
        yield pad_left(rows, numbers, pad_id=pad_id, device=device)
