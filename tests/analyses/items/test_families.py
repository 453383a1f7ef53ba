"""The two families: matched in pairs, balanced, and refused with the counts where there are too few."""

from dataclasses import replace

import numpy as np
import pytest

from analyses.items.families import COVARIATES, MATCHED_IN, matched, two_families
from analyses.items.item import Family, Item
from analyses.items.survive import Exclusion, Filtered, Survivor
from hooks.errors import InputError
from hooks.rows import Row
from interp.prompt_pairs import PromptPair


def survivor(family: Family, number: int, tokens: int, logp: float, answer: str = "x") -> Survivor:
    other = "1" if answer.isdecimal() else "Y"
    item = Item(family, f"{family} kind", "", f"s{number}", " is", answer, (("t", other),))
    rows = [Row(tuple(range(first, first + tokens)), tokens) for first in (0, 1)]
    return Survivor(item, next(item.partners()), PromptPair(rows[0], rows[1], 1, 2, (0, 1)), logp, -1.0)


def planted(n: int = 100, m: int = 140, answers: tuple[str, str] = ("x", "x"), seed: int = 0) -> Filtered:
    """Knowledge prompts are longer and surer than those of reasoning."""
    rng = np.random.default_rng(seed)
    sizes = (("knowledge", n, 28, -0.4, answers[0]), ("reasoning", m, 24, -0.8, answers[1]))
    return Filtered(
        tuple(
            survivor(
                family, i, int(rng.integers(-9, 10)) + tokens, -abs(float(rng.normal(logp, 0.4))), answer
            )
            for family, size, tokens, logp, answer in sizes
            for i in range(size)
        ),
        (Exclusion(survivor("knowledge", 999, 5, -1.0).item, "multi-token answer"),),
    )


def test_the_families_are_balanced_in_what_they_are_matched_in():
    found = matched(planted())
    assert len(found.knowledge) == len(found.reasoning) >= 40
    for row in found.balance:
        if row.matched:
            assert abs(row.before) > 0.5
            assert abs(row.after) < 0.1
    assert {row.covariate for row in found.balance if row.matched} == {"prompt_tokens", "logp"}


def test_each_item_is_of_its_family_and_comes_once():
    found = matched(planted())
    for family in ("knowledge", "reasoning"):
        side = found.of(family)
        assert {s.item.family for s in side} == {family}
        assert len({s.item.id for s in side}) == len(side)
        assert set(side) <= set(found.filtered.of(family))
        assert found.kinds(family) == {f"{family} kind": len(side)}


def test_the_two_of_a_pair_are_alike():
    filtered = planted()
    found = matched(filtered, caliper=0.2)
    for value in map(COVARIATES.__getitem__, MATCHED_IN):
        pools = [np.array([value(s) for s in filtered.of(f)]) for f in ("knowledge", "reasoning")]
        scale = np.sqrt((pools[0].var(ddof=1) + pools[1].var(ddof=1)) / 2)
        apart = [abs(value(k) - value(r)) for k, r in zip(found.knowledge, found.reasoning, strict=True)]
        assert max(apart) <= 0.2 * scale + 1e-9


def test_nothing_else_of_an_item_changes_who_is_paired_with_whom():
    """Invariance: the partner, its confidence and the texts may be anything."""
    filtered = planted()
    other = tuple(
        replace(s, corrupted_logp=-float(i), item=replace(s.item, before=f"{i} "), partner=s.item)
        for i, s in enumerate(filtered.survivors)
    )
    here, there = matched(filtered), matched(replace(filtered, survivors=other))
    for family in ("knowledge", "reasoning"):
        assert [s.item.subject for s in here.of(family)] == [s.item.subject for s in there.of(family)]


def mixed(knowledge: dict[str, int], reasoning: dict[str, int]) -> Filtered:
    """All alike but for the answers."""
    sides: tuple[tuple[Family, dict[str, int]], ...] = (("knowledge", knowledge), ("reasoning", reasoning))
    return Filtered(
        tuple(
            survivor(family, i, 10 + i % 3, -0.5 - 0.1 * (i % 3), answer)
            for family, answers in sides
            for answer, n in answers.items()
            for i in range(n)
        ),
        (),
    )


@pytest.mark.parametrize(
    ("knowledge", "reasoning", "strata"),
    [
        ({"Rome": 40, "7": 10}, {"Oslo": 40, "8": 20}, "exact"),
        ({"Rome": 40, "7": 10}, {"red": 60, "8": 20}, "coarse"),
        ({"Rome": 40}, {"8": 60}, "none"),
    ],
)
def test_pairs_agree_in_the_answers_type_as_far_as_that_leaves_enough(
    knowledge: dict[str, int], reasoning: dict[str, int], strata: str
):
    found = matched(mixed(knowledge, reasoning))
    assert found.strata == strata
    for k, r in zip(found.knowledge, found.reasoning, strict=True):
        if strata == "exact":
            assert k.item.answer_type == r.item.answer_type
        if strata == "coarse":
            assert (k.item.answer_type == "number") == (r.item.answer_type == "number")


def test_fewer_of_the_closest_pairs_can_be_kept():
    all_of_them, few = matched(planted()), matched(planted(), most=40)
    assert few.knowledge == all_of_them.knowledge[:40]
    assert few.reasoning == all_of_them.reasoning[:40]


def test_too_few_survivors_are_refused_with_counts_and_reasons():
    with pytest.raises(
        InputError,
        match=r"Not enough items that tiny answers right .* 30 of each family are needed.*"
        r"knowledge: 29 of 30 survived \(1 multi-token answer\); "
        r"reasoning: 50 of 50 survived \(none is out\)",
    ):
        matched(planted(29, 50), model="tiny")
    assert matched(planted(29, 50), least=10).knowledge


def test_families_that_cannot_be_matched_are_refused():
    apart = planted()
    far = tuple(replace(s, logp=s.logp - 50) if s.item.family == "reasoning" else s for s in apart.survivors)
    with pytest.raises(InputError, match=r"Only 0 knowledge and reasoning items .* not enough for a verdict"):
        matched(Filtered(far, ()))


def test_the_families_can_be_matched_in_other_things():
    filtered = planted()
    varied = tuple(
        replace(s, pair=replace(s.pair, subject=(0, 1 + i % 3))) for i, s in enumerate(filtered.survivors)
    )
    found = matched(replace(filtered, survivors=varied), matched_in=("prompt_tokens", "subject_tokens"))
    for k, r in zip(found.knowledge, found.reasoning, strict=True):
        assert k.pair.subject == r.pair.subject
    assert {b.covariate for b in found.balance if b.matched} == {"prompt_tokens", "subject_tokens"}


@pytest.mark.parametrize("names", [("length",), ()])
def test_what_nothing_can_be_matched_in_is_refused(names: tuple[str, ...]):
    with pytest.raises(InputError, match=r"matched_in=.* One or more of prompt_tokens, logp, .* would work"):
        matched(planted(), matched_in=names)


def test_a_model_that_knows_nothing_is_refused(llama):
    """A random model on the whole way: two_families, from the tables to the refusal."""
    with pytest.raises(InputError, match=r"Not enough items that tiny-llama .* knowledge: 0 of \d+ survived"):
        two_families(llama, per_kind=1, reasoning=34)
