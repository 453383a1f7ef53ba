"""An item: a prompt whose next token is its answer, and what a partner has in its subject's place."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from hooks.errors import InputError

Family = Literal["knowledge", "reasoning"]
"""``knowledge``: the answer is a stored fact. ``reasoning``: it follows from the prompt alone."""

AnswerType = Literal["number", "symbol", "name", "word"]


@dataclass(frozen=True)
class Item:
    """One prompt in plain text, ``before + subject + after``, and the one token that continues it."""

    family: Family
    kind: str
    """What is asked, such as ``capital`` or ``two_step_addition``."""

    before: str
    """The prompt up to the subject; demonstrations, where there are any, stand first, one a line."""

    subject: str
    """What the answer hangs on, and all that a corrupted partner changes."""

    after: str
    """The rest of the prompt, without a space at its end."""

    answer: str
    """Without the space that parts it from the prompt."""

    others: tuple[tuple[str, str], ...] = ()
    """What a partner may have instead: (subject, its answer). Both differ from this item's."""

    choices: tuple[str, ...] = ()
    """Answers among which a guesser would choose who knows what is asked but not of what."""

    def __post_init__(self) -> None:
        parts = {"subject": self.subject, "answer": self.answer}
        parts |= {f"subject of other {i}": s for i, (s, _) in enumerate(self.others)}
        parts |= {f"answer of other {i}": a for i, (_, a) in enumerate(self.others)}
        for name, text in parts.items():
            if not text or text != text.strip():
                raise InputError(
                    f"An item of kind {self.kind} has {text!r} as its {name}. "
                    "A text that neither is empty nor begins or ends in a space would work."
                )
        if self.after.endswith(" "):
            raise InputError(
                f"The prompt {self.prompt!r} ends in a space, which belongs to the answer. "
                "Without it, it would work."
            )
        for subject, answer in self.others:
            if self.subject == subject or self.answer == answer:
                raise InputError(
                    f"A partner of {self.prompt!r} would have the subject {subject!r} and the answer "
                    f"{answer!r}, one of which it shares with the item. Two that differ would work."
                )

    @property
    def prompt(self) -> str:
        return self.before + self.subject + self.after

    @cached_property
    def id(self) -> str:
        """The kind, and twelve digits that any change of the prompt or the answer changes."""
        text = "\0".join([self.family, self.kind, self.before, self.subject, self.after, self.answer])
        return f"{self.kind}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    @property
    def answer_type(self) -> AnswerType:
        """Digits; one or two letters with a capital; another word with a capital; any other word."""
        if self.answer.isdecimal():
            return "number"
        if not self.answer[0].isupper():
            return "word"
        return "symbol" if len(self.answer) <= 2 else "name"

    @property
    def guess_rate(self) -> float:
        """How often a guesser among ``choices`` is right; 0 where nothing is known of them."""
        return 1 / len(self.choices) if self.choices else 0.0

    def partners(self) -> Iterator["Item"]:
        """The same prompt with each other subject in turn, and the answer that goes with it."""
        for subject, answer in self.others:
            yield Item(
                self.family,
                self.kind,
                self.before,
                subject,
                self.after,
                answer,
                others=((self.subject, self.answer),),
                choices=self.choices,
            )
