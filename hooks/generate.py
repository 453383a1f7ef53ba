"""Decode many prompts together, edited or not, and say for each what came out and why it ended."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal, overload

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from hooks.chat import Prompt, prompt_row
from hooks.edits import Edit
from hooks.errors import InputError
from hooks.inject import Edits, inject, open_trackers
from hooks.language_model import LanguageModel
from hooks.receipts import Receipt
from hooks.rows import MAX_ROWS, Batch, Row, batches_of

COMPACT_SHARE = 1 / 8
"""Finished rows leave once they are this share of the batch: moving the cache costs about a step."""


@dataclass(frozen=True)
class Completion:
    """What one prompt was continued with."""

    text: str
    """The response, without special tokens."""

    tokens: tuple[int, ...]
    """Generated ids, the one that ended the turn included."""

    prompt_tokens: int
    finish: Literal["stop", "length"]
    """``stop``: the model ended its turn. ``length``: it was cut at ``max_new_tokens``."""

    logprobs: tuple[float, ...] | None
    """Log-probability in nats of each generated token under the edited model, before temperature
    and top-p; None unless asked for."""


@dataclass(frozen=True)
class Generation(Sequence[Completion]):
    """Completions in the order of the prompts, with the receipt of what was edited."""

    completions: tuple[Completion, ...]
    receipt: Receipt
    seconds: float

    @overload
    def __getitem__(self, index: int) -> Completion: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Completion]: ...
    def __getitem__(self, index: int | slice) -> Completion | Sequence[Completion]:
        return self.completions[index]

    def __len__(self) -> int:
        return len(self.completions)

    @property
    def texts(self) -> list[str]:
        return [completion.text for completion in self.completions]


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


@torch.no_grad()
def generate(
    lm: LanguageModel,
    prompts: Sequence[Prompt],
    *,
    edits: Edits = (),
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    system: str | None = None,
    think: bool | None = None,
    template: bool = True,
    logprobs: bool = False,
    max_rows: int = MAX_ROWS,
    on_tokens: Callable[[int], None] | None = None,
) -> Generation:
    """Continue every prompt until the model ends its turn.

    Greedy by default, and then equal token for token to ``model.generate(do_sample=False)``.
    Prompts are sorted by length, batches are sized by the free memory, finished rows leave.

    Args:
        edits: For every row, or one list of edits for each prompt.
        template: Pass False to continue the texts as they stand, without the chat template.
        max_rows: Most rows of one batch.
        on_tokens: Called with the number of tokens that each step added, for progress.

    Raises:
        InputError: for no prompts, or a budget below one token.
        VectorError, SiteNotFoundError: for an edit that does not fit, before anything runs.
        EmptySelectionError: if an edit matched no token.

    Example:
        >>> brief = generate(lm, ["How many legs do 3 cats have?"], edits=[vector.at(15, dose=0.3)])
        >>> brief.receipt.check(generated)
    """
    if not prompts or isinstance(prompts, str):
        raise InputError(f"generate takes a list of one or more prompts; got {prompts!r}.")
    rows = [prompt_row(lm.tokenizer, p, system=system, think=think, template=template) for p in prompts]
    return generate_rows(
        lm,
        rows,
        edits=edits,
        max_new_tokens=max_new_tokens,
        sampling=Sampling(temperature, top_p, seed),
        logprobs=logprobs,
        max_rows=max_rows,
        on_tokens=on_tokens,
    )


@torch.no_grad()
def generate_rows(
    lm: LanguageModel,
    rows: Sequence[Row],
    *,
    edits: Edits = (),
    max_new_tokens: int = 256,
    sampling: Sampling | None = None,
    logprobs: bool = False,
    max_rows: int = MAX_ROWS,
    on_tokens: Callable[[int], None] | None = None,
) -> Generation:
    """:func:`generate` for prompts that are token ids already."""
    sampling = sampling or Sampling()
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens={max_new_tokens}: ask for one token or more.")
    per_row = [e for e in edits if not isinstance(e, Edit)]
    if per_row and len(per_row) != len(rows):
        raise InputError(
            f"{len(per_row)} lists of edits for {len(rows)} prompts; pass one list for each prompt, "
            "or a single list of edits for all."
        )
    start = time.perf_counter()
    done: dict[int, Completion] = {}
    batches = batches_of(
        rows,
        pad_id=lm.pad_id,
        device=lm.device,
        row_bytes=lm.token_bytes(cached=True),
        max_rows=max_rows,
        grow=max_new_tokens,
    )
    with ExitStack() as stack:
        injection = stack.enter_context(inject(lm, edits))
        for batch in batches:
            for number, ids, finish, scores in _decode(
                lm, batch, max_new_tokens, sampling, logprobs, on_tokens
            ):
                text = str(lm.tokenizer.decode(ids, skip_special_tokens=True))
                prompt_tokens = rows[number].prompt_length
                done[number] = Completion(text, tuple(ids), prompt_tokens, finish, scores)
    completions = tuple(done[number] for number in range(len(rows)))
    return Generation(completions, injection.receipt(), time.perf_counter() - start)


def _decode(
    lm: LanguageModel,
    batch: Batch,
    max_new_tokens: int,
    sampling: Sampling,
    logprobs: bool,
    on_tokens: Callable[[int], None] | None,
) -> Iterator[tuple[int, list[int], Literal["stop", "length"], tuple[float, ...] | None]]:
    """Decode one batch; yields each row as it finishes."""
    width = batch.input_ids.shape[1]
    row = batch.row
    mask = torch.cat([batch.attention_mask, batch.attention_mask.new_ones(len(row), max_new_tokens)], 1)
    stops = torch.tensor(sorted(lm.stop_ids), dtype=torch.long, device=lm.device)
    uniforms = torch.stack([sampling.uniforms(n, max_new_tokens) for n in row.tolist()]).to(lm.device)
    out = torch.full((len(row), max_new_tokens), lm.pad_id, device=lm.device)
    scores = torch.zeros(len(row), max_new_tokens, device=lm.device)
    finished = torch.zeros(len(row), dtype=torch.bool, device=lm.device)
    ids, position, running = batch.input_ids, batch.position_ids, len(row)
    cache = DynamicCache(config=lm.model.config)
    trackers = open_trackers(lm)
    for tracker in trackers:
        tracker.begin(row, batch.prompt_length)
    for n in range(max_new_tokens):
        logits = lm.model(
            input_ids=ids,
            attention_mask=mask[:, : width + n],
            position_ids=position,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        chosen = sampling.choose(logits, uniforms[:, n])
        out[:, n] = torch.where(finished, lm.pad_id, chosen)
        if logprobs:
            scores[:, n] = logits.float().log_softmax(-1).gather(-1, chosen[:, None])[:, 0]
        if on_tokens is not None:
            on_tokens(running)
        ids, position = chosen[:, None], position[:, -1:] + 1
        finished = finished | torch.isin(chosen, stops)
        mask[:, width + n] = (~finished).long()  # what a finished row is fed is no token of it
        running = int((~finished).sum())
        if not running or n + 1 == max_new_tokens:
            break
        if len(row) - running >= COMPACT_SHARE * len(row):
            yield from _leave(finished.nonzero()[:, 0], row, out, scores, stops, logprobs)
            stay = (~finished).nonzero()[:, 0]
            cache.batch_select_indices(stay)
            for tracker in trackers:
                tracker.keep(stay)
            row, mask, out, scores, uniforms = (t[stay] for t in (row, mask, out, scores, uniforms))
            ids, position, finished = ids[stay], position[stay], finished[stay]
    yield from _leave(torch.arange(len(row), device=lm.device), row, out, scores, stops, logprobs)


def _leave(
    index: Int[Tensor, " left"],
    row: Int[Tensor, " batch"],
    out: Int[Tensor, "batch new"],
    scores: Float[Tensor, "batch new"],
    stops: Int[Tensor, " stops"],
    logprobs: bool,
) -> Iterator[tuple[int, list[int], Literal["stop", "length"], tuple[float, ...] | None]]:
    """The rows at ``index``, each cut after the token that ended it."""
    ends = torch.isin(out[index], stops)
    counts = torch.where(ends.any(1), ends.int().argmax(1) + 1, out.shape[1]).tolist()
    stopped = ends.any(1).tolist()
    numbers, ids, nats = row[index].tolist(), out[index].tolist(), scores[index].tolist()
    for number, count, stop, line, score in zip(numbers, counts, stopped, ids, nats, strict=True):
        finish: Literal["stop", "length"] = "stop" if stop else "length"
        yield number, line[:count], finish, tuple(score[:count]) if logprobs else None
