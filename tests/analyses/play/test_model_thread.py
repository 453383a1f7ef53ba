"""All that torch computes for the page is computed on one thread."""

import threading

import pytest

from analyses.play.model_thread import ModelThread
from analyses.play.session import Session
from analyses.play.state import State, VectorEdit
from hooks import generate
from hooks.decode import Decoder

STATE = State(prompt="say it", edits=(VectorEdit(vector="mood", layer=1, dose=0.5),), max_new_tokens=9)


def test_items_are_made_there_one_after_another_and_errors_come_out():
    thread, here = ModelThread(), threading.get_ident()
    where = {thread.call(threading.get_ident)}

    def items():
        for n in range(3):
            where.add(threading.get_ident())
            yield n
        raise ValueError("the last one")

    made = []
    with pytest.raises(ValueError, match="the last one"):
        made.extend(thread.iterate(items))
    assert made == [0, 1, 2]
    assert len(where) == 1
    assert here not in where


def test_what_is_dropped_is_closed_there():
    thread, closed = ModelThread(), []

    def items():
        try:
            yield 1
            yield 2
        finally:
            closed.append(threading.get_ident())

    steps = thread.iterate(items)
    assert next(steps) == 1
    steps.close()
    assert closed == [thread.call(threading.get_ident)]


def test_a_session_with_a_thread_computes_on_no_other_and_says_the_same(played, sources, monkeypatch):
    thread, computed, step = ModelThread(), set(), Decoder._step

    def noted(self):
        computed.add(threading.get_ident())
        return step(self)

    monkeypatch.setattr(Decoder, "_step", noted)
    *_, view = Session(played, sources, thread).play(STATE)
    assert computed == {thread.call(threading.get_ident)}
    *_, same = Session(played, sources).play(STATE)
    assert (view.plain.text, view.steered.text, view.kl_nats) == (
        same.plain.text,
        same.steered.text,
        same.kl_nats,
    )
    edits = sources.edits(STATE)
    made = generate(played, [STATE.prompt] * 2, edits=[[], list(edits)], max_new_tokens=9, streams=[0, 0])
    assert made.texts == [view.plain.text, view.steered.text]


def test_an_answer_that_is_dropped_frees_the_model_and_its_thread(played, sources, hook_count):
    session = Session(played, sources, ModelThread())
    before = hook_count(played.model)
    views = session.play(STATE)
    next(views)
    views.close()
    assert not session.busy
    assert hook_count(played.model) == before
    *_, view = session.play(STATE)
    assert view.phase == "done"
