"""Positions mean the same whatever the chunks: each rule against a slow reading of a whole row."""

import re
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import DynamicCache

from hooks.errors import InputError
from hooks.positions import (
    NEVER,
    THINK_CLOSE,
    THINK_OPEN,
    Frame,
    after,
    answer,
    everything,
    first,
    generated,
    last,
    last_prompt,
    mask,
    parse_positions,
    prompt,
    response,
    step,
    steps,
    think,
)
from hooks.tracker import Tracker

TEXTS = st.text(min_size=1, max_size=6)
ATOMS = st.one_of(
    st.sampled_from([everything, prompt, last_prompt, generated, response, think, answer]),
    st.integers(0, 9).map(step),
    st.tuples(st.integers(0, 9), st.integers(1, 5)).map(lambda t: steps(t[0], t[0] + t[1])),
    st.integers(1, 9).map(first),
    st.integers(1, 9).map(last),
    TEXTS.map(after),
)
RULES = st.recursive(
    ATOMS,
    lambda part: st.builds(
        lambda a, o, b: {"|": a | b, "&": a & b, "-": a - b}[o], part, st.sampled_from("|&-"), part
    ),
    max_leaves=6,
)


@st.composite
def frames(draw):
    """One row as a single chunk, with places for every text that the rules may look for."""
    given_length = draw(st.integers(1, 12))
    prompt_length = draw(st.integers(1, given_length))
    total = given_length + draw(st.integers(0, 8))
    padding = draw(st.integers(0, 4))
    opened, closed = (draw(st.sampled_from([NEVER, *range(total)])) for _ in "oc")
    position = torch.cat([torch.full((padding,), -1), torch.arange(total)])
    return Frame(
        row=torch.zeros(1, dtype=torch.long),
        position=position[None],
        prompt_length=torch.tensor([prompt_length]),
        given_length=torch.tensor([given_length]),
        completed={THINK_OPEN: torch.tensor([opened]), THINK_CLOSE: torch.tensor([closed])},
    )


def chosen(rule, frame):
    """Absolute positions that a rule selects in a one-row frame."""
    return set(frame.position[rule.select(frame)].tolist())


# --- what each rule means


@given(frames())
def test_each_rule_selects_the_cells_of_its_definition(frame):
    p, n = int(frame.prompt_length), int(frame.given_length)
    whole = set(frame.position[frame.position >= 0].tolist())
    opened, closed = (int(frame.completed[t]) for t in (THINK_OPEN, THINK_CLOSE))
    assert chosen(everything, frame) == whole
    assert chosen(prompt, frame) == set(range(p))
    assert chosen(last_prompt, frame) == {p - 1}
    assert chosen(generated, frame) == {i for i in whole if i >= p - 1}
    assert chosen(response, frame) == {i for i in whole if i >= p}
    assert chosen(step(2), frame) == whole & {p + 1}, "step(n) is the token that PRODUCES the n-th generated"
    assert chosen(steps(1, 4), frame) == whole & {p, p + 1, p + 2}
    assert chosen(first(3), frame) == whole & {0, 1, 2}
    assert chosen(last(3), frame) == {i for i in range(n) if i >= n - 3}, "last(n) is of the row as given"
    assert chosen(after(THINK_OPEN), frame) == {i for i in whole if i >= opened}, "with its last token"
    assert chosen(think, frame) == {i for i in whole if opened <= i < closed}
    assert chosen(answer, frame) == chosen(generated, frame) - chosen(think, frame)


def test_generated_includes_the_last_prompt_token():
    """T9. It produces the first generated token; leaving it out leaves that one unsteered."""
    frame = Frame(torch.tensor([0]), torch.arange(5)[None], torch.tensor([3]), torch.tensor([3]))
    assert chosen(generated, frame) == {2, 3, 4}
    assert chosen(response, frame) == {3, 4}


@given(
    frames(),
    ATOMS.filter(lambda r: not isinstance(r, after)),
    ATOMS.filter(lambda r: not isinstance(r, after)),
)
def test_rules_combine_as_sets_do(frame, a, b):
    assert chosen(a | b, frame) == chosen(a, frame) | chosen(b, frame)
    assert chosen(a & b, frame) == chosen(a, frame) & chosen(b, frame)
    assert chosen(a - b, frame) == chosen(a, frame) - chosen(b, frame)
    assert (a | b).texts == (a - b).texts == a.texts | b.texts


@given(frames(), RULES)
def test_padding_is_never_selected(frame, rule):
    texts = {t: torch.tensor([0]) for t in rule.texts}
    frame = Frame(
        frame.row, frame.position, frame.prompt_length, frame.given_length, {**texts, **frame.completed}
    )
    assert not (rule.select(frame) & (frame.position < 0)).any()


@given(frames(), RULES, st.integers(1, 5))
def test_a_row_in_chunks_selects_what_the_whole_row_does(frame, rule, size):
    """A KV cache hands over the same row in pieces."""
    texts = {t: torch.tensor([3]) for t in rule.texts}

    def part(position):
        completed = {**texts, **frame.completed}
        return Frame(frame.row, position, frame.prompt_length, frame.given_length, completed)

    whole = rule.select(part(frame.position))
    pieces = [rule.select(part(p)) for p in frame.position.split(size, dim=1)]
    assert torch.equal(torch.cat(pieces, dim=1), whole)


def test_a_mask_is_read_by_row_number_and_absolute_position():
    table = torch.tensor([[True, False, False], [False, False, True]])
    frame = Frame(
        row=torch.tensor([1, 0]),
        position=torch.tensor([[-1, 0, 1, 2, 3], [0, 1, 2, 3, 4]]),
        prompt_length=torch.tensor([4, 5]),
        given_length=torch.tensor([4, 5]),
    )
    found = mask(table).select(frame)
    assert found.tolist() == [[False, False, False, True, False], [True, False, False, False, False]]


# --- as text


@given(RULES)
def test_a_rule_reads_back_as_it_prints(rule):
    again = parse_positions(str(rule))
    assert again == rule
    assert hash(again) == hash(rule)


@pytest.mark.parametrize(
    "name",
    [
        "all",
        "prompt",
        "last_prompt",
        "generated",
        "response",
        "think",
        "step(3)",
        "steps(2, 5)",
        "first(2)",
        "last(2)",
    ],
)
def test_a_rule_prints_as_it_is_written(name):
    assert str(parse_positions(name)) == name


def test_operators_bind_as_in_python():
    assert parse_positions("all - prompt | last(2)") == (everything - prompt) | last(2)
    assert parse_positions("prompt | generated & step(1)") == prompt | (generated & step(1))
    assert parse_positions('after("x y") & generated') == after("x y") & generated


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("everything", "everything is not a selection"),
        ("prompt + generated", "prompt + generated is not a selection"),
        ("~prompt", "~prompt is not a selection"),
        ("last(2.0)", "last(2.0) has the wrong arguments"),
        ("last()", "last() has the wrong arguments"),
        ("step(True)", "step(True) has the wrong arguments"),
        ("last(n=2)", "last(n=2) is not a selection"),
        ("last(x)", "last(x) has the wrong arguments"),
        ("after(3)", "after(3) has the wrong arguments"),
        ("mask(3)", "mask(3) is not a selection"),
        ("__import__('os')", "__import__('os') is not a selection"),
        ("prompt |", "it is not an expression"),
        ("", "it is not an expression"),
        ("prompt\0", "it is not an expression"),
    ],
)
def test_what_is_no_rule_is_refused_with_the_names_that_are(text, why):
    with pytest.raises(
        InputError, match=re.escape(f"Cannot read {text!r} as positions: {why}. Names are all, ")
    ):
        parse_positions(text)


@given(st.text(alphabet="alprompt|&-()\"' 0123,step\n\\\0", max_size=30))
def test_any_text_is_read_or_refused(text):
    try:
        rule = parse_positions(text)
    except InputError:
        return
    assert parse_positions(str(rule)) == rule


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: first(0), r"first\(0\) selects nothing; pass 1 or more"),
        (lambda: last(0), r"last\(0\) selects nothing; pass 1 or more"),
        (lambda: step(-1), r"steps\(-1, 0\) selects nothing"),
        (lambda: steps(3, 3), r"steps\(3, 3\) selects nothing: steps count from 0"),
        (lambda: after(""), r'after\(""\) has nothing to look for'),
        (lambda: mask(torch.zeros(2, 3, dtype=torch.bool)), r"mask\(...\) selects nothing"),
        (lambda: parse_positions("steps(4, 2)"), r"steps\(4, 2\) selects nothing"),
    ],
)
def test_a_rule_that_can_select_nothing_is_refused_when_it_is_made(make, why):
    with pytest.raises(InputError, match=why):
        make()


def test_a_mask_with_too_few_rows_is_refused():
    frame = Frame(torch.tensor([2]), torch.arange(3)[None], torch.tensor([3]), torch.tensor([3]))
    with pytest.raises(
        InputError, match="mask has 2 rows and row 2 is running; pass one row of the mask for each"
    ):
        mask(torch.ones(2, 3, dtype=torch.bool)).select(frame)


def test_equal_rules_are_equal_values_and_masks_are_themselves():
    assert step(0) == last_prompt
    assert after("x") == after("x") != after("y")
    table = torch.ones(1, 1, dtype=torch.bool)
    assert mask(table) != mask(table)


# --- texts are found wherever the chunks fall


def places(text, line, decode, cuts):
    """Where a tracker finds ``text`` in a row that arrives in chunks cut at ``cuts``."""
    tracker, cache = Tracker([text], decode), DynamicCache()
    for a, b in pairwise([0, *sorted(set(cuts)), len(line)]):
        if a < b:
            tracker.frame((), {"input_ids": torch.tensor([line[a:b]]), "past_key_values": cache})
            keys = torch.zeros(1, 1, b - a, 1)
            cache.update(keys, keys, 0)
    return tracker.found[text].get(0)


@given(
    st.text(alphabet="ab é</think>", min_size=1, max_size=40),
    st.text(alphabet="ab é", min_size=1, max_size=4),
    st.data(),
)
def test_a_text_is_found_at_the_token_that_completes_it_however_the_row_is_cut(
    tokenizer_with, row, text, data
):
    tokenizer = tokenizer_with()
    line = tokenizer(row).input_ids
    cuts = data.draw(st.lists(st.integers(1, max(1, len(line) - 1))))
    slow = next((i for i in range(len(line)) if text in tokenizer.decode(line[: i + 1])), None)
    assert places(text, line, tokenizer.decode, cuts) == slow


def test_a_text_that_spans_tokens_and_chunks_is_found(tokenizer_with):
    tokenizer = tokenizer_with()
    line = tokenizer("so the cat").input_ids
    assert tokenizer.convert_ids_to_tokens(line) == ["s", "o", "Ġthe", "Ġ", "c", "a", "t"]
    for cuts in ([], [1], [2], [3], [1, 2, 3, 4, 5]):
        assert places("the c", line, tokenizer.decode, cuts) == 4
