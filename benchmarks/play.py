"""The page: when its first token is there, and how long an answer takes, beside ``generate``.

Two rows in one batch, plain and steered, from the prompt to the last token; what is read of them afterwards,
KL and colours, is left out. In the browser both are counted from the click, and ended by what is on screen.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analyses.play import markup
from analyses.play.link import PARAMETER, to_link
from analyses.play.session import STREAMS, Session
from analyses.play.sources import load_sources
from analyses.play.state import State, VectorEdit
from benchmarks.inputs import a_vector
from benchmarks.peers import Absent, require, unless_absent
from benchmarks.result import Aim, Result, Table, entries_of
from benchmarks.timing import Timing
from hooks import LanguageModel, generate
from hooks.stream import stream

FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")
SHOWN = "() => parseInt(document.querySelector('#play-plain .play-figures')?.textContent) > 0"
ENDED = "() => /Reading|Done/.test(document.querySelector('#play-status').textContent)"

Times = tuple[float, float]
"""Seconds to the first token, and to the last."""


@dataclass(frozen=True)
class Size:
    """How much is run."""

    new_tokens: int = 64
    repeats: int = 5


QUICK = Size(new_tokens=4, repeats=1)


def run(lm: LanguageModel, *, quick: bool = False) -> Result:
    """In turn, one round forwards and the next backwards, after one that warms up."""
    size = QUICK if quick else Size()
    absent: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        file = a_vector(lm).save(Path(folder) / "vector.safetensors")
        sources = load_sources(lm, [str(file)], [])
        layer = sources.vectors["vector"].vector.layers[lm.n_layers // 2]
        edit = VectorEdit(vector="vector", layer=layer, dose=0.1)
        state = State(prompt="Explain why the sky is blue.", edits=(edit,), max_new_tokens=size.new_tokens)
        ways = {
            "generate": lambda: _generated(lm, sources.edits(state), state),
            "the page's session": lambda: _played(Session(lm, sources), state),
        }
        seconds: dict[str, list[Times]] = {name: [] for name in ways}
        with unless_absent("the page in Chromium", absent), _browser(lm, file) as browser:
            seconds["the page in Chromium"] = []
            _rounds({**ways, "the page in Chromium": lambda: _clicked(browser, state)}, seconds, size.repeats)
        if absent:
            _rounds(ways, seconds, size.repeats)
    first, last = (
        {name: Timing(tuple(times[which] for times in all_of)) for name, all_of in seconds.items()}
        for which in (0, 1)
    )
    setting = f"2 rows, plain and steered; the unedited answer may end before {size.new_tokens} tokens."
    ratio = last["the page's session"].median / last["generate"].median
    return Result(
        tables=(
            Table("To the first token", setting, entries_of(first, absent)),
            Table(
                "To the last token",
                setting,
                entries_of(last, absent),
                (Aim("the page's session over generate", ratio, 1.1),),
            ),
        ),
        facts={"page_over_generate": ratio},
    )


def _rounds(ways: Any, seconds: dict[str, list[Times]], repeats: int) -> None:
    for way in ways.values():
        way()
    for number in range(repeats):
        for name in list(ways) if number % 2 == 0 else reversed(list(ways)):
            seconds[name].append(ways[name]())


def _generated(lm: LanguageModel, edits: Any, state: State) -> Times:
    """``generate``; its first token from a second run, which stops there."""
    asked: dict[str, Any] = {
        "prompts": [state.prompt] * 2,
        "edits": [[], list(edits)],
        "max_new_tokens": state.max_new_tokens,
        "streams": list(STREAMS),
    }
    began = time.perf_counter()
    generate(lm, **asked)
    last = time.perf_counter() - began
    began = time.perf_counter()
    with stream(lm, **asked) as steps:
        next(steps)
    return time.perf_counter() - began, last


def _played(session: Session, state: State) -> Times:
    """The session and its HTML, as the server makes them."""
    began = time.perf_counter()
    first = None
    for view in session.play(state):
        markup.plain(view), markup.steered(view), markup.status(view)
        now = time.perf_counter() - began
        if first is None and view.plain.n_tokens:
            first = now
        if view.phase == "reading":
            assert first is not None
            return first, now
    raise AssertionError(f"The session ended without an answer: {view.message}")


def _clicked(page: Any, state: State) -> Times:
    """From the click to what is on screen."""
    page.goto(f"{page.url.partition('?')[0]}?{PARAMETER}={to_link(state)}")
    page.get_by_text("Opened from a link").wait_for()
    assert not page.evaluate(SHOWN), "the page shows an answer before it was asked for one"
    began = time.perf_counter()
    page.click("#play-generate")
    page.wait_for_function(SHOWN)
    first = time.perf_counter() - began
    page.wait_for_function(ENDED)
    last = time.perf_counter() - began
    page.get_by_text("Done").first.wait_for()
    return first, last


@contextmanager
def _browser(lm: LanguageModel, vector: Path) -> Iterator[Any]:
    """A tab of the page, which a process of its own serves.

    Raises:
        Absent: without Gradio, Playwright or Chromium.
    """
    require("gradio")
    require("playwright")
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if chromium is None:
        raise Absent("no Chromium here; name one in $CHROMIUM")
    from playwright.sync_api import sync_playwright

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "analyses.cli", "play", lm.name, "--vector", str(vector), "--port", port]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        said = ""
        while "page is at" not in said:
            line = server.stderr.readline()
            if not line:
                raise Absent(f"the page did not start: {said.strip()}")
            said += line
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=chromium, args=list(FLAGS))
            page = browser.new_page()
            page.goto(f"http://127.0.0.1:{port}/")
            page.wait_for_selector("#play-generate")
            yield page
            browser.close()
    finally:
        server.terminate()
        server.wait()
