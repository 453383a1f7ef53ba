"""Whatever a model says is text on the page."""

from html.parser import HTMLParser

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from analyses.play import markup
from analyses.play.session import Column, Piece, Scale, View
from analyses.play.sources import Direction
from analyses.play.state import State
from hooks.sites import Site
from tests.analyses.play.conftest import HOSTILE


class Parsed(HTMLParser):
    """The tags of some HTML, and its text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[str] = []
        self.said = ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attributes]

    def handle_data(self, data):
        self.said += data


def scale(name: str) -> Scale:
    return Scale(Direction(name, Site(1, "resid_post"), torch.ones(2), 1.0, "doses"), 0.0, 1.0)


def everything(text: str) -> str:
    """All that the page can show, with ``text`` wherever somebody else's words may stand."""
    whole = Column(text, 3, 10.0, "length", (Piece(text, 0.7), Piece("", 0.1), Piece(text, -2.0)))
    growing = Column(text, 3, 10.0)
    views = [
        View("answering", growing, growing),
        View("done", whole, whole, "", 0.1, 0.2, text, scale(text)),
        View("done", whole, whole, text),
        View("refused", message=text),
    ]
    parts = [part(view) for view in views for part in (markup.plain, markup.steered, markup.status)]
    parts += [
        markup.legend(scale(text)),
        markup.code(text, text, ""),
        markup.code(text, "", text),
        markup.notice(text),
    ]
    return "".join(
        [*parts, markup.gallery([(text, "AAAA", State(prompt=text))]), markup.header(text, 3, [text])]
    )


BENIGN = Parsed(everything("benign"))


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_words_add_no_tag_and_no_attribute(text):
    made = everything(text)
    parsed = Parsed(made)
    assert (parsed.tags, parsed.attributes) == (BENIGN.tags, BENIGN.attributes)
    assert parsed.said.count(text.replace("\x1b", "\u241b")) >= 10
    assert "\x1b" not in made
    assert "${" not in made
    assert "{{" not in made


@given(st.text(min_size=1, max_size=30))
def test_no_text_adds_a_tag(text):
    parsed = Parsed(markup.text(text))
    assert parsed.tags == []
    if text.isprintable():
        assert parsed.said == text


def test_controls_and_turns_of_direction_are_shown():
    assert markup.text("a\x1b[31m\u202eb\x00\tc\n") == "a\u241b[31m\u27e8U+202E\u27e9b\u2400\tc\n"


def test_a_token_is_coloured_by_its_side_and_its_distance():
    column = Column("ab", 2, 1.0, "stop", (Piece("a", 0.25), Piece("b", -3.0)))
    made = markup.plain(View("done", column, column, scale=scale("x")))
    assert 'play-token plus" tabindex="-1" style="--w:25%" title="token 0: +0.250">a<' in made
    assert 'play-token minus" tabindex="-1" style="--w:100%" title="token 1: -3.000">b<' in made
