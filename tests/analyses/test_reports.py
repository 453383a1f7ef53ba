import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from analyses.reports.page import number, percent, points
from analyses.reports.verbosity import changed, speeds, write_report


class Tags(HTMLParser):
    """Every tag with its attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


def test_the_page_opens_without_a_network(finished: Path):
    page = Tags()
    page.feed((finished / "report.html").read_text())
    assert not [a for _, a in page.seen if a.get("src") or (a.get("href") or "").startswith("http")]
    assert ("script", {}) in page.seen


def test_what_a_model_wrote_is_shown_as_text(finished: Path, tmp_path: Path):
    hostile = "<script>alert(1)</script><img src=x onerror=alert(1)> & </pre>"
    results = json.loads((finished / "results.json").read_text())
    for example in results["examples"]:
        example["problem"] = example["answer"] = hostile
        for condition in ("plain", "vector", "prompt"):
            example[condition]["text"] = f"{hostile} {condition}"
    results["model"]["name"] = results["headline"] = hostile
    (tmp_path / "results.json").write_text(json.dumps(results))
    (tmp_path / "environment.json").write_bytes((finished / "environment.json").read_bytes())
    text = write_report(tmp_path).read_text()
    assert "<script>alert" not in text
    assert "<img src=x" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_the_words_that_changed_are_marked_and_no_others():
    assert str(changed("there are 12 legs", "they have 12 legs", "ins")) == "<ins>there are</ins> 12 legs"
    assert str(changed("<b>same</b>", "<b>same</b>", "ins")) == "&lt;b&gt;same&lt;/b&gt;"


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (percent({"estimate": 0.5, "low": 0.25, "high": 0.75}), "50% [25%, 75%]"),
        (points({"estimate": -0.1, "low": None, "high": None}), "-10.0"),
        (number(None), "–"),
        (number(1234.5), "1234"),
        (number({"estimate": None, "low": None, "high": None}), "–"),
    ],
)
def test_numbers_are_shown_with_their_interval(shown: str, expected: str):
    assert shown == expected


def test_speed_is_words_over_the_time_that_was_theirs():
    records = [
        {"condition": "plain", "words": 30, "seconds": 10.0},
        {"condition": "plain", "words": 10, "seconds": 10.0},
        {"condition": "vector", "words": 9, "seconds": 1.5},
        {"condition": "prompt", "words": 0, "seconds": 0.0},
    ]
    assert speeds(records) == {"plain": 2.0, "vector": 6.0}
