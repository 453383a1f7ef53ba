"""A pair is a value: a prompt, and two responses that differ in the concept."""

from dataclasses import FrozenInstanceError

import pytest

from interp import Pair


def test_pairs_are_equal_by_what_they_hold_and_cannot_be_changed():
    pair = Pair("How many?", "3", "Well, let me see: 3")
    assert pair == Pair("How many?", "3", "Well, let me see: 3")
    assert pair != Pair("How many?", "Well, let me see: 3", "3"), "which pole is which matters"
    with pytest.raises(FrozenInstanceError):
        pair.prompt = "Who?"


def test_a_prompt_is_a_text_or_chat_turns():
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How many?"}]
    assert Pair(turns, "3", "three").prompt == turns
    assert Pair("", "two bare", "texts").prompt == ""
