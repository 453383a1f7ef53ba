"""The session's columns are hooks.generate's, its figures are what they say, and it frees the model."""

import itertools
import threading
from dataclasses import replace

import pytest

from analyses.play.session import STREAMS, Session, token_texts
from analyses.play.sources import Sources, load_sources
from analyses.play.state import LatentEdit, State, VectorEdit
from hooks import generate
from hooks.chat import prompt_row
from hooks.errors import InputError
from hooks.inject import open_injections
from interp.reread import reread

MOOD = VectorEdit(vector="mood", layer=1, dose=0.5)
LATENT = LatentEdit(dictionary="words", latent=3, value=30.0)
GREEDY = State(prompt="say it", edits=(MOOD,), max_new_tokens=12)
DRAWN = replace(GREEDY, edits=(MOOD, LATENT), temperature=1.2, top_p=0.9, seed=4, system="s", think=True)


@pytest.mark.parametrize(
    "state", [GREEDY, DRAWN, replace(GREEDY, edits=())], ids=["greedy", "drawn", "plain"]
)
def test_the_columns_are_those_of_generate_and_so_are_their_figures(session, played, sources, state):
    *_, view = session.play(state)
    edits = sources.edits(state)
    made = generate(
        played,
        [state.prompt] * 2,
        edits=[[], edits],
        max_new_tokens=state.max_new_tokens,
        temperature=state.temperature,
        top_p=state.top_p,
        seed=state.seed,
        system=state.system or None,
        think=state.think,
        streams=STREAMS,
    )
    assert view.phase == "done"
    assert view.message == ""
    assert [view.plain.text, view.steered.text] == made.texts
    assert [view.plain.n_tokens, view.steered.n_tokens] == [len(c.tokens) for c in made]
    assert view.plain.finish == made[0].finish
    row = prompt_row(played.tokenizer, state.prompt, system=state.system or None, think=state.think)
    assert view.kl_nats == pytest.approx(reread(played, row, made[0].tokens, made[1].tokens, edits).mean_kl)
    if edits:
        assert made[0].text != made[1].text
        assert view.kl_nats > 0.01
        assert str(made.receipt) in view.receipt
        assert "Checked" in view.receipt
    else:
        assert made[0].text == made[1].text
        assert view.kl_nats == 0
        assert "Nothing is edited" in view.receipt


def test_the_text_grows_until_it_is_done(session):
    views = list(session.play(replace(GREEDY, max_new_tokens=160)))
    phases = [phase for phase, _ in itertools.groupby(view.phase for view in views)]
    assert phases == ["answering", "reading", "done"]
    counts = [view.plain.n_tokens for view in views]
    assert counts == sorted(counts)
    assert len(set(counts)) > 3
    assert counts[-1] == 160
    assert all(v.plain.tokens_per_second > 0 for v in views if v.plain.n_tokens > 1)
    assert views[-1].first_token_s > 0


def test_tokens_are_coloured_by_their_projection_in_doses(session, sources):
    *_, view = session.play(GREEDY)
    direction = sources.direction(GREEDY)
    assert (str(direction.site), direction.unit) == ("blocks.1.hook_resid_post", 20.0)
    for column in (view.plain, view.steered):
        assert "".join(piece.text for piece in column.pieces) == column.text
        assert len(column.pieces) == column.n_tokens
    assert view.scale.middle == pytest.approx(
        sum(p.projection for p in view.plain.pieces) / view.plain.n_tokens
    )
    far = [abs(p.projection - view.scale.middle) for p in (*view.plain.pieces, *view.steered.pieces)]
    assert view.scale.reach == pytest.approx(sorted(far)[-1], rel=0.2)


def test_closing_frees_the_model_at_once(session, played, hook_count):
    before = hook_count(played.model)
    views = session.play(replace(GREEDY, max_new_tokens=1000))
    while next(views).plain.n_tokens < 2:
        pass
    assert session.busy
    assert hook_count(played.model) > before
    views.close()
    assert not session.busy
    assert hook_count(played.model) == before
    assert open_injections(played) == []


def test_dropping_the_iterator_frees_the_model(session):
    views = session.play(replace(GREEDY, max_new_tokens=1000))
    while not next(views).plain.n_tokens:
        pass
    assert session.busy
    del views
    assert not session.busy


def test_who_asks_while_the_model_is_busy_is_told_to_wait_and_then_gets_its_own(session):
    first, second = session.play(replace(GREEDY, max_new_tokens=60)), session.play(replace(GREEDY, edits=()))
    assert next(first).phase == "answering"
    assert [next(second).phase for _ in range(2)] == ["waiting", "waiting"]
    *_, done = first
    assert done.plain.n_tokens == 60
    *_, other = second
    assert other.phase == "done"
    assert other.plain.n_tokens == 12


def test_two_threads_never_run_the_model_at_once(session):
    views: list[list] = [[], []]
    threads = [
        threading.Thread(target=lambda kept=kept, state=state: kept.extend(session.play(state)))
        for kept, state in zip(views, (GREEDY, replace(DRAWN, max_new_tokens=40)), strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for kept, state in zip(views, (GREEDY, replace(DRAWN, max_new_tokens=40)), strict=True):
        *_, alone = session.play(state)
        assert (kept[-1].plain.text, kept[-1].steered.text) == (alone.plain.text, alone.steered.text)


def test_both_columns_draw_the_same_numbers(session):
    *_, view = session.play(replace(GREEDY, edits=(replace(MOOD, on=False),), temperature=1.5))
    assert view.plain.text == view.steered.text


REFUSED = {
    "no prompt": (replace(GREEDY, prompt=" \n"), "no prompt"),
    "too long": (replace(GREEDY, prompt="x" * 4000, max_new_tokens=1024), "takes 4096 together"),
    "another vector": (replace(GREEDY, edits=(replace(MOOD, vector="<b>"),)), "not given the vector '<b>'"),
    "another dictionary": (replace(GREEDY, edits=(replace(LATENT, dictionary="x"),)), "--dictionary"),
    "no such layer": (replace(GREEDY, edits=(replace(MOOD, layer=99),)), "No vector at layer 99"),
    "no such latent": (replace(GREEDY, edits=(replace(LATENT, latent=999),)), "the dictionary has 0..47"),
    "positions that never come": (replace(GREEDY, positions="think"), "none of the"),
}


@pytest.mark.parametrize(("state", "why"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_is_said_and_the_model_is_free(session, played, hook_count, state, why):
    before = hook_count(played.model)
    *_, view = session.play(state)
    assert view.phase == "refused"
    assert why in view.message
    assert not session.busy
    assert hook_count(played.model) == before


def test_without_sources_it_answers_plain(played):
    *_, view = Session(played, Sources({}, {})).play(State(prompt="say it", max_new_tokens=5))
    assert view.phase == "done"
    assert view.plain.text == view.steered.text
    assert view.scale is None


def test_sources_are_named_once_each_and_begin_where_they_recommend(played, given):
    twice = load_sources(played, [str(given.vector)] * 2, [str(given.dictionary)])
    assert twice.names == ["mood", "mood (2)", "words"]
    assert twice.start("mood (2)") == VectorEdit(vector="mood (2)", layer=1, dose=0.5)
    assert isinstance(twice.start("words"), LatentEdit)
    with pytest.raises(InputError, match="nowhere"):
        load_sources(played, [], ["nowhere"])


@pytest.mark.parametrize(
    "text", ["plain words", "é" * 7 + " a\n b", "<think>\n é</think> so", "  two  spaces "]
)
def test_token_texts_join_to_the_text(llama, text):
    ids = llama.tokenizer(text, add_special_tokens=False).input_ids
    texts = token_texts(llama.tokenizer, ids)
    assert len(texts) == len(ids)
    assert "".join(texts) == llama.tokenizer.decode(ids, skip_special_tokens=True)


def test_the_first_bytes_of_a_character_have_no_text_of_their_own(llama):
    ids = llama.tokenizer("aé", add_special_tokens=False).input_ids
    assert token_texts(llama.tokenizer, ids) == ["a", "", "é"]
