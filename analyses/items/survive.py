"""The filter: which items a model answers right, and why the others are out.

An item survives if the answer is the model's first choice for the next token, after its own prompt
and after that of a partner. Of a kind that is answered right no more often than a guesser among the
candidates would be, no item survives: those that are right are lucky.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from scipy.stats import binomtest
from torch import Tensor

from analyses.items.item import Family, Item
from analyses.items.tokenized import ItemPair, Obstacle, pairs_of
from hooks.edits import widened
from hooks.language_model import LanguageModel
from hooks.rows import MAX_ROWS, Row, batches_of
from interp.prompt_pairs import PromptPair

PARTNERS = 3
"""Partners that are tried for each item before it is given up."""

GUESS_LEVEL = 0.05
"""A kind must beat the guesser at this level of a one-sided binomial test."""

Reason = Obstacle | Literal["answered wrong", "partner answered wrong", "kind no better than guessing"]


@dataclass(frozen=True)
class Question:
    """A prompt that the model is given for an item, its own or that of a partner."""

    item: Item
    prompt: Row
    answer: int


class Told(NamedTuple):
    """What follows a prompt: the first choice, whether it is the answer, and log p of the answer."""

    top: int
    right: bool
    logp: float


Ask = Callable[[int, Sequence[Question]], list[Told]]
"""Answers questions, in their order. The number is 0 for the items, then 1, 2, ... for each partner tried."""


@dataclass(frozen=True)
class Survivor:
    """An item that the model answers right, with a partner, and how sure it is of each answer."""

    item: Item
    partner: Item
    pair: PromptPair
    logp: float
    """log p(answer), in nats, after the clean prompt."""

    corrupted_logp: float
    """log p(the partner's answer), in nats, after the corrupted prompt."""


@dataclass(frozen=True)
class Exclusion:
    """An item that is out, and why."""

    item: Item
    reason: Reason
    said: str | None = None
    """The model's first choice after the item's prompt, where it was asked."""


@dataclass(frozen=True)
class Filtered:
    """What is left of the items, in their order, and what is not."""

    survivors: tuple[Survivor, ...]
    exclusions: tuple[Exclusion, ...]

    def of(self, family: Family) -> tuple[Survivor, ...]:
        """The survivors of one family."""
        return tuple(survivor for survivor in self.survivors if survivor.item.family == family)

    def counts(self) -> dict[Family, dict[str, dict[str, int]]]:
        """By family and kind: ``items``, ``survived``, and each reason with how many it took."""
        counted: dict[Family, dict[str, Counter[str]]] = {}
        outcomes = [(s.item, "survived") for s in self.survivors]
        outcomes += [(e.item, str(e.reason)) for e in self.exclusions]
        for item, outcome in outcomes:
            kind = counted.setdefault(item.family, {}).setdefault(item.kind, Counter(items=0, survived=0))
            kind.update(["items", outcome])
        return {f: {k: dict(c) for k, c in sorted(kinds.items())} for f, kinds in sorted(counted.items())}

    def reasons(self, family: Family) -> dict[str, int]:
        """How many items of a family each reason took, the most frequent first."""
        return dict(Counter(e.reason for e in self.exclusions if e.item.family == family).most_common())


def survive(
    lm: LanguageModel,
    items: Sequence[Item],
    *,
    seed: int = 0,
    partners: int = PARTNERS,
    both: bool = True,
    ask: Ask | None = None,
) -> Filtered:
    """Ask the model every item, and the partner of each that it answers right.

    Args:
        partners: How many partners to try in turn, until one is answered right.
        both: Pass False to keep an item whatever the model says to its first partner.
        ask: Who is asked, such as workers whose answers are kept; None asks the model here and now.
    """
    ask = ask or (lambda _, questions: answers(lm, questions))
    excluded: dict[int, Exclusion] = {}
    candidates: dict[int, list[ItemPair]] = {}
    for number, item in enumerate(items):
        found = pairs_of(lm.tokenizer, item, seed=seed, most=partners)
        if isinstance(found, str):
            excluded[number] = Exclusion(item, found)
        else:
            candidates[number] = found

    numbers = list(candidates)
    first = [candidates[number][0] for number in numbers]
    clean = ask(0, [Question(one.item, one.pair.clean, one.pair.answer) for one in first])
    right: dict[int, Told] = {}
    for number, answered in zip(numbers, clean, strict=True):
        if answered.right:
            right[number] = answered
        else:
            excluded[number] = Exclusion(items[number], "answered wrong", _said(lm, answered))

    survivors: dict[int, Survivor] = {}
    beat: dict[int, bool] = {number: False for number in numbers}
    waiting = list(right)
    for turn in range(partners):
        asked = [(number, candidates[number][turn]) for number in waiting if turn < len(candidates[number])]
        told = ask(
            1 + turn,
            [Question(one.item, one.pair.corrupted, one.pair.corrupted_answer) for _, one in asked],
        )
        for (number, chosen), corrupted in zip(asked, told, strict=True):
            if turn == 0:
                beat[number] = corrupted.right or not both
            if corrupted.right or not both:
                survivors[number] = Survivor(
                    chosen.item, chosen.partner, chosen.pair, right[number].logp, corrupted.logp
                )
        waiting = [number for number in waiting if number not in survivors]
    for number in waiting:
        excluded[number] = Exclusion(items[number], "partner answered wrong", _said(lm, right[number]))

    for kind in guessed_kinds([(items[number], won) for number, won in beat.items()], both=both):
        for number in [n for n, s in survivors.items() if (s.item.family, s.item.kind) == kind]:
            survivor = survivors.pop(number)
            excluded[number] = Exclusion(survivor.item, "kind no better than guessing", survivor.item.answer)
    return Filtered(
        tuple(survivors[number] for number in sorted(survivors)),
        tuple(excluded[number] for number in sorted(excluded)),
    )


def guessed_kinds(
    outcomes: Sequence[tuple[Item, bool]], *, both: bool = True, level: float = GUESS_LEVEL
) -> list[tuple[Family, str]]:
    """Kinds that are answered right no more often than a guesser among ``choices`` would be.

    The guesser is right on an item with probability 1/c, for c choices, and on an item and its
    partner with 1/c². One-sided binomial test of the number of right ones against the mean of these.

    Args:
        outcomes: Each item that was asked, and whether it (and its first partner) was answered right.
            One without choices, of whose guesser nothing is known, has no say.
    """
    by_kind: dict[tuple[Family, str], list[tuple[float, bool]]] = {}
    for item, won in outcomes:
        if item.choices:
            rate = item.guess_rate**2 if both else item.guess_rate
            by_kind.setdefault((item.family, item.kind), []).append((rate, won))
    return [
        kind
        for kind, asked in by_kind.items()
        if binomtest(
            sum(won for _, won in asked),
            len(asked),
            sum(rate for rate, _ in asked) / len(asked),
            alternative="greater",
        ).pvalue
        > level
    ]


@torch.no_grad()
def answers(lm: LanguageModel, questions: Sequence[Question], *, max_rows: int = MAX_ROWS) -> list[Told]:
    """What the model says after each prompt.

    Args:
        max_rows: Most prompts of one batch.
    """
    told: dict[int, Told] = {}
    batches = batches_of(
        [question.prompt for question in questions],
        pad_id=lm.pad_id,
        device=lm.device,
        devices=lm.devices,
        row_bytes=lm.token_bytes(),
        max_rows=max_rows,
    )
    for batch in batches:
        logits = lm.model(**batch.inputs, use_cache=False, logits_to_keep=1).logits[:, -1]
        wanted = torch.tensor([questions[n].answer for n in batch.row.tolist()], device=logits.device)
        top, logp = _read(logits, wanted)
        columns = zip(batch.row.tolist(), top.tolist(), wanted.tolist(), logp.tolist(), strict=True)
        # NaN is no answer: logits that hold one put it on top
        told |= {n: Told(t, t == want and value == value, value) for n, t, want, value in columns}
    return [told[number] for number in range(len(questions))]


def _read(
    logits: Float[Tensor, "batch d_vocab"], wanted: Int[Tensor, " batch"]
) -> tuple[Int[Tensor, " batch"], Float[Tensor, " batch"]]:
    nats = widened(logits).log_softmax(-1)
    return nats.argmax(-1), nats.gather(-1, wanted[:, None])[:, 0]


def _said(lm: LanguageModel, told: Told) -> str:
    return str(lm.tokenizer.decode([told.top]))


def table(counts: Mapping[Family, Mapping[str, Mapping[str, int]]]) -> list[dict[str, int | str]]:
    """Counts as rows for a report: family, kind, items, survived, and a column a reason."""
    reasons = sorted(
        {r for kinds in counts.values() for c in kinds.values() for r in c} - {"items", "survived"}
    )
    return [
        {"family": family, "kind": kind}
        | {"items": count["items"], "survived": count["survived"]}
        | {reason: count.get(reason, 0) for reason in reasons}
        for family, kinds in counts.items()
        for kind, count in kinds.items()
    ]
