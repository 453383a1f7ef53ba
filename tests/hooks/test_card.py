"""No text breaks a card, and a push keeps all that people wrote in it."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from hooks.card import (
    BUNDLED_ON_HUB,
    base_model,
    code,
    fenced,
    front_matter,
    number,
    shown_name,
    with_section,
)
from hooks.errors import InputError
from hooks.gguf import BUNDLED

FRONT = front_matter(("unlatch", "x"), "Qwen/Qwen3-0.6B", "mit")
HOSTILE = (
    *(
        "`",
        "``",
        "```\n",
        "|",
        "\\",
        "<script>alert(1)</script>",
        "-->",
        "<!--",
        "&lt;",
        "é",
        " ",
        "$$",
        "**",
        "_",
    ),
    *("\n<!-- unlatch:end v -->\n", "[x](javascript:1)", "![](http://127.0.0.1/x)", "\n# h\n", "\n---\n"),
    *("\u202e", "\x00", "\r\n", "<img src=x onerror=1>", "~~~\n", "http://a.b", "a@b.c", "\n\n    code"),
    *("1. ", "\n> "),
)
hostile = st.lists(st.sampled_from(HOSTILE) | st.text(max_size=4), max_size=8).map("".join)


def structure(markdown):
    """The kinds of tokens, by an independent parser of Markdown with HTML and tables."""
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(markdown)
    return [(t.type, [c.type for c in t.children] if t.children else None) for t in tokens]


# --- text that is not ours


@given(hostile)
def test_code_is_one_token_whatever_is_in_it(text):
    assert structure(f"x {code(text)} y") == structure("x `a` y")


@given(hostile)
def test_a_fence_holds_whatever_is_in_it(text):
    assert structure(f"x\n\n{fenced(text, 'json')}\n\ny") == structure("x\n\n```json\na\n```\n\ny")


@given(hostile | st.floats() | st.integers() | st.none() | st.booleans())
def test_a_cell_stays_a_cell(value):
    table = "| a | b |\n| --- | ---: |\n| x | {} |\n"
    inside = structure(table.format(number(value)))
    assert [kind for kind, _ in inside] == [kind for kind, _ in structure(table.format("1"))]
    assert {kind for _, kinds in inside for kind in kinds or ()} <= {"text", "code_inline"}


def test_text_put_in_as_it_is_would_break_all_three():
    assert structure("x `` ` `` <b> y") != structure("x `a` y")
    assert structure("x\n\n```json\n```\n# h\n```\n\ny") != structure("x\n\n```json\na\n```\n\ny")
    assert structure("| a | b |\n| --- | ---: |\n| x | <b> |\n") != structure(
        "| a | b |\n|---|---:|\n| x | 1 |\n"
    )


def test_what_cannot_be_seen_is_shown():
    assert code("a\u202eb\x00c\ud800\td\n") == "`a\\u202eb\\u0000c\\ud800 d`"


def test_a_folder_of_somebodys_machine_is_not_shown():
    for name in ("/data/me/models/tiny", "~/models/tiny", "../models/tiny", "C:\\models\\tiny"):
        assert shown_name(name) == "tiny"
    assert shown_name("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"


def test_the_base_model_is_named_if_the_hub_can_have_it(tmp_path, monkeypatch):
    assert base_model("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"
    assert base_model(BUNDLED) == BUNDLED_ON_HUB
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/model").mkdir(parents=True)
    for name in ("runs/model", "/data/m", "tiny", "a/b/c", "a b/c", "x/<b>", None):
        assert base_model(name) is None


# --- the card that is there


def front_of(card):
    return yaml.safe_load(card.split("---\n")[1])


def test_a_new_card_has_its_front_matter_title_and_section():
    card = with_section(None, "v", "ours", FRONT, "brief")
    assert front_of(card) == {
        "library_name": "unlatch",
        "tags": ["unlatch", "x"],
        "base_model": ["Qwen/Qwen3-0.6B"],
        "license": "mit",
    }
    assert card.endswith("---\n# brief\n\n<!-- unlatch:begin v -->\nours\n<!-- unlatch:end v -->\n")


def test_what_people_wrote_stays_before_between_and_after():
    card = with_section(None, "v", "one", FRONT, "brief")
    card = with_section(card, "w", "two", FRONT, "brief")
    people = card.replace("# brief", "# My vector\n\nHello.").replace(
        "<!-- unlatch:begin w", "Between.\n\n<!-- unlatch:begin w"
    )
    people += "\nAfter — all.\n"
    again = with_section(people, "v", "ONE", FRONT, "other")
    assert again == people.replace("\none\n", "\nONE\n")
    assert with_section(again, "v", "one", FRONT, "other") == people


def test_a_card_without_ours_gets_it_at_the_end_and_keeps_every_character():
    text = "# Mine\r\n\r\nNo front  matter.\r\n"
    card = with_section(text, "v", "a\nb", FRONT, "t")
    body = card.partition("---\n")[2].partition("---\n")[2]
    assert body.startswith(text)
    assert body.removeprefix(text).strip() == "<!-- unlatch:begin v -->\r\na\r\nb\r\n<!-- unlatch:end v -->"
    assert with_section(card, "v", "a\nb", FRONT, "t") == card


def test_front_matter_keeps_what_it_says_and_its_order():
    text = (
        "---\nlicense: gpl-3.0  # mine\ntags: [mine, x]\nbase_model: other/model\nmodel-index: []\n---\n# T\n"
    )
    front = front_of(with_section(text, "v", "s", FRONT, "t"))
    assert list(front) == ["license", "tags", "base_model", "model-index", "library_name"]
    assert front["license"] == "gpl-3.0"
    assert front["tags"] == ["mine", "x", "unlatch"]
    assert front["base_model"] == ["other/model", "Qwen/Qwen3-0.6B"]


def test_front_matter_that_lacks_nothing_is_not_written_again():
    text = "---\n# a comment\ntags: [x, unlatch]\nlibrary_name: mine\nlicense: mit\n"
    text += "base_model: Qwen/Qwen3-0.6B\n---\n# T\n"
    assert with_section(text, "v", "s", FRONT, "t").startswith(text)


@pytest.mark.parametrize("front", ["a: [", "- a list", "1: x", "!!python/object:os.system x"])
def test_front_matter_that_cannot_be_read_is_not_replaced(front):
    with pytest.raises(InputError, match=r"front matter of the card cannot be read.*Nothing was uploaded"):
        with_section(f"---\n{front}\n---\n# T\n", "v", "s", FRONT, "t")


@pytest.mark.parametrize(
    "marks", [["begin"], ["end"], ["end", "begin"], ["begin", "begin", "end"], ["begin", "end", "end"]]
)
def test_marks_that_are_no_pair_are_refused(marks):
    text = "".join(f"<!-- unlatch:{mark} v -->\n" for mark in marks)
    with pytest.raises(InputError, match="one of each, in this order"):
        with_section(text, "v", "s", FRONT, "t")


def test_a_licence_is_a_short_name():
    for license in ("MIT License", "mit\ntags: x", ""):
        with pytest.raises(InputError, match=r"such as apache-2\.0"):
            front_matter((), None, license)
