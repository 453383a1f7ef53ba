"""The two families on one model: supplied, filtered, matched; or a refusal that says why.

Knowledge and reasoning items that the model answers right are paired off within an answer type, so
that both families have as many items, prompts as long and answers as sure. What a later analysis
finds to differ between them is then not the length of the prompt, nor how easy the items are.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from analyses.items.facts import Table, knowledge_items, tables
from analyses.items.item import Family, Item
from analyses.items.matching import CALIPER, match, spread, standardised_difference
from analyses.items.reasoning import reasoning_items
from analyses.items.survive import PARTNERS, Filtered, Survivor, survive
from hooks.errors import InputError
from hooks.language_model import LanguageModel

LEAST = 30
"""Items of each family below which there is no verdict."""

PER_KIND = 40
"""Facts that are asked of one table, so that the large ones do not outweigh the others."""

REASONING = 720
"""Reasoning items that are asked."""

Strata = Literal["exact", "coarse", "none"]
"""What pairs have in common: the answer's type; a number or a word; nothing."""

_STRATUM: dict[Strata, Callable[[Item], str]] = {
    "exact": lambda item: item.answer_type,
    "coarse": lambda item: "number" if item.answer_type == "number" else "text",
    "none": lambda _: "",
}

COVARIATES: dict[str, Callable[[Survivor], float]] = {
    "prompt_tokens": lambda s: float(len(s.pair)),
    "logp": lambda s: s.logp,
    "corrupted_logp": lambda s: s.corrupted_logp,
    "subject_tokens": lambda s: float(s.pair.subject[1] - s.pair.subject[0]),
    "subject_to_end": lambda s: float(len(s.pair) - s.pair.subject[1]),
}
"""What the balance of the families is reported in; logp in nats, the others in tokens."""

MATCHED_IN = ("prompt_tokens", "logp")
"""The covariates that pairs must be alike in."""


@dataclass(frozen=True)
class Balance:
    """How far apart the families are in one covariate."""

    covariate: str
    matched: bool
    """Whether the families were matched in it, or it is only reported."""

    knowledge_mean: float
    reasoning_mean: float
    """Of the matched items."""

    before: float
    after: float
    """(mean of knowledge - mean of reasoning) / the pooled standard deviation before matching."""


class NotEnoughItemsError(InputError):
    """Too few items of a family for a verdict; holds what the filter left, for a report."""

    def __init__(self, message: str, filtered: Filtered) -> None:
        super().__init__(message)
        self.filtered = filtered


@dataclass(frozen=True)
class Survivors:
    """Two matched families: ``knowledge[i]`` and ``reasoning[i]`` are a pair."""

    knowledge: tuple[Survivor, ...]
    reasoning: tuple[Survivor, ...]
    filtered: Filtered
    """All that survived the filter, and every exclusion."""

    strata: Strata
    """In what answers the pairs agree."""

    balance: tuple[Balance, ...]

    def of(self, family: Family) -> tuple[Survivor, ...]:
        """The matched survivors of one family."""
        return self.knowledge if family == "knowledge" else self.reasoning

    def kinds(self, family: Family) -> dict[str, int]:
        """How many matched items each kind has, the most frequent first."""
        return dict(Counter(survivor.item.kind for survivor in self.of(family)).most_common())


def all_items(
    *,
    seed: int = 0,
    relations: Sequence[Table] = (),
    per_kind: int | None = PER_KIND,
    reasoning: int = REASONING,
) -> list[Item]:
    """The items of both families that are asked, before any model has seen them.

    Args:
        relations: Tables to add to those of the package.
        per_kind: Facts to ask of each table; None asks all.
        reasoning: Reasoning items to ask.
    """
    items = knowledge_items([*tables(), *relations], seed=seed, per_kind=per_kind)
    return items + reasoning_items(reasoning, seed=seed)


def two_families(
    lm: LanguageModel,
    *,
    seed: int = 0,
    relations: Sequence[Table] = (),
    per_kind: int | None = PER_KIND,
    reasoning: int = REASONING,
    partners: int = PARTNERS,
    both: bool = True,
    matched_in: Sequence[str] = MATCHED_IN,
    caliper: float = CALIPER,
    least: int = LEAST,
    most: int | None = None,
) -> Survivors:
    """Items of both families that the model answers right, matched.

    Args:
        relations, per_kind, reasoning: As in :func:`all_items`.
        partners, both: As in :func:`survive`.
        matched_in, caliper: As in :func:`matched`.
        least: Matched items of each family that are needed.
        most: Keep only so many of the closest pairs.

    Raises:
        NotEnoughItemsError: if fewer than ``least`` survive in a family, or can be matched; with the
            counts and the reasons.
    """
    items = all_items(seed=seed, relations=relations, per_kind=per_kind, reasoning=reasoning)
    filtered = survive(lm, items, seed=seed, partners=partners, both=both)
    return matched(filtered, matched_in=matched_in, caliper=caliper, least=least, most=most, model=lm.name)


def matched(
    filtered: Filtered,
    *,
    matched_in: Sequence[str] = MATCHED_IN,
    caliper: float = CALIPER,
    least: int = LEAST,
    most: int | None = None,
    model: str = "this model",
) -> Survivors:
    """Pair off the survivors within the answer's type; more coarsely where that leaves too few.

    Args:
        matched_in: Names of ``COVARIATES`` that the two of a pair must be alike in.
        caliper: How far apart they may be in each, in standard deviations.
        least, most: Fewest and most pairs; of more, the closest are kept.
        model: What to call the model in an error.

    Raises:
        NotEnoughItemsError: if fewer than ``least`` survive in a family, or can be matched.
        InputError: if a covariate is unknown.
    """
    unknown = sorted(set(matched_in) - set(COVARIATES))
    if unknown or not matched_in:
        raise InputError(
            f"matched_in={tuple(matched_in)} was asked for. "
            f"One or more of {', '.join(COVARIATES)} would work."
        )
    pools = [filtered.of("knowledge"), filtered.of("reasoning")]
    if min(map(len, pools)) < least:
        raise NotEnoughItemsError(_not_enough(filtered, least, model), filtered)
    a, b = (_values(pool, matched_in) for pool in pools)
    for strata, stratum in _STRATUM.items():
        labels = [[stratum(survivor.item) for survivor in pool] for pool in pools]
        pairs = match(a, b, labels[0], labels[1], caliper=caliper)[:most]
        if len(pairs) >= least:
            return _survivors(filtered, pools, pairs, strata, matched_in)
    raise NotEnoughItemsError(
        f"Only {len(pairs)} knowledge and reasoning items of {model} are alike in {' and '.join(matched_in)} "
        f"within {caliper} standard deviations, and {least} of each are needed: not enough for a "
        f"verdict. {len(pools[0])} knowledge and {len(pools[1])} reasoning items survived the filter. "
        "More items or a wider caliper would work.",
        filtered,
    )


def _survivors(
    filtered: Filtered,
    pools: Sequence[Sequence[Survivor]],
    pairs: Int[np.ndarray, "pairs 2"],
    strata: Strata,
    matched_in: Sequence[str],
) -> Survivors:
    knowledge, reasoning = (
        tuple(pool[i] for i in side) for pool, side in zip(pools, pairs.T.tolist(), strict=True)
    )
    balance: list[Balance] = []
    for name in COVARIATES:
        before = [_values(pool, [name]) for pool in pools]
        after = [_values(side, [name]) for side in (knowledge, reasoning)]
        scale = spread(before[0], before[1])
        balance.append(
            Balance(
                covariate=name,
                matched=name in matched_in,
                knowledge_mean=float(after[0].mean()),
                reasoning_mean=float(after[1].mean()),
                before=float(standardised_difference(before[0], before[1], scale)[0]),
                after=float(standardised_difference(after[0], after[1], scale)[0]),
            )
        )
    return Survivors(knowledge, reasoning, filtered, strata, tuple(balance))


def _values(survivors: Sequence[Survivor], covariates: Sequence[str]) -> Float[np.ndarray, "n k"]:
    return np.array([[COVARIATES[name](survivor) for name in covariates] for survivor in survivors])


def _not_enough(filtered: Filtered, least: int, model: str) -> str:
    told: list[str] = []
    for family, kinds in filtered.counts().items():
        asked = sum(count["items"] for count in kinds.values())
        reasons = ", ".join(f"{n} {reason}" for reason, n in filtered.reasons(family).items())
        told.append(f"{family}: {len(filtered.of(family))} of {asked} survived ({reasons or 'none is out'})")
    return (
        f"Not enough items that {model} answers right for a verdict: {least} of each family are needed. "
        f"{'; '.join(told) or 'there are no items'}. More items, or a model that knows more, would work."
    )
