"""Reasoning items: right by a solver that reads the prompt, and out of reach of heuristics that do not."""

import hashlib
import re
from collections import Counter
from math import sqrt

import pytest

from analyses.items.item import Item
from analyses.items.reasoning import FORMS, KINDS, reasoning_items
from hooks.errors import InputError

ITEMS = reasoning_items(1700)
SUMS = {"addition", "two_step_addition", "subtraction", "add_rule"}
MORE = {"taller": "shorter", "older": "younger", "faster": "slower", "richer": "poorer"}


def digits(text: str) -> list[int]:
    return [int(digit) for digit in re.findall(r"\d", text)]


def facts(text: str) -> dict[str, str]:
    """What belongs to what, in sentences such as The drum is red. or clock: 2,"""
    found = re.findall(r"(\w+) (?:is|is from|lives in) (\w+)\.|(\w+): (\w+),", text)
    return {a or c: b or d for a, b, c, d in found}


def solve(kind: str, text: str, choices: tuple[str, ...]) -> str:
    """The answer, from the text of the question alone. ``choices`` only says which words may be one."""
    if kind in ("addition", "two_step_addition"):
        return str(sum(digits(text)))
    if kind == "subtraction":
        first, second = digits(text)
        return str(first - second)
    if kind == "larger_number":
        return str(max(digits(text)))
    if kind == "smaller_number":
        return str(min(digits(text)))
    if kind == "more_points":
        points = {name: int(n) for name, n in re.findall(r"(\w+) has (\d) points", text)}
        return max(points, key=points.__getitem__)
    if kind == "relation":
        match = re.fullmatch(r"(\w+) is (\w+) than (\w+)\. The (\w+) one is", text)
        assert match
        first, said, second, asked = match.groups()
        top, bottom = (first, second) if said in MORE else (second, first)
        return top if asked in MORE else bottom
    if kind == "elimination":
        counts = Counter(word for word in re.findall(r"\w+", text) if word in choices)
        (left,) = [word for word, count in counts.items() if count == 1]
        return left
    if kind == "place_rule":
        *examples, asked = [line.split(" ->") for line in text.split("\n")]
        places = [words.split(", ").index(answer.strip()) for words, answer in examples]
        assert len(set(places)) == 1, "the examples show one rule"
        return asked[0].split(", ")[places[0]]
    if kind == "add_rule":
        *examples, asked = text.split("\n")
        steps = {b - a for a, b in map(digits, examples)}
        assert len(steps) == 1, "the examples show one rule"
        return str(digits(asked)[0] + steps.pop())
    if kind == "look_up":
        return facts(text)[re.findall(r"\w+", re.sub(r"(lives in|is)$", "", text))[-1]]
    if kind == "made_up_order":
        match = re.fullmatch(r"In the list (.*), the word after (\w+) is", text)
        assert match
        row = match[1].split(", ")
        return row[row.index(match[2]) + 1]
    assert kind == "two_hops"
    match = re.match(r"\w+ (?:has the|took the|works for) (\w+)\. ", text)
    assert match
    return facts(text[match.end() :])[match[1]]


def lines(item: Item) -> tuple[list[str], str]:
    """The demonstrations, and the question as the model reads it last."""
    if item.kind in ("place_rule", "add_rule"):
        return [], item.prompt
    *shown, question = item.prompt.split("\n")
    return shown, question


def test_the_answers_are_those_of_a_solver_that_reads_the_prompt():
    for item in ITEMS:
        assert solve(item.kind, lines(item)[1], item.choices) == item.answer, item.prompt


def test_so_are_those_of_every_partner():
    for item in ITEMS:
        partners = list(item.partners())
        assert partners, item.prompt
        for partner in partners:
            choices = (*item.choices, partner.answer)
            assert solve(item.kind, lines(partner)[1], choices) == partner.answer, partner.prompt


def test_so_are_those_of_the_demonstrations():
    seen = 0
    for item in ITEMS:
        for line in lines(item)[0]:
            question, _, answer = line.removesuffix(".").rpartition(" ")
            choices: tuple[str, ...] = ()
            if item.kind == "elimination":  # the two that the sentence names, one of them twice
                counts = Counter(re.findall(r"\w+", question))
                choices = tuple(w for w in pool_of(item) if w in counts)
            assert solve(item.kind, question, choices) == answer, line
            seen += 1
    assert seen > 1000


def pool_of(item: Item) -> tuple[str, ...]:
    (pool,) = [form.pool for form in FORMS if set(item.choices) <= set(form.pool) and fits(form.text, item)]
    return pool


def fits(text: str, item: Item) -> bool:
    pattern = re.escape(text)
    return bool(re.fullmatch(re.sub(r"\\{\w+\\}", r"\\w+", pattern), lines(item)[1]))


@pytest.mark.parametrize("kind", sorted(set(KINDS) - SUMS))
@pytest.mark.parametrize("last", [True, False], ids=["last", "first"])
def test_copying_the_first_or_last_candidate_scores_at_chance_or_below(kind: str, last: bool):
    items = [item for item in ITEMS if item.kind == kind]
    right = 0
    for item in items:
        named = [word for word in re.findall(r"\w+", lines(item)[1]) if word in item.choices]
        if kind == "place_rule":
            named = named[-3:]
        right += named[-1 if last else 0] == item.answer
    chance = 1 / len(items[0].choices)
    assert right / len(items) < chance + 3.5 * sqrt(chance / len(items)), f"{right} of {len(items)}"


@pytest.mark.parametrize("kind", sorted(set(KINDS) - SUMS - {"place_rule"}))
@pytest.mark.parametrize("place", [0, 1, 2, -1])
def test_no_choice_by_place_is_right_on_an_item_and_its_partner(kind: str, place: int):
    for item in ITEMS:
        if item.kind != kind:
            continue
        for partner in item.partners():
            chosen = []
            for prompt in (item, partner):
                candidates = set("123456789") if "number" in kind else set(item.choices)
                named = [w for w in re.findall(r"\w+", lines(prompt)[1]) if w in candidates]
                distinct = list(dict.fromkeys(named))
                chosen.append(distinct[min(place, len(distinct) - 1)] == prompt.answer)
            assert not all(chosen), (item.prompt, partner.prompt)


@pytest.mark.parametrize("kind", KINDS)
def test_the_most_frequent_answer_is_rarely_right(kind: str):
    answers = Counter(item.answer for item in ITEMS if item.kind == kind)
    assert max(answers.values()) / answers.total() < 0.35, answers


def test_no_demonstration_has_the_answer_of_the_item_or_of_a_partner():
    for item in ITEMS:
        taken = {item.answer, *(answer for _, answer in item.others)}
        for line in lines(item)[0]:
            assert line.removesuffix(".").rpartition(" ")[2] not in taken, item.prompt
            if item.kind not in SUMS | {"larger_number", "smaller_number"} and item.answer_type != "number":
                assert not taken & set(re.findall(r"\w+", line)), item.prompt


def test_every_form_has_its_turn_and_no_question_comes_twice():
    counts = Counter(item.kind for item in ITEMS)
    turns = Counter(form.kind for form in FORMS)
    assert {kind: counts[kind] / turns[kind] for kind in KINDS}.keys() == counts.keys()
    assert len({lines(item)[1] for item in ITEMS}) == len(ITEMS)
    assert len({item.id for item in ITEMS}) == len(ITEMS)


def test_numbers_have_one_digit():
    for item in ITEMS:
        for word in [item.answer, *(answer for _, answer in item.others)]:
            assert not word.isdecimal() or word in "123456789"


@pytest.mark.parametrize("n", [1, 34, 100])
def test_fewer_are_the_first_of_more(n: int):
    assert reasoning_items(n) == ITEMS[:n]


def test_the_items_of_a_seed_do_not_change_between_machines_and_releases():
    # Runs are compared across both; a change of the forms changes this line and the changelog.
    digest = hashlib.sha256("\n".join(item.id for item in reasoning_items(340)).encode()).hexdigest()
    assert digest[:16] == "341ef7dab2ef7a5f"


def test_another_seed_gives_other_items():
    other = {item.id for item in reasoning_items(340, seed=1)}
    assert len(other & {item.id for item in reasoning_items(340)}) < 34


def test_a_form_that_is_exhausted_leaves_its_turns_to_the_others():
    items = reasoning_items(800, kinds=["subtraction", "relation"])
    counts = Counter(item.kind for item in items)
    assert 20 < counts["subtraction"] < 36 < counts["relation"]
    assert counts.total() == 800


def test_more_than_there_are_is_refused_with_a_number_that_works():
    with pytest.raises(InputError, match=r"no new questions after \d+") as refusal:
        reasoning_items(1000, kinds=["subtraction"])
    would_work = int(re.findall(r"n=(\d+) would work", str(refusal.value))[0])
    assert len(reasoning_items(would_work, kinds=["subtraction"])) == would_work > 20


@pytest.mark.parametrize(
    ("arguments", "said"),
    [({"n": 0}, "any n from 1 would work"), ({"kinds": ["guess"]}, "no reasoning kind 'guess'. addition, ")],
)
def test_what_makes_no_items_is_refused(arguments: dict[str, object], said: str):
    with pytest.raises(InputError, match=said):
        reasoning_items(**arguments)
