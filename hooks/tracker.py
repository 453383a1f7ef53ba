"""Follow the rows of a run through its forward passes, so that each knows its absolute positions."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from hooks.errors import InputError
from hooks.language_model import LanguageModel
from hooks.positions import NEVER, Frame
from hooks.rows import Batch, Row

Decode = Callable[[Sequence[int]], str]


class Tracker:
    """Turns the inputs of each forward pass into a :class:`Frame`.

    A pass with an empty cache starts new rows; a pass with a filled one continues them. Rows are
    numbered in the order they enter unless :meth:`begin` says otherwise.
    """

    def __init__(self, texts: Iterable[str], decode: Decode) -> None:
        self._decode = decode
        self._started = 0
        self._announced: tuple[Tensor, Tensor | None] | None = None
        self._resumed = False
        self._row = self._prompt_length = self._given_length = torch.empty(0, dtype=torch.long)
        self._reached = self._row
        self._keys: Tensor | None = None
        self._completed: dict[str, Tensor] = dict.fromkeys(texts, self._row)
        self._tokens: dict[int, list[int]] = {}
        self.rows: dict[int, int] = {}
        """Prompt length of every row seen, by number."""
        self.given: dict[int, int] = {}
        self.seen: dict[int, int] = {}
        """Tokens of each row that went through the model."""
        self.found: dict[str, dict[int, int]] = {text: {} for text in self._completed}

    def begin(self, row: Int[Tensor, " batch"], prompt_length: Int[Tensor, " batch"] | None = None) -> None:
        """Announce the numbers, and the prompt lengths, of the rows of the next pass.

        The pass may continue a cache that was filled before the edits were opened.
        """
        self._announced = row, prompt_length

    def register(self, numbers: Sequence[int], rows: Sequence[Row]) -> None:
        """These rows are about to run from their first token on, whatever their numbers ran before."""
        for number, row in zip(numbers, rows, strict=True):
            self.rows[number], self.given[number], self.seen[number] = row.prompt_length, len(row.tokens), 0
            self._tokens[number] = []
            for found in self.found.values():
                found.pop(number, None)

    def copy(self, number: int, to: Sequence[int]) -> None:
        """The rows ``to`` are as row ``number`` is, and have run all that it has run so far."""
        for other in to:
            self.rows[other], self.given[other] = self.rows[number], self.given[number]
        self.inherit(number, to)

    def inherit(self, number: int, to: Sequence[int]) -> None:
        """The rows ``to``, of lengths of their own, begin with all that row ``number`` has run so far."""
        self.finish()
        for other in to:
            self.seen[other], self._tokens[other] = self.seen[number], list(self._tokens[number])
            for found in self.found.values():
                if number in found:
                    found[other] = found[number]

    def forget(self, numbers: Iterable[int]) -> None:
        """These rows are taken back, as if they had never run."""
        empty = self._row[:0]
        self._row = self._prompt_length = self._given_length = self._reached = empty
        for number in numbers:
            for known in (self.rows, self.given, self.seen, *self.found.values()):
                known.pop(number, None)

    def resume(self, row: Int[Tensor, " batch"]) -> None:
        """The next passes hold these rows, in this order, each from where it stopped."""
        self.finish()
        numbers = row.tolist()

        def column(values: Iterable[int]) -> Tensor:
            return torch.tensor(list(values), dtype=torch.long, device=row.device)

        self._row, self._keys, self._resumed = row, None, True
        self._prompt_length = column(self.rows[n] for n in numbers)
        self._given_length = column(self.given[n] for n in numbers)
        self._reached = column(self.seen[n] for n in numbers)
        self._completed = {
            text: column(found.get(n, NEVER) for n in numbers) for text, found in self.found.items()
        }

    def frame(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Frame:
        """The frame of a forward pass, from the arguments that the model was called with."""
        tokens = args[0] if args else kwargs.get("input_ids")
        shape_of = tokens if tokens is not None else kwargs["inputs_embeds"]
        batch, chunk = shape_of.shape[:2]
        cache = kwargs.get("past_key_values")
        past = 0 if cache is None else int(cache.get_seq_length())
        mask = kwargs.get("attention_mask")
        if mask is None:
            position = torch.arange(past, past + chunk, device=shape_of.device).expand(batch, -1)
        elif not isinstance(mask, Tensor) or mask.shape != (batch, past + chunk):
            shape = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
            raise InputError(
                f"Edits need an attention mask [batch, past + chunk] = ({batch}, {past + chunk}) "
                f"to count positions; the model was called with {shape}."
            )
        elif chunk == 1:
            position = torch.where(mask[:, past:] > 0, mask.sum(1, keepdim=True) - 1, -1)
        else:
            new = mask[:, past:].long()
            position = torch.where(new > 0, mask[:, :past].sum(1, keepdim=True) + new.cumsum(1) - 1, -1)
        resumed, self._resumed = self._resumed, False
        if self._announced is not None or (past == 0 and not resumed):
            self.finish()
            self._start(position)
        elif batch != len(self._row):
            raise InputError(
                f"{len(self._row)} rows are running and a pass came with {batch}. Beam search and "
                "reordered caches cannot be edited: decode with one sequence a row."
            )
        elif self._reordered(cache):
            raise InputError(
                "The cache was reordered since the last pass, as beam search does, so its rows are no "
                "longer those that the edits follow: decode with one sequence a row, num_beams=1."
            )
        self._advance(position, tokens)
        return Frame(self._row, position, self._prompt_length, self._given_length, dict(self._completed))

    def leave(self, cache: Any) -> None:
        """A pass has ended with this cache; no one but it may move rows there until the next."""
        self._keys = _last_keys(cache)

    def _reordered(self, cache: Any) -> bool:
        before, keys, self._keys = self._keys, _last_keys(cache), None
        if before is None or keys is None or keys is before or keys.shape != before.shape:
            return False
        return not torch.equal(keys.to(before.device), before)

    def _start(self, position: Int[Tensor, "batch chunk"]) -> None:
        length = position.max(1).values + 1
        row = torch.arange(self._started, self._started + len(position), device=position.device)
        prompt_length: Tensor | None = None
        if self._announced is not None:
            row, prompt_length = self._announced
            self._announced = None
        self._started += len(position)
        self._row, self._given_length, self._reached = row, length, torch.zeros_like(length)
        self._prompt_length = length if prompt_length is None else prompt_length
        self._completed = {t: torch.full_like(length, NEVER) for t in self._completed}
        numbers = row.tolist()
        self._tokens.update({number: [] for number in numbers})
        self.rows.update(zip(numbers, self._prompt_length.tolist(), strict=True))
        self.given.update(zip(numbers, length.tolist(), strict=True))
        self.seen.update(dict.fromkeys(numbers, 0))

    def _advance(self, position: Int[Tensor, "batch chunk"], tokens: Tensor | None) -> None:
        if self._completed:
            if tokens is None:
                raise InputError("Positions that look for a text need input_ids, not inputs_embeds.")
            self._read(position, tokens)
        self._reached = torch.maximum(self._reached, position.max(1).values + 1)

    def finish(self) -> None:
        """Note how far the running rows came; called when rows leave and when the run ends."""
        self.seen.update(zip(self._row.tolist(), self._reached.tolist(), strict=True))

    def _read(self, position: Int[Tensor, "batch chunk"], tokens: Tensor) -> None:
        """Look for each text in each row; its place is the first token that completes it."""
        numbers = self._row.tolist()
        for index, (ids, at) in enumerate(zip(tokens.tolist(), position.tolist(), strict=True)):
            line = self._tokens[numbers[index]]
            start = len(line)
            line += [token for token, place in zip(ids, at, strict=True) if place >= 0]
            for text, completed in self._completed.items():
                if int(completed[index]) == NEVER:
                    place = self._complete(line, start, text)
                    completed[index] = place
                    if place != NEVER:
                        self.found[text][numbers[index]] = place

    def _complete(self, line: list[int], start: int, text: str) -> int:
        """The first position from ``start`` on at which ``text`` has been completed."""
        window = max(0, start - len(text.encode()) - 4)  # a token holds at least a byte
        if text not in self._decode(line[window:]):
            return NEVER
        low, high = start, len(line) - 1
        while low < high:  # once there, a text stays
            middle = (low + high) // 2
            if text in self._decode(line[window : middle + 1]):
                high = middle
            else:
                low = middle + 1
        return low


def _last_keys(cache: Any) -> Tensor | None:
    """The keys of the last layer: a new tensor whenever something was done to the cache."""
    layers = getattr(cache, "layers", None)
    keys = getattr(layers[-1], "keys", None) if layers else None
    return keys if isinstance(keys, Tensor) else None


def frame_of(lm: LanguageModel, batch: Batch, texts: Iterable[str] = ()) -> Frame:
    """The frame of a batch of a stream. That of a piece is cut from the frame of the whole."""
    tracker = Tracker(texts, lambda ids: str(lm.tokenizer.decode(list(ids))))
    tracker.begin(batch.row, batch.prompt_length)
    frame = tracker.frame((), batch.whole.inputs)
    return replace(frame, position=frame.position[:, batch.columns])
