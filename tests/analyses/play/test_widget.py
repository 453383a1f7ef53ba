"""The widget shows what the session says, hears Stop, and refuses in words."""

import pytest

pytest.importorskip("ipywidgets", reason="the widget is made with ipywidgets: pip install -e '.[widgets]'")

from analyses.play.state import State, VectorEdit
from analyses.play.widget import play
from hooks.errors import InputError
from interp.steering_vector import SteeringVector
from tests.analyses.play.conftest import HOSTILE, PROMPT


@pytest.fixture
def widget(played, given):
    vectors = {"<b>mood": SteeringVector.load(given.vector, played)}
    return play(played, vectors, prompt=PROMPT, max_new_tokens=8)


def test_it_shows_the_columns_of_the_session(widget, session):
    *_, view = session.play(
        State(prompt=PROMPT, edits=(VectorEdit(vector="mood", layer=1, dose=0.5),), max_new_tokens=8)
    )
    assert widget.run().phase == "done"
    assert (widget.view.plain.text, widget.view.steered.text) == (view.plain.text, view.steered.text)
    assert f"KL {view.kl_nats:.3f} nats" in widget._steered.value
    assert 'class="play-token' in widget._plain.value


def test_a_control_changes_the_right_column_alone(widget):
    before = widget.run()
    widget.dose.value = -1.0
    after = widget.run()
    assert after.plain.text == before.plain.text
    assert after.steered.text != before.steered.text


def test_a_click_answers_and_stop_is_heard(widget):
    widget.generate.click()
    widget.wait()
    assert widget.view.plain.n_tokens == 8
    widget.new_tokens.value = 1000
    widget.generate.click()
    while not widget.session.busy:
        pass
    widget.stop.click()
    widget.wait()
    assert widget.view.message.startswith("Stopped")
    assert widget.view.plain.n_tokens < 1000
    assert not widget.session.busy


def test_hostile_words_are_text(widget):
    widget.temperature.value, widget.seed.value, widget.new_tokens.value = 1.0, 1, 60
    shown = widget.run()
    assert all(words in shown.plain.text for words in HOSTILE), "else this shows nothing"
    for part in (widget._plain, widget._steered, widget._legend):
        assert "<img" not in part.value
        assert "<script" not in part.value
        assert "<b>b" not in part.value
        assert "<b>mood" not in part.value


def test_what_cannot_be_is_said(widget, played):
    widget.positions.value = "somewhere"
    assert "Cannot read" in widget.run().message
    with pytest.raises(InputError, match="nothing to add"):
        play(played, {}, prompt="x")
