"""The decoding loop: rows share prefills, run together, leave when they end, and others take their place.

The tokens of a row but the last are its prefix. Rows with the same prefix, and the same edits of it, share
one prefill, which computes no logits; first tokens that all prefixes share are run once; from its last
given token on, a row is one row of each step. Which rows run together changes what each of them gets by
rounding only.
"""

import gc
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache

from hooks.cache import PackedCache, Prefix, has_window, prefixes_of, started
from hooks.inject import open_injections
from hooks.language_model import LanguageModel
from hooks.rows import Row, batches_of, free_bytes, pad_left
from hooks.sampling import Sampling

MAX_ROWS = 256
"""Rows of a step. On a CPU little is gained past it: with SmolLM2-135M in float32 on two cores 64, 128,
160 and 320 rows make 169, 228, 274 and 249 tokens a second, and matrix products are three quarters of it."""

ENTER_SHARE = 1 / 8
"""Rows enter once they can be this share of the batch: the prefill of a few costs about a step."""

SHARED_SHARE = 1 / 4
"""First tokens that all prompts share are run once if that saves so large a share of the prefill: it is
one pass more."""

Finish = Literal["stop", "length", "nan"]


@dataclass(frozen=True)
class Ended:
    """A row that has left the batch."""

    number: int
    tokens: tuple[int, ...]
    finish: Finish
    logprobs: tuple[float, ...] | None
    margins: tuple[float, ...] | None
    seconds: float
    """Its share of the time: each step is divided among the rows of it, each prefill among those it fed."""


@dataclass
class _Group:
    """Rows that wait for one prefill; ``filled`` is what it gave."""

    prefix: tuple[int, ...]
    numbers: list[int]
    filled: Prefix | None = None


@dataclass
class _Running:
    """The rows of a step, in the order in which the cache holds them."""

    number: Int[Tensor, " rows"]
    start: Int[Tensor, " rows"]
    """The column of the cache that holds each row's first token."""

    next: Int[Tensor, " rows"]
    """The token to be fed."""

    count: Int[Tensor, " rows"]
    """Tokens made."""

    made: Int[Tensor, "rows budget"]
    logprobs: Float[Tensor, "rows budget"]
    margins: Float[Tensor, "rows budget"]
    uniforms: Float[Tensor, "rows budget"]
    entered: Float[Tensor, " rows"]
    """The loop's clock, in seconds a row, when the row entered."""

    def take(self, order: Int[Tensor, " kept"]) -> "_Running":
        return _Running(*(column[order.to(column.device)] for column in vars(self).values()))

    def join(self, other: "_Running") -> "_Running":
        mine, theirs = vars(self).values(), vars(other).values()
        return _Running(*(torch.cat(pair) for pair in zip(mine, theirs, strict=True)))


class Decoder:
    """Continues ``rows`` by up to ``max_new_tokens`` each, in batches of up to ``max_rows``.

    Every open injection is told which row of ``rows`` is where. When memory runs out the batch is
    halved, what was running starts again, and ``halvings`` counts it.
    """

    def __init__(
        self,
        lm: LanguageModel,
        rows: Sequence[Row],
        *,
        max_new_tokens: int,
        sampling: Sampling,
        max_rows: int,
        streams: Sequence[int] | None = None,
        logprobs: bool = False,
        on_tokens: Callable[[int], None] | None = None,
    ) -> None:
        self.halvings = 0
        self._lm, self._rows, self._budget, self._sampling = lm, rows, max_new_tokens, sampling
        self._streams = range(len(rows)) if streams is None else streams
        self._keep_logprobs, self._on_tokens = logprobs, on_tokens
        self._injections = open_injections(lm)
        self._stops = torch.tensor(sorted(lm.stop_ids), dtype=torch.long, device=lm.device)
        self._longest_prefix = max(len(row.tokens) for row in rows) - 1
        self._limit = self._fitting(max_rows)
        self._left = set(range(len(rows)))
        self._clock = 0.0
        self._begin()

    def steps(self) -> Iterator[list[Ended]]:
        """The rows that end with each step: of most steps, none."""
        while self._left:
            try:
                self._enter()
                ended = self._step()
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not out_of_memory(error) or self._limit == 1:
                    raise
                ended = None
            if ended is None:  # outside the handler, whose traceback holds the failed pass's tensors
                self._halve()
                continue
            self._left -= {row.number for row in ended}
            yield ended

    def so_far(self) -> dict[int, tuple[int, ...]]:
        """The tokens that each running row has made, by its number."""
        rows = self._running
        columns = zip(rows.number.tolist(), rows.made.tolist(), rows.count.tolist(), strict=True)
        return {number: tuple(tokens[:n]) for number, tokens, n in columns}

    def _fitting(self, max_rows: int) -> int:
        """How many of up to ``max_rows`` rows the free memory holds."""
        columns = self._longest_prefix + self._budget
        row_bytes = self._lm.token_bytes(cached=True) * columns + self._lm.d_vocab * 16
        return max(1, min(max_rows, len(self._rows), free_bytes(*self._lm.devices) // row_bytes))

    def _begin(self) -> None:
        """Nothing is running and every row that is left waits, the longest prefix first."""
        groups: dict[Hashable, _Group] = {}
        for number in sorted(self._left):
            row = self._rows[number]
            key = row.tokens[:-1], tuple(i.edits_of_prefix(number, row) for i in self._injections)
            groups.setdefault(key, _Group(row.tokens[:-1], [])).numbers.append(number)
        self._waiting = sorted(groups.values(), key=lambda group: -len(group.prefix))
        self._cache = PackedCache(
            self._lm.model.config,
            max_rows=self._limit,
            longest=self._longest_prefix + self._budget,
            longest_prefix=self._longest_prefix,
        )
        self._running = self._fresh([])

    def _halve(self) -> None:
        self.halvings += 1
        self._limit = max(1, min(self._limit, self._cache.rows or self._limit) // 2)
        for injection in self._injections:
            injection.forget(self._left)
        del self._cache, self._running
        gc.collect()
        if self._lm.device.type == "cuda":
            torch.cuda.empty_cache()
        self._begin()

    def _enter(self) -> None:
        """Fill the places that are free, once they are enough to be worth a prefill."""
        free = self._limit - self._cache.rows
        wanted = min(free, sum(len(group.numbers) for group in self._waiting))
        if not wanted or (self._cache.rows and wanted < ENTER_SHARE * self._limit):
            return
        began = time.perf_counter()
        taken: list[tuple[_Group, int]] = []
        for group in self._waiting:
            n = min(len(group.numbers), wanted - sum(n for _, n in taken))
            if n:
                taken.append((group, n))
        self._prefill([group for group, _ in taken if group.filled is None])
        numbers: list[int] = []
        for group, n in taken:
            assert group.filled is not None
            self._cache.enter(group.filled, n)
            numbers += group.numbers[:n]
            del group.numbers[:n]
        self._waiting = [group for group in self._waiting if group.numbers]
        entering = self._fresh(numbers)
        entering.entered -= (time.perf_counter() - began) / len(numbers)
        self._running = self._running.join(entering)
        self._follow()

    def _prefill(self, groups: Sequence[_Group]) -> None:
        """Fill the prefixes of these groups, in the name of the first row of each."""
        firsts = [group.numbers[0] for group in groups]
        rows = [self._rows[number] for number in firsts]
        for injection in self._injections:
            injection.tracker.register(firsts, rows)
        marks = [injection.mark() for injection in self._injections]
        filling = [group for group in groups if group.prefix]
        n = self._shared_start(filling)
        shared = self._start(filling, n)
        batches = batches_of(
            [Row(group.prefix, len(group.prefix)) for group in filling],
            pad_id=self._lm.pad_id,
            device=self._lm.device,
            devices=self._lm.devices,
            row_bytes=self._lm.token_bytes(cached=True),
        )
        own = [Row(group.prefix[n:], len(group.prefix) - n) for group in filling]
        for planned in batches:
            places = planned.row.tolist()
            batch = pad_left(own, places, pad_id=self._lm.pad_id, device=self._lm.device)
            here = [filling[place] for place in places]
            number = torch.tensor([group.numbers[0] for group in here], device=self._lm.device)
            for injection in self._injections:
                injection.tracker.resume(number)
            cache = started(shared, len(here))
            self._lm.model.base_model(
                input_ids=batch.input_ids,
                attention_mask=torch.nn.functional.pad(batch.attention_mask, (n, 0), value=1),
                position_ids=batch.position_ids + n,
                past_key_values=cache,
                use_cache=True,
            )
            filled = prefixes_of(cache, [len(group.prefix) for group in here], shared=n)
            for group, prefix in zip(here, filled, strict=True):
                group.filled = prefix
        for group in groups:
            group.filled = group.filled or ()
            for injection, mark in zip(self._injections, marks, strict=True):
                injection.share(group.numbers, since=mark)

    def _shared_start(self, groups: Sequence[_Group]) -> int:
        """How many first tokens these prefixes share, as few-shot prompts do; 0 where it would not pay.

        Not with a sliding window, which counts columns: the padding lies between the shared tokens and a
        row's own. Nor where an edit touches them, which may differ from row to row.
        """
        if len(groups) < 2 or has_window(self._lm.model.config):
            return 0
        shortest, longest = min(g.prefix for g in groups), max(g.prefix for g in groups)
        alike = takewhile(lambda pair: pair[0] == pair[1], zip(shortest, longest, strict=False))
        n = min(sum(1 for _ in alike), min(len(g.prefix) for g in groups) - 1)
        saved = n * (len(groups) - 1)
        if saved < SHARED_SHARE * sum(len(g.prefix) for g in groups):
            return 0
        for group in groups:
            number = group.numbers[0]
            if any(injection.touches(number, self._rows[number], n) for injection in self._injections):
                return 0
        return n

    def _start(self, groups: Sequence[_Group], n: int) -> Prefix:
        """Run the ``n`` tokens that all these prefixes begin with, once."""
        if not n:
            return ()
        first, *others = (group.numbers[0] for group in groups)
        for injection in self._injections:
            injection.tracker.resume(torch.tensor([first], device=self._lm.device))
        tokens = torch.tensor([groups[0].prefix[:n]], device=self._lm.device)
        cache = DynamicCache()  # every layer whole
        self._lm.model.base_model(input_ids=tokens, past_key_values=cache, use_cache=True)
        for injection in self._injections:
            injection.tracker.inherit(first, others)
        return prefixes_of(cache, [n])[0]

    def _fresh(self, numbers: Sequence[int]) -> _Running:
        """Rows that have a cached prefix and have made no token."""
        device, n = self._lm.device, len(numbers)
        rows = [self._rows[number] for number in numbers]

        def column(values: Iterable[int]) -> Tensor:
            return torch.tensor(list(values), dtype=torch.long, device=device)

        uniforms = torch.zeros(n, self._budget, dtype=torch.float64)
        if self._sampling.temperature:
            for place, number in enumerate(numbers):
                uniforms[place] = self._sampling.uniforms(self._streams[number], self._budget)
        return _Running(
            number=column(numbers),
            start=column(self._cache.end - len(row.tokens) + 1 for row in rows),
            next=column(row.tokens[-1] for row in rows),
            count=column(0 for _ in rows),
            made=torch.full((n, self._budget), self._lm.pad_id, device=device),
            logprobs=torch.zeros(n, self._budget, device=device),
            margins=torch.zeros(n, self._budget, device=device),
            uniforms=uniforms.to(device),
            entered=torch.full((n,), self._clock, dtype=torch.float64),
        )

    def _follow(self) -> None:
        for injection in self._injections:
            injection.tracker.resume(self._running.number)

    def _step(self) -> list[Ended]:
        """One token of every running row; the rows that end with it leave."""
        cache, rows, began = self._cache, self._running, time.perf_counter()
        rows.start = rows.start - cache.settle(int(rows.start.min()))
        columns = torch.arange(cache.first, cache.end + 1, device=rows.start.device)
        logits = self._lm.model(
            input_ids=rows.next[:, None],
            attention_mask=(columns >= rows.start[:, None]).long(),
            position_ids=(cache.end - rows.start)[:, None],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        cache.advance()
        place = torch.arange(cache.rows, device=rows.start.device)
        chosen = self._sampling.choose(logits, rows.uniforms[place, rows.count])
        rows.made[place, rows.count] = chosen
        if self._keep_logprobs:
            nats = logits.float().log_softmax(-1)
            first, second = nats.topk(2, dim=-1).values.exp().unbind(-1)
            rows.logprobs[place, rows.count] = nats.gather(-1, chosen[:, None])[:, 0]
            rows.margins[place, rows.count] = first - second
        rows.next, rows.count = chosen, rows.count + 1
        failed = logits.amax(-1).isnan()
        stopped = torch.isin(chosen, self._stops) & ~failed
        if self._on_tokens is not None:
            self._on_tokens(cache.rows)
        done = failed | stopped | (rows.count == self._budget)
        any_done = bool(done.any())  # waits for the device, so the clock below is true
        self._clock += (time.perf_counter() - began) / cache.rows
        return self._leave(done, failed, stopped) if any_done else []

    def _leave(
        self, done: Bool[Tensor, " rows"], failed: Bool[Tensor, " rows"], stopped: Bool[Tensor, " rows"]
    ) -> list[Ended]:
        """Take the rows that are done out of the batch; the last of the others fill their places."""
        gone = self._running.take(done.nonzero()[:, 0])
        finishes: list[Finish] = [
            "nan" if nan else "stop" if stop else "length"
            for nan, stop in zip(failed[done].tolist(), stopped[done].tolist(), strict=True)
        ]
        columns = zip(
            gone.number.tolist(),
            gone.made.tolist(),
            gone.logprobs.tolist(),
            gone.margins.tolist(),
            gone.count.tolist(),
            gone.entered.tolist(),
            finishes,
            strict=True,
        )
        ended = []
        for number, made, nats, margins, count, entered, finish in columns:
            n = count - (finish == "nan")
            told = [tuple(values[:n]) if self._keep_logprobs else None for values in (nats, margins)]
            ended.append(
                Ended(number, tuple(made[:n]), finish, told[0], told[1], seconds=self._clock - entered)
            )
        order = places_after(done.tolist())
        index = torch.tensor(order, dtype=torch.long, device=done.device)
        self._cache.leave(order)
        self._running = self._running.take(index)
        self._follow()
        return ended


def places_after(done: Sequence[bool]) -> list[int]:
    """Which row comes to each place when those that are done have left: few move, and only forwards."""
    n = len(done) - sum(done)
    late = [place for place in range(n, len(done)) if not done[place]]
    return [late.pop() if done[place] else place for place in range(n)]


def out_of_memory(error: BaseException) -> bool:
    """Whether torch says that a device, or the machine, has no memory left."""
    said = str(error)
    return isinstance(error, torch.OutOfMemoryError) or "t allocate memory" in said or "out of memory" in said
