"""What a trace of thinking does: words that hedge, restart, check and turn back, and answers that change.

Markers are counted, whole words in any case, and reported per 100 tokens: they are words, not acts. A model
may say "wait" and go on as before, so beside them stands what became of the answer, read off every prefix
of the trace that ends a sentence:

    wrong to right, right to wrong    changes between one stated answer and the next
    first right                       the sentence at whose end the stated answer is right for the first time
    lost                              right at some time, and wrong at the end

Source: none; the words are ours, the commonest of those that published traces are marked by.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from hooks.errors import InputError
from saes.taxonomy import sentence_spans

MarkerKind = Literal["hedge", "restart", "verification", "backtracking"]

MARKERS: Mapping[MarkerKind, tuple[str, ...]] = {
    "hedge": (
        *("maybe", "perhaps", "possibly", "probably", "presumably", "might be", "could be", "it seems"),
        *("i think", "i guess", "i believe", "not sure", "unsure", "unclear"),
    ),
    "restart": (
        *("start over", "start again", "start from scratch", "from the beginning", "try again"),
        *("alternatively", "another approach", "another way", "different approach", "different way"),
    ),
    "verification": (
        *("let me check", "let's check", "to check", "double check", "double-check", "checking"),
        *("verify", "verifying", "make sure", "confirm", "plug it back", "sanity check"),
    ),
    "backtracking": (
        *("wait", "hold on", "hmm", "oops", "on second thought", "that's wrong", "that is wrong"),
        *("that's not right", "that is not right", "that can't be", "a mistake", "an error", "scratch that"),
    ),
}
"""Where two of a kind overlap, the longer one at the first place counts, once."""


def _pattern(words: tuple[str, ...]) -> re.Pattern[str]:
    longest = sorted(words, key=len, reverse=True)
    spaced = "|".join(re.escape(word).replace(r"\ ", r"\s+") for word in longest)
    return re.compile(rf"(?<!\w)(?:{spaced})(?!\w)", re.IGNORECASE)


_PATTERNS = {kind: _pattern(words) for kind, words in MARKERS.items()}

ReadAnswer = Callable[[str], str | None]
"""The answer that a text states, in one spelling for equal ones; None where it states none."""


@dataclass(frozen=True)
class Markers:
    """How often a trace says words of each kind."""

    counts: Mapping[MarkerKind, int]
    n_tokens: int

    @property
    def per_100_tokens(self) -> dict[MarkerKind, float]:
        return {kind: 100 * count / self.n_tokens for kind, count in self.counts.items()}


def markers(text: str, n_tokens: int) -> Markers:
    """Count the words of ``MARKERS`` in a trace of ``n_tokens`` tokens.

    Raises:
        InputError: if ``n_tokens`` is below 1.
    """
    if n_tokens < 1:
        raise InputError(f"n_tokens={n_tokens}: a rate needs a trace of one token or more.")
    plain = text.replace("’", "'")
    return Markers({kind: len(p.findall(plain)) for kind, p in _PATTERNS.items()}, n_tokens)


def marked(text: str) -> list[tuple[int, int, MarkerKind]]:
    """Where the words of ``MARKERS`` stand: the first character, the one after the last, and the kind.

    Of words of two kinds that overlap only the one that begins first is told.
    """
    plain = text.replace("’", "'")
    found = [(m.start(), m.end(), kind) for kind, p in _PATTERNS.items() for m in p.finditer(plain)]
    spans: list[tuple[int, int, MarkerKind]] = []
    for start, stop, kind in sorted(found, key=lambda span: (span[0], -span[1])):
        if not spans or start >= spans[-1][1]:
            spans.append((start, stop, kind))
    return spans


@dataclass(frozen=True)
class AnswerTrace:
    """The answer that a trace states at the end of each of its sentences."""

    ends: tuple[int, ...]
    """Characters up to the end of each sentence."""

    stated: tuple[str | None, ...]
    """The last answer stated up to there; None before the first."""

    gold: str

    @property
    def changes(self) -> tuple[str, ...]:
        """The stated answers in their order, each once until another takes its place."""
        said = [answer for answer in self.stated if answer is not None]
        return tuple(a for place, a in enumerate(said) if place == 0 or a != said[place - 1])

    @property
    def right_to_wrong(self) -> int:
        return sum(before == self.gold for before in self.changes[:-1])

    @property
    def wrong_to_right(self) -> int:
        return sum(after == self.gold for after in self.changes[1:])

    @property
    def first_right(self) -> int | None:
        """The number of the first sentence at whose end the answer is right; None if it never is."""
        return self.stated.index(self.gold) if self.gold in self.stated else None

    @property
    def lost(self) -> bool:
        """Right at some time, and wrong at the end."""
        return self.first_right is not None and self.stated[-1] != self.gold


def answer_trace(text: str, read: ReadAnswer, gold: str) -> AnswerTrace:
    """Read the answer off every prefix of a trace that ends a sentence.

    A sentence in which ``read`` finds none leaves the answer as it was.

    Args:
        gold: The right answer, spelled as ``read`` spells it.

    Raises:
        InputError: if the trace is blank.

    Example:
        >>> read = lambda prefix: verify(problem.answer, prefix).stated
        >>> answer_trace(completion.text, read, verify(problem.answer, problem.answer).stated).lost
    """
    if not text.strip():
        raise InputError("The trace is blank: it has no sentences. Leave it out, and say how many.")
    ends = tuple(stop for _, stop in sentence_spans(text, min_words=1))
    stated: list[str | None] = []
    for end in ends:
        answer = read(text[:end])
        stated.append(answer if answer is not None or not stated else stated[-1])
    return AnswerTrace(ends, tuple(stated), gold)
