"""A state survives its link, and whatever else is in a link is refused with a sentence."""

import base64
import contextlib
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analyses.play.link import MAX_LINK, from_link, to_link
from analyses.play.state import MAX_PROMPT, LatentEdit, State, VectorEdit
from hooks.errors import InputError

FULL = State(
    prompt='Wie viele "Beine"?\n\t長い $HOME `x` \\ \u202e',
    edits=(
        VectorEdit(vector="mood", layer=-1, dose=-0.25, on=False),
        LatentEdit(dictionary="words", latent=7, value=12.5),
        VectorEdit(vector="mood", layer=2, dose=1e-05),
    ),
    positions='generated - steps(0, 4) | after("so")',
    system="Be brief.",
    think=False,
    temperature=0.7,
    top_p=0.9,
    seed=2**31 - 1,
    max_new_tokens=1024,
)


@pytest.mark.parametrize(
    "state", [FULL, State(prompt=""), State(prompt="x" * MAX_PROMPT)], ids=["full", "empty", "long"]
)
def test_a_link_is_the_state(state):
    link = to_link(state)
    assert from_link(link) == state
    assert link.isascii()
    assert all(c.isalnum() or c in "-_" for c in link)
    assert len(link) <= MAX_LINK


def test_a_state_too_long_for_a_link_says_so():
    with pytest.raises(InputError, match="Shorten the prompt"):
        to_link(State(prompt="長" * MAX_PROMPT))


def packed(facts) -> str:
    return base64.urlsafe_b64encode(json.dumps(facts).encode()).decode().rstrip("=")


GOOD = {"v": 1, "prompt": "x"}
EDIT = {"vector": "mood", "layer": 1, "dose": 0.1}
BAD = {
    "too long": "A" * (MAX_LINK + 1),
    "no base64": "<script>alert(1)</script>",
    "not ascii": "é",
    "half": to_link(FULL)[:-9],
    "no utf-8": base64.urlsafe_b64encode(b"\xff\xfe\x00").decode(),
    "deep": base64.urlsafe_b64encode(b"[" * 9000).decode(),
    "a list": packed([1]),
    "a number": packed(3),
    "no version": packed({"prompt": "x"}),
    "another version": packed({**GOOD, "v": 2}),
    "a long version": packed({**GOOD, "v": "<b>" * 999}),
    "no prompt": packed({"v": 1}),
    "prompt of another kind": packed({**GOOD, "prompt": ["x"]}),
    "long prompt": packed({**GOOD, "prompt": "x" * (MAX_PROMPT + 1)}),
    "half a character": packed({**GOOD, "prompt": "\ud800"}),
    "a stranger's field": packed({**GOOD, "__class__": "os.system"}),
    "true as a number": packed({**GOOD, "seed": True}),
    "a fraction of a seed": packed({**GOOD, "seed": 1.5}),
    "a negative seed": packed({**GOOD, "seed": -1}),
    "infinite": base64.urlsafe_b64encode(b'{"v":1,"prompt":"x","temperature":Infinity}').decode(),
    "nan": base64.urlsafe_b64encode(b'{"v":1,"prompt":"x","temperature":NaN}').decode(),
    "overflow": base64.urlsafe_b64encode(b'{"v":1,"prompt":"x","temperature":1e999}').decode(),
    "a huge whole number": packed({**GOOD, "temperature": 10**400}),
    "a number of many digits": base64.urlsafe_b64encode(
        b'{"v":1,"prompt":"x","seed":' + b"9" * 5000 + b"}"
    ).decode(),
    "hot": packed({**GOOD, "temperature": 99}),
    "top_p of nothing": packed({**GOOD, "top_p": 0}),
    "a million tokens": packed({**GOOD, "max_new_tokens": 10**6}),
    "no positions": packed({**GOOD, "positions": "__import__('os')"}),
    "positions of a control character": packed({**GOOD, "positions": "generated\x00"}),
    "positions past all numbers": packed({**GOOD, "positions": "last(99999999999999999999999)"}),
    "nested positions": packed({**GOOD, "positions": "(" * 150}),
    "edits of another kind": packed({**GOOD, "edits": {"a": 1}}),
    "an edit of another kind": packed({**GOOD, "edits": [7]}),
    "an edit without a dose": packed({**GOOD, "edits": [{"vector": "mood", "layer": 1}]}),
    "two kinds in one": packed({**GOOD, "edits": [{**EDIT, "dictionary": "words"}]}),
    "a strong dose": packed({**GOOD, "edits": [{**EDIT, "dose": 1e9}]}),
    "a long name": packed({**GOOD, "edits": [{**EDIT, "vector": "x" * 999}]}),
    "many edits": packed({**GOOD, "edits": [EDIT] * 5}),
    "a latent below zero": packed({**GOOD, "edits": [{"dictionary": "words", "latent": -1, "value": 1.0}]}),
}


@pytest.mark.parametrize("link", BAD.values(), ids=BAD.keys())
def test_what_is_no_state_is_refused_with_a_sentence(link):
    with pytest.raises(InputError) as refused:
        from_link(link)
    assert 15 < len(str(refused.value)) < 500


def test_the_good_parts_of_those_are_good():
    """Else what is refused above could be refused for another reason."""
    state = from_link(packed({**GOOD, "edits": [EDIT], "seed": 3, "temperature": 1}))
    assert state == State(
        prompt="x", edits=(VectorEdit(vector="mood", layer=1, dose=0.1),), seed=3, temperature=1.0
    )


@settings(max_examples=40)
@given(st.text(max_size=80) | st.binary(max_size=80).map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
def test_no_text_makes_anything_but_a_state_or_that_error(link):
    with contextlib.suppress(InputError):
        assert isinstance(from_link(link), State)


def test_states_differ_where_their_links_do():
    links = {to_link(FULL), to_link(replace(FULL, think=None)), to_link(replace(FULL, think=True))}
    assert len(links) == 3
