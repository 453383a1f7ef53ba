"""Markers and flips, counted by hand."""

import re

import pytest

from hooks.errors import InputError
from interp.thinking import MARKERS, answer_trace, marked, markers


def last_number(text):
    found = re.findall(r"\d+", text)
    return found[-1] if found else None


def test_markers_are_what_a_count_by_hand_gives():
    text = "Wait, maybe it is 4. Let me check: I think\nso. Hmm, that’s wrong. Try again, another way."
    found = markers(text, 50)
    assert found.counts == {"hedge": 2, "restart": 2, "verification": 1, "backtracking": 3}
    assert found.per_100_tokens == {"hedge": 4, "restart": 4, "verification": 2, "backtracking": 6}


@pytest.mark.parametrize("text", ["", "The waiter rewaited.", "unconfirmed mights", "twelve and two are 14"])
def test_parts_of_words_are_no_markers(text):
    assert not any(markers(text, 10).counts.values())


def test_marked_places_are_the_words_that_are_counted():
    text = "Wait, maybe it is 4. Let me  check: I think\nso. Hmm, that’s wrong. Try again, another way."
    places = [(text[start:stop], kind) for start, stop, kind in marked(text)]
    assert places == [
        ("Wait", "backtracking"), ("maybe", "hedge"), ("Let me  check", "verification"),
        ("I think", "hedge"), ("Hmm", "backtracking"), ("that’s wrong", "backtracking"),
        ("Try again", "restart"), ("another way", "restart"),
    ]  # fmt: skip
    counts = markers(text, 1).counts
    assert counts == {kind: sum(k == kind for _, k in places) for kind in MARKERS}


def test_a_word_is_of_one_kind_and_every_word_is_found_once():
    words = [word for some in MARKERS.values() for word in some]
    assert len(set(words)) == len(words)
    for kind, some in MARKERS.items():
        for word in some:
            found = markers(f"so, {word.capitalize()}.", 1).counts
            assert found == {**dict.fromkeys(MARKERS, 0), kind: 1}, word


def test_flips_are_what_a_count_by_hand_gives():
    trace = answer_trace("We begin. So 3. Or 5? Then it is 5. No, 4. It is 5 again. So 7.", last_number, "5")
    assert trace.stated == (None, "3", "5", "5", "4", "5", "7")
    assert trace.changes == ("3", "5", "4", "5", "7")
    assert (trace.wrong_to_right, trace.right_to_wrong) == (2, 2)
    assert trace.first_right == 2
    assert trace.lost


@pytest.mark.parametrize(
    ("text", "first", "lost"),
    [("It is 5.", 0, False), ("It is 4. It is 6.", None, False), ("Nothing. At all.", None, False)],
)
def test_a_trace_that_does_not_flip(text, first, lost):
    trace = answer_trace(text, last_number, "5")
    assert (trace.first_right, trace.lost) == (first, lost)
    assert (trace.wrong_to_right, trace.right_to_wrong) == (0, 0)


def test_prefixes_end_with_sentences_and_an_answer_stays_until_another_is_stated():
    seen = []

    def read(prefix):
        seen.append(prefix)
        return "2" if prefix.endswith("two.") else None

    text = "It is two. That is 3.14 of it\nand the rest"
    trace = answer_trace(text, read, "2")
    assert seen == ["It is two.", "It is two. That is 3.14 of it", text]
    assert trace.stated == ("2", "2", "2")
    assert [text[:end] for end in trace.ends] == seen


def test_traces_of_nothing_are_refused():
    with pytest.raises(InputError, match="n_tokens=0: a rate needs"):
        markers("wait", 0)
    with pytest.raises(InputError, match="The trace is blank"):
        answer_trace(" \n", last_number, "5")
