"""The copied Python and the copied command say what is on screen."""

import contextlib
import io
import runpy
import shlex
from dataclasses import replace

import pytest

from analyses import cli, steer
from analyses.play.copied import as_command, as_python
from analyses.play.state import LatentEdit, State, VectorEdit
from hooks.errors import InputError

MOOD = VectorEdit(vector="mood", layer=-1, dose=-0.5)
LATENT = LatentEdit(dictionary="words", latent=3, value=30.0)
PROMPT = "say\n\"it\" 'now' \\ $(touch x) `y` é"
STATES = {
    "a vector": State(prompt=PROMPT, edits=(MOOD,), max_new_tokens=9, think=False),
    "several, drawn": State(
        prompt="-say it",
        edits=(MOOD, LATENT, replace(MOOD, layer=0, on=False), replace(MOOD, layer=0)),
        positions="steps(0, 5) | last(2)",
        max_new_tokens=9,
        temperature=1.1,
        top_p=0.8,
        seed=3,
        system='It\'s "so"',
        think=True,
    ),
    "nothing": State(prompt="say it", max_new_tokens=6, edits=(replace(MOOD, on=False),)),
}


@pytest.mark.parametrize("state", STATES.values(), ids=STATES.keys())
def test_the_python_runs_and_prints_the_same(session, sources, played, tmp_path, state):
    *_, view = session.play(state)
    script = tmp_path / "copied.py"
    script.write_text(as_python(state, sources, played.name), "utf-8")
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        runpy.run_path(str(script))
    assert said.getvalue() == f"{view.plain.text}\n---\n{view.steered.text}\n"


@pytest.mark.parametrize(
    "state",
    [
        STATES["a vector"],
        State(prompt="-x", edits=(replace(MOOD, dose=0.5),), temperature=0.9, seed=2, max_new_tokens=9),
    ],
    ids=["greedy", "drawn"],
)
def test_the_command_runs_and_shows_the_same(session, sources, played, monkeypatch, state):
    *_, view = session.play(state)
    shown = []
    monkeypatch.setattr(steer, "show", lambda result, _console: shown.append(result))
    name, *arguments = shlex.split(as_command(state, sources, played.name))
    assert name == "unlatch"
    assert cli.main(arguments) == 0
    assert (shown[0].plain.text, shown[0].steered.text) == (view.plain.text, view.steered.text)


@pytest.mark.parametrize(
    ("state", "why"),
    [
        (STATES["several, drawn"], "exactly one vector"),
        (STATES["nothing"], "exactly one vector"),
        (State(prompt="x", edits=(LATENT,)), "exactly one vector"),
        (replace(STATES["a vector"], system="s"), "no system prompt"),
    ],
)
def test_what_no_command_can_say_is_said(sources, state, why):
    with pytest.raises(InputError, match=why):
        as_command(state, sources, "model")
