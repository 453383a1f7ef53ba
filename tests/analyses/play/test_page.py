"""The page in a real browser: one server, one browser, and a watch over every request that either makes."""

import ast
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from analyses.play.link import PARAMETER, to_link
from analyses.play.session import View
from analyses.play.state import LatentEdit, State, VectorEdit
from tests.analyses.play.conftest import PROMPT, SAMPLED, SHOWN, Given

pytest.importorskip("gradio", reason="the page is made with Gradio: pip install -e '.[play]'")
playwright = pytest.importorskip("playwright.sync_api", reason="Playwright drives the browser: make setup")
CHROMIUM = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; name one in $CHROMIUM"),
]

ROOT = Path(__file__).parents[3]
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--no-first-run"),
)
WATCHED = """
import sys
log = open(sys.argv[1], "a", buffering=1)
def watch(event, args):
    if event == "socket.connect":
        log.write(repr(args[1]) + "\\n")
    elif event == "socket.getaddrinfo":
        log.write(repr(args[:2]) + "\\n")
sys.addaudithook(watch)
from analyses.cli import main
raise SystemExit(main(["play", *sys.argv[2:]]))
"""
"""The command, with every address that it connects to or looks up written down."""

NAMELESS = """[...document.querySelectorAll("input, textarea, button")].filter(n => n.offsetParent !== null
    && !n.labels?.length && !n.ariaLabel && !n.title && !n.textContent.trim()).map(n => n.outerHTML)"""
"""Controls that can be seen and have no name for a screen reader."""

LONG = State(prompt=PROMPT, max_new_tokens=1024)
MOOD = VectorEdit(vector="mood", layer=1, dose=0.5)


def shown(text: str) -> str:
    """As the page shows it."""
    return text.replace("\x1b", "\u241b")


def columns_of(view: View) -> tuple[str, str]:
    return view.plain.text, view.steered.text


class Server:
    """The command in a process of its own."""

    def __init__(self, given: Given, home: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url, self.connections, self.output = (
            f"http://127.0.0.1:{self.port}/",
            home / "net",
            home / "said",
        )
        with self.output.open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-c", WATCHED, self.connections, *given.arguments, "--port", str(self.port)],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        while "page is at" not in self.output.read_text():
            assert self.process.poll() is None, self.output.read_text()
            time.sleep(0.2)

    def get(self, path: str, **headers: str) -> tuple[int, str, dict[str, str]]:
        request = urllib.request.Request(self.url.rstrip("/") + path, headers=headers)
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.status, answer.read().decode(), dict(answer.headers)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode(), dict(error.headers)


@pytest.fixture(scope="module")
def server(given: Given, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(given, tmp_path_factory.mktemp("server"))
    yield server
    server.process.terminate()
    server.process.wait()


@pytest.fixture(scope="module")
def browser() -> Iterator["playwright.Browser"]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        browser.close()


class Tab:
    """One tab, and what a reader sees in it."""

    def __init__(self, page: "playwright.Page", server: Server, state: State | None) -> None:
        self.page = page
        self.requests: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on(
            "console", lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None
        )
        page.goto(server.url + ("" if state is None else f"?{PARAMETER}={to_link(state)}"))
        page.wait_for_selector("#play-generate")
        self.until("Ready" if state is None else "Opened from a link")

    def text(self, column: str) -> str:
        return self.page.text_content(f"#play-{column} .play-text") or ""

    def n_tokens(self, column: str) -> int:
        return int((self.page.text_content(f"#play-{column} .play-figures") or "").split()[0])

    @property
    def status(self) -> str:
        return self.page.text_content("#play-status") or ""

    def until(self, said: str) -> None:
        self.page.wait_for_function(
            "said => document.querySelector('#play-status')?.textContent.includes(said)", arg=said
        )

    def generate(self) -> tuple[str, str]:
        self.page.click("#play-generate")
        self.until("Done.")
        return self.text("plain"), self.text("steered")


@pytest.fixture
def tab(browser, server) -> Iterator[Callable[..., Tab]]:
    """Opens tabs; after the test, none has complained, and none has asked anybody but the server."""
    tabs: list[Tab] = []

    def opened(state: State | None = None, **options) -> Tab:
        context = browser.new_context(**options)
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        tabs.append(Tab(context.new_page(), server, state))
        return tabs[-1]

    yield opened
    for tab in tabs:
        assert tab.complaints == []
        assert {urlsplit(url).netloc for url in tab.requests} == {f"127.0.0.1:{server.port}"}
        tab.page.context.close()


def test_it_answers_in_two_columns_that_are_the_sessions(tab, session):
    opened = tab()
    assert "mood, words" in opened.page.text_content(".play-header")
    opened.page.fill("#play-prompt textarea", PROMPT)
    opened.page.fill("#play-new-tokens input[type=number]", "24")
    said = opened.generate()
    *_, view = session.play(State(prompt=PROMPT, edits=(MOOD,), max_new_tokens=24))
    assert said == tuple(map(shown, columns_of(view)))
    assert opened.n_tokens("steered") == 24
    told = opened.page.text_content("#play-steered")
    assert f"KL {view.kl_nats:.3f} nats" in told
    assert view.receipt in told
    assert opened.page.locator(".play-token").count() > 30
    opened.page.fill("#play-dose-0 input[type=number]", "-1.2")
    again = opened.generate()
    assert again[0] == said[0]
    assert again[1] != said[1], "the slider moves the right column, and not the left"


def test_the_text_grows_and_stop_ends_it_and_frees_the_model(tab):
    opened = tab(replace(LONG, edits=(MOOD,)))
    opened.page.click("#play-generate")
    seen: list[int] = []
    while len(seen) < 3:
        if (n := opened.n_tokens("plain")) and n not in seen:
            assert "Answering" in opened.status
            seen.append(n)
    assert seen == sorted(seen)
    with opened.page.expect_response(lambda response: response.url.endswith("/cancel")):
        opened.page.keyboard.press("Escape")
    opened.until("Stopped")
    kept = opened.n_tokens("plain")
    opened.page.fill("#play-new-tokens input[type=number]", "3")
    assert kept < 1024, "it had ended before it was stopped"
    opened.generate()
    assert opened.n_tokens("plain") == 3


def test_tabs_wait_for_each_other_and_do_not_mix(tab, session):
    states = [State(prompt=PROMPT, edits=(MOOD,), max_new_tokens=200), State(prompt="x", max_new_tokens=9)]
    first, second = map(tab, states)
    first.page.click("#play-generate")
    first.until("Answering")
    second.page.click("#play-generate")
    second.until("Waiting")
    for opened, state in zip((first, second), states, strict=True):
        opened.until("Done.")
        *_, view = session.play(state)
        assert (opened.text("plain"), opened.text("steered")) == tuple(map(shown, columns_of(view)))


def test_a_closed_tab_frees_the_model(tab):
    long, short = tab(LONG), tab(replace(LONG, max_new_tokens=2))
    began = time.monotonic()
    long.page.click("#play-generate")
    while (n := long.n_tokens("plain")) < 2:
        pass
    left = (time.monotonic() - began) / n * (1024 - n)
    began = time.monotonic()
    long.page.close()
    short.generate()
    assert time.monotonic() - began < left / 2, "it waited until the closed tab's answer was whole"


def test_hostile_words_are_text(tab):
    opened = tab(SAMPLED)
    plain, steered = opened.generate()
    for words in SHOWN:
        assert words in plain
        assert words in steered
    assert opened.page.locator(".play-text").locator("img, script, b, i, a").count() == 0
    assert opened.page.evaluate("window.pwned") is None


def test_a_link_opens_as_the_state_that_it_was_copied_from(tab, server):
    state = State(
        prompt='é <b>\n"it"',
        edits=(replace(MOOD, on=False, dose=-0.3), LatentEdit(dictionary="words", latent=5, value=9.5)),
        positions="generated - step(0)",
        system="s",
        think=True,
        temperature=0.5,
        top_p=0.75,
        seed=6,
        max_new_tokens=7,
    )
    opened = tab(state)
    assert opened.page.input_value("#play-prompt textarea") == state.prompt
    assert not opened.page.is_checked("#play-on-0 input")
    assert opened.page.is_visible("#play-latent-1")
    assert not opened.page.is_visible("#play-dose-1")
    opened.page.click("#play-link")
    opened.until("The link is copied")
    opened.page.wait_for_function(
        "link => location.href === link", arg=f"{server.url}?{PARAMETER}={to_link(state)}"
    )
    assert opened.page.evaluate("navigator.clipboard.readText()") == opened.page.url
    opened.generate()
    opened.page.click("text=The same, as code")
    opened.page.click("#play-copy-python")
    python = opened.page.evaluate("navigator.clipboard.readText()")
    assert repr(state.prompt) in python
    ast.parse(python)
    opened.page.click("text=Gallery, kept in this browser")
    opened.page.fill("#play-name input, #play-name textarea", "<i>mine</i>")
    opened.page.click("#play-save")
    opened.until("Saved as <i>mine</i>")
    opened.page.goto(server.url)
    opened.page.click("text=Gallery, kept in this browser")
    opened.page.click("text=<i>mine</i>")
    opened.until("Opened from a link")
    assert opened.page.input_value("#play-prompt textarea") == state.prompt


@pytest.mark.parametrize(
    ("link", "why"),
    [
        ("<script>window.pwned=1</script>", "damaged"),
        ("A" * 20_000, "20000 characters long"),
        (
            to_link(State(prompt="x", edits=(replace(MOOD, vector="theirs"),))),
            "not given the vector 'theirs'",
        ),
    ],
)
def test_a_link_that_is_no_state_is_refused_in_words(tab, server, link, why):
    opened = tab()
    opened.page.goto(f"{server.url}?{PARAMETER}={link}")
    opened.until(why)
    assert opened.page.evaluate("window.pwned") is None
    assert "Traceback" not in server.output.read_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_works_by_keyboard_alone_at_800_pixels(tab, scheme):
    opened = tab(viewport={"width": 800, "height": 900}, color_scheme=scheme)
    press, active = opened.page.keyboard.press, "document.activeElement.closest('[id^=play-]')?.id"
    order: list[str] = []
    while len(order) < 10:
        press("Tab")
        at = opened.page.evaluate(active)
        if at and at not in order:
            order.append(at)
        if at == "play-prompt":
            press("Control+a")
            opened.page.keyboard.type(PROMPT)
    assert order[:6] == [f"play-{n}" for n in ("prompt", "generate", "stop", "link", "plain", "steered")]
    press("Control+Enter")
    opened.until("Done.")
    opened.page.focus("#play-steered .play-text")
    press("ArrowRight")
    press("ArrowRight")
    assert "token 1:" in opened.page.text_content(".play-readout")
    assert opened.page.evaluate(NAMELESS) == []
    assert opened.page.evaluate("document.scrollingElement.scrollWidth") <= 800
    background = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 24, 29)")


def test_the_server_speaks_to_nobody_and_answers_only_to_its_name(server, tmp_path):
    status, _page, headers = server.get("/")
    assert status == 200
    assert "connect-src 'self'" in headers["content-security-policy"]
    assert server.get("/", Host="attacker.example")[0] == 400, "a rebound name would read the page"
    secret = tmp_path / "secret"
    secret.write_text("s")
    assert server.get(f"/gradio_api/file={secret}")[0] == 403
    assert server.get("/gradio_api/proxy=https://example.com/")[0] >= 400
    info = server.get("/gradio_api/info")[1]
    assert '"named_endpoints":{}' in info.replace(" ", "")
    told = [ast.literal_eval(line) for line in server.connections.read_text().splitlines()]
    hosts = {address[0] for address in told if isinstance(address, tuple)}
    assert hosts
    assert hosts <= {"127.0.0.1", "localhost", "::1", None}
    assert "Traceback" not in server.output.read_text()
    assert "warning" not in server.output.read_text()
