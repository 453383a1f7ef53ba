"""One model, one answer at a time: a state in, and what to show as the two columns grow.

Whoever asks while the model is busy waits, and sees that it does. Dropping or closing the iterator frees the
model before its next token.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from transformers import PreTrainedTokenizerBase

from analyses.play.model_thread import ModelThread
from analyses.play.sources import Direction, Sources
from analyses.play.state import State
from hooks.chat import prompt_row
from hooks.decode import Finish
from hooks.edits import Edit
from hooks.errors import InputError, UnlatchError
from hooks.generate import Generation
from hooks.language_model import LanguageModel
from hooks.rows import Row
from hooks.stream import Stream
from interp.reread import reread

POLL_S = 0.2
"""How often one who waits is told so."""

UPDATE_S = 0.1
"""The columns are shown anew so often at most,"""

UPDATE_SHARE = 0.04
"""and seldom enough that showing them takes no larger share of the time."""

STREAMS = (0, 0)
"""Both columns draw the same random numbers, so that they differ by the edits alone."""

Phase = Literal["waiting", "answering", "reading", "done", "refused"]


@dataclass(frozen=True)
class Piece:
    """The text of one token, and its projection in the direction's unit."""

    text: str
    projection: float | None = None


@dataclass(frozen=True)
class Column:
    """One of the two answers, so far."""

    text: str = ""
    n_tokens: int = 0
    tokens_per_second: float | None = None
    """Of this column: its tokens after the first, over the time since the first."""

    finish: Finish | None = None
    """None while it is being made."""

    pieces: tuple[Piece, ...] = ()
    """The text by token, once it has been read again."""


@dataclass(frozen=True)
class Scale:
    """How projections become colours: the middle, and how far from it a colour is full."""

    direction: Direction
    middle: float
    """Mean over the plain column's tokens."""

    reach: float
    """98th percentile of the distance from it, over both columns."""


@dataclass(frozen=True)
class View:
    """What to show."""

    phase: Phase
    plain: Column = field(default_factory=Column)
    steered: Column = field(default_factory=Column)
    message: str = ""
    """What went wrong, if anything did."""

    first_token_s: float | None = None
    """Seconds from the start of the answer to its first token."""

    kl_nats: float | None = None
    """Mean KL of the unedited to the edited next-token distribution, over the steered tokens:
    :mod:`interp.reread`."""

    receipt: str = ""
    """What was written into the model, checked to be what was asked."""

    scale: Scale | None = None


class Session:
    """A model, what can be added to it, and the lock that lets one answer be made at a time."""

    def __init__(self, lm: LanguageModel, sources: Sources, thread: ModelThread | None = None) -> None:
        """Computes on ``thread``, which should be the one that loaded the model; None is whoever asks."""
        self.lm, self.sources = lm, sources
        self._thread, self._lock = thread, threading.Lock()

    def play(self, state: State) -> Iterator[View]:
        """Answer plain and steered, from one batch in which only the second row is edited.

        The tokens are those of ``hooks.generate`` with ``streams=[0, 0]``. Our own errors become views.
        """
        view = View("waiting")
        try:
            row, edits = (
                self._prepared(state) if self._thread is None else self._thread.call(self._prepared, state)
            )
        except UnlatchError as error:
            yield View("refused", message=str(error))
            return
        while not self._lock.acquire(timeout=POLL_S):
            yield view
        try:
            for view in self._computed(lambda: self._answered(state, row, edits)):
                yield view
        except UnlatchError as error:
            yield replace(view, phase="refused", message=str(error))
        finally:
            self._lock.release()

    def _computed(self, begin: Callable[[], Iterator[View]]) -> Iterator[View]:
        return begin() if self._thread is None else self._thread.iterate(begin)

    @property
    def busy(self) -> bool:
        return self._lock.locked()

    def _prepared(self, state: State) -> tuple[Row, list[Edit]]:
        """The prompt's row and the edits, once all of it is known to fit."""
        if not state.prompt.strip():
            raise InputError("There is no prompt. Write one, then generate.")
        row = prompt_row(self.lm.tokenizer, state.prompt, system=state.system or None, think=state.think)
        longest = getattr(self.lm.model.config.get_text_config(), "max_position_embeddings", None)
        if longest is not None and row.prompt_length + state.max_new_tokens > longest:
            raise InputError(
                f"The prompt has {row.prompt_length} tokens and {state.max_new_tokens} more are asked for; "
                f"this model takes {longest} together. Shorten the prompt, or ask for fewer."
            )
        edits = self.sources.edits(state)
        for edit in edits:
            edit.check(self.lm)
        return row, edits

    def _answered(self, state: State, row: Row, edits: Sequence[Edit]) -> Iterator[View]:
        steps = Stream(
            self.lm,
            [row, row],
            edits=[[], list(edits)] if edits else (),
            streams=STREAMS,
            max_new_tokens=state.max_new_tokens,
            sampling=state.sampling,
        )
        clock, shown, cost = _Clock(), 0.0, 0.0
        view = View("answering")
        yield view
        with steps:
            for made in steps:
                clock.tick([len(tokens) for tokens in made])
                now = time.perf_counter()
                if shown and now - shown < max(UPDATE_S, cost / UPDATE_SHARE):
                    continue
                plain, steered = (self._column(tokens, clock.rate(n)) for n, tokens in enumerate(made))
                view = View("answering", plain, steered, first_token_s=clock.first)
                yield view
                shown = time.perf_counter()
                cost = shown - now
            generation = steps.generation
        plain, steered = (
            Column(done.text, len(done.tokens), clock.rate(n), done.finish)
            for n, done in enumerate(generation)
        )
        receipt = self._checked(state, generation, edits)
        view = View("reading", plain, steered, first_token_s=clock.first, receipt=receipt)
        yield view
        yield self._reread(state, row, generation, edits, view)

    def _column(self, tokens: Sequence[int], rate: float | None) -> Column:
        text = str(self.lm.tokenizer.decode(list(tokens), skip_special_tokens=True))
        return Column(text.rstrip("\ufffd"), len(tokens), rate)  # the last character may be half there

    @staticmethod
    def _checked(state: State, generation: Generation, edits: Sequence[Edit]) -> str:
        if not edits:
            return "Nothing is edited: no edit is switched on."
        generation.receipt.check(state.selection, rows=[1])
        checked = f"exactly the tokens `{state.selection}` of the steered answer, and nothing else"
        return f"{generation.receipt}. Checked: {checked}."

    def _reread(
        self, state: State, row: Row, generation: Generation, edits: Sequence[Edit], view: View
    ) -> View:
        plain, steered = (completion.tokens for completion in generation)
        if not plain or not steered:
            return replace(view, phase="done", message="The model's numbers are no numbers: nothing to read.")
        direction = self.sources.direction(state)
        found = reread(
            self.lm,
            row,
            plain,
            steered,
            edits,
            site=direction.site if direction else None,
            direction=direction.vector if direction else None,
        )
        view = replace(view, phase="done", kl_nats=found.mean_kl)
        if direction is None or found.plain is None or found.steered is None:
            return view
        both = [found.plain / direction.unit, found.steered / direction.unit]
        middle = float(both[0].mean())
        reach = float(np.quantile(np.abs(np.concatenate(both) - middle), 0.98))
        columns = [
            replace(column, pieces=_coloured(self.lm.tokenizer, tokens, along.tolist()))
            for column, tokens, along in zip((view.plain, view.steered), (plain, steered), both, strict=True)
        ]
        scale = Scale(direction, middle, max(reach, 1e-9))
        return replace(view, plain=columns[0], steered=columns[1], scale=scale)


class _Clock:
    """When each column's first and latest token came."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._came: list[list[tuple[int, float]]] = []
        self.first: float | None = None

    def tick(self, counts: Sequence[int]) -> None:
        now = time.perf_counter() - self._began
        self._came = self._came or [[] for _ in counts]
        if self.first is None and any(counts):
            self.first = now
        for came, count in zip(self._came, counts, strict=True):
            if count and (not came or count != came[-1][0]):
                came[1:] = [(count, now)] if came else []
                if not came:
                    came.append((count, now))

    def rate(self, column: int) -> float | None:
        if len(self._came) <= column or len(self._came[column]) < 2:
            return None
        (n, start), (m, end) = self._came[column]
        return (m - n) / (end - start)


def token_texts(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> list[str]:
    """The text of each token of a completion; joined, they are its text without special tokens.

    A character of several tokens is given to the last of them. Each is read off beside the few before it,
    since many tokenizers drop the space of a token that comes first.
    """
    texts: list[str] = []
    start = told = 0
    for n in range(1, len(tokens) + 1):
        before = _decoded(tokenizer, tokens[start:told])
        now = _decoded(tokenizer, tokens[start:n])
        if n < len(tokens) and (now.endswith("\ufffd") or len(now) < len(before)):
            texts.append("")
            continue
        texts.append(now[len(before) :])
        start, told = told, n
    return texts


def _decoded(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> str:
    return str(tokenizer.decode(list(tokens), skip_special_tokens=True)) if tokens else ""


def _coloured(
    tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int], along: Sequence[float]
) -> tuple[Piece, ...]:
    return tuple(Piece(text, x) for text, x in zip(token_texts(tokenizer, tokens), along, strict=True))
