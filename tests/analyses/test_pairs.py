"""Contrast pairs: from worked solutions, and from files that other people write."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from analyses.pairs import POLES, builtin_pairs, load_pairs
from analyses.tasks.problem import Problem
from analyses.tasks.verify import verify
from analyses.tasks.word_problems import word_problems
from hooks.errors import InputError
from interp.pairs import Pair, pairs_hash

PROBLEMS = word_problems(60)
BY_PROMPT = {problem.prompt: problem for problem in PROBLEMS}
SYSTEM = {"role": "system", "content": "Be kind."}
ASK = {"role": "user", "content": "How many?"}


def say(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def loaded(folder: Path, *rows: object) -> list[Pair]:
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows))
    return load_pairs(path)


# Built in.


@pytest.mark.parametrize(
    ("concept", "positive", "negative"),
    [("verbosity", "brief", "long"), ("reasoning", "long", "direct")],
)
def test_plus_points_to_the_first_pole(concept: str, positive: str, negative: str):
    for pair in builtin_pairs(concept, PROBLEMS, 20, 0):
        problem = BY_PROMPT[pair.prompt]
        assert pair.positive == problem.solutions[positive]
        assert pair.negative == problem.solutions[negative]


def test_the_poles_are_named_in_the_order_of_the_pair():
    assert POLES == {"verbosity": ("brief", "long"), "reasoning": ("step by step", "at once")}
    brief = builtin_pairs("verbosity", PROBLEMS, 20, 0)
    assert all(len(pair.positive) < len(pair.negative) for pair in brief)
    stepwise = builtin_pairs("reasoning", PROBLEMS, 20, 0)
    assert all(len(pair.positive) > len(pair.negative) for pair in stepwise)


@pytest.mark.parametrize("concept", ["verbosity", "reasoning"])
def test_both_responses_of_a_pair_are_correct(concept: str):
    for pair in builtin_pairs(concept, PROBLEMS, 60, 0):
        answer = BY_PROMPT[pair.prompt].answer
        assert verify(answer, pair.positive).correct
        assert verify(answer, pair.negative).correct


def test_only_the_problems_given_are_used_and_none_twice():
    fit = PROBLEMS[10:30]
    pairs = builtin_pairs("verbosity", fit, 20, 0)
    assert {pair.prompt for pair in pairs} == {problem.prompt for problem in fit}


def test_the_seed_decides_and_the_order_of_the_problems_does_not():
    pairs = builtin_pairs("verbosity", PROBLEMS, 20, 4)
    assert builtin_pairs("verbosity", PROBLEMS[::-1], 20, 4) == pairs
    assert builtin_pairs("verbosity", PROBLEMS, 20, 5) != pairs


def test_problems_without_both_solutions_are_passed_over():
    bare = [replace(problem, solutions={"long": "..."}) for problem in PROBLEMS[:40]]
    pairs = builtin_pairs("verbosity", bare + PROBLEMS[40:], 20, 0)
    assert {pair.prompt for pair in pairs} == {problem.prompt for problem in PROBLEMS[40:]}


@pytest.mark.parametrize("concept", ["verbosity", "reasoning"])
def test_too_few_problems_with_solutions_are_refused(concept: str):
    bare = Problem("a", "How many?", "3", "own")
    says = rf"n=4 {concept} pairs were asked for, but 3 of the 4 problems .*would work"
    with pytest.raises(InputError, match=says):
        builtin_pairs(concept, [bare, *PROBLEMS[:3]], 4, 0)


def test_a_single_pair_is_no_contrast():
    with pytest.raises(InputError, match="n=1 pairs were asked for; a contrast needs at least 2"):
        builtin_pairs("verbosity", PROBLEMS, 1, 0)


# From a file.


def test_texts_are_read_as_they_stand(tmp_path: Path):
    pairs = loaded(
        tmp_path,
        {"prompt": "How many?", "positive": " 3\n", "negative": "Well, 3."},
        "",
        {"positive": "yes", "negative": "no", "note": "other keys do no harm"},
    )
    assert pairs == [Pair("How many?", " 3\n", "Well, 3."), Pair("", "yes", "no")]


def test_a_prompt_may_be_a_list_of_messages(tmp_path: Path):
    row = {"prompt": [SYSTEM, ASK], "positive": "3", "negative": "Well, 3."}
    assert loaded(tmp_path, row, row)[0] == Pair([SYSTEM, ASK], "3", "Well, 3.")


@pytest.mark.parametrize(
    ("given", "shared", "expected"),
    [
        (None, [SYSTEM, ASK], [SYSTEM, ASK]),
        (None, [ASK, say("Three?"), ASK], [ASK, say("Three?"), ASK]),
        (None, [], ""),
        ("How many?", [], [ASK]),
        ("How many?", [ASK], [ASK]),
        ([SYSTEM], [ASK], [SYSTEM, ASK]),
        ([SYSTEM, ASK], [SYSTEM, ASK], [SYSTEM, ASK]),
    ],
)
def test_what_two_conversations_share_is_the_prompt(tmp_path: Path, given, shared, expected):
    row = {"positive": [*shared, say("3")], "negative": [*shared, say("Well, 3.")]}
    if given is not None:
        row["prompt"] = given
    assert loaded(tmp_path, row, row)[0] == Pair(expected, "3", "Well, 3.")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("{oops", r"is not JSON: Expecting property name"),
        ("[1, 2]", r"holds a JSON list, not an object"),
        ({"positive": "a"}, r"has no 'negative'\. It has positive;"),
        ({"chosen": "a", "rejected": "b"}, r"has no 'positive'\. It has chosen, rejected;"),
        ({}, r"has no 'positive'\. It has no keys;"),
        ({"positive": "a", "negative": " a\n"}, r"has the same text as 'positive' and 'negative'"),
        ({"positive": [say("a")], "negative": [say("a")]}, r"has the same text"),
        ({"positive": "", "negative": "b"}, r"has an empty 'positive'"),
        ({"positive": "a", "negative": " \n"}, r"has an empty 'negative'"),
        ({"positive": [ASK, say("")], "negative": [ASK, say("b")]}, r"has an empty 'positive'"),
        ({"positive": "a", "negative": [say("b")]}, r"has a str as 'positive' and a list as 'neg"),
        ({"positive": "a", "negative": None}, r"and a NoneType as 'negative'"),
        ({"positive": 1, "negative": 2}, r"has a int as 'positive'"),
        ({"prompt": 7, "positive": "a", "negative": "b"}, r"'prompt' is a int\. A text or a list"),
        ({"prompt": ["hi"], "positive": "a", "negative": "b"}, r'\'prompt\' holds "hi", which is no'),
        (
            {"prompt": [{"role": "tool", "content": "x"}], "positive": "a", "negative": "b"},
            r"which is no chat message\. .* roles system and assistant",
        ),
        ({"positive": [{"role": "user"}], "negative": [say("b")]}, r"'positive' holds .*no chat"),
        (
            {"positive": [SYSTEM, ASK, say("a")], "negative": [ASK, say("b")]},
            r"after the 0 messages that both sides share, 'positive' goes on with system, user, ass",
        ),
        (
            {"positive": [ASK, say("a"), ASK], "negative": [ASK, say("b"), ASK]},
            r"after the 1 messages .* 'positive' goes on with assistant, user",
        ),
        (
            {"positive": [ASK, say("a")], "negative": [ASK, say("a"), say("b")]},
            r"after the 2 messages .* 'positive' goes on with nothing",
        ),
        ({"positive": [ASK], "negative": [say("b")]}, r"'positive' goes on with user"),
    ],
)
def test_a_line_that_is_no_pair_is_refused_with_its_number(tmp_path: Path, row, says: str):
    good = {"positive": "a", "negative": "b"}
    with pytest.raises(InputError, match=rf"pairs\.jsonl:3\b.*{says}") as refusal:
        loaded(tmp_path, good, "", row, good)
    assert "would work" in str(refusal.value)


@pytest.mark.parametrize("rows", [[], [{"positive": "a", "negative": "b"}]])
def test_fewer_than_two_pairs_are_refused(tmp_path: Path, rows: list[dict[str, str]]):
    with pytest.raises(InputError, match=rf"holds {len(rows)} pairs; a contrast needs at least 2"):
        loaded(tmp_path, *rows)


def test_a_missing_file_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"no\.jsonl is not there"):
        load_pairs(str(tmp_path / "no.jsonl"))


# The hash.


def test_equal_pairs_have_equal_hashes_however_they_were_written(tmp_path: Path):
    row = {"positive": [ASK, say("ä")], "negative": [ASK, say("b")]}
    turned = json.dumps(
        {key: [dict(reversed(m.items())) for m in value] for key, value in row.items()},
        ensure_ascii=False,
    )
    first = loaded(tmp_path, row, row)
    assert pairs_hash(first) == pairs_hash(loaded(tmp_path, turned, turned))
    assert len(pairs_hash(first)) == 64
    assert int(pairs_hash(first), 16) > 0


def test_the_hash_of_two_pairs_is_the_one_worked_out_by_hand():
    import hashlib

    text = '[["p","a","b"],[[{"content":"How many?","role":"user"}],"\\u00e4","b"]]'
    expected = hashlib.sha256(text.encode()).hexdigest()
    assert pairs_hash([Pair("p", "a", "b"), Pair([ASK], "ä", "b")]) == expected


def test_every_part_of_a_pair_and_the_order_count_for_the_hash():
    base = [Pair("p", "a", "b"), Pair("q", "c", "d")]
    variants = [
        base,
        base[::-1],
        base[:1],
        [Pair("P", "a", "b"), base[1]],
        [Pair("p", "A", "b"), base[1]],
        [Pair("p", "b", "a"), base[1]],
        [Pair([{"role": "user", "content": "p"}], "a", "b"), base[1]],
        [Pair('p","a', "", "b"), base[1]],
    ]
    assert len({pairs_hash(pairs) for pairs in variants}) == len(variants)
