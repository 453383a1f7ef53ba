"""Links of README and CONTRIBUTING lead somewhere; those within docs/ are checked as the site is built."""

import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from tests.docs.blocks import ROOT

OUTSIDE = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
"""Pages that are no part of the site."""


def links(page: Path) -> list[str]:
    """Targets of the links and pictures of a page, in order."""
    tokens = MarkdownIt("commonmark").enable("table").parse(page.read_text("utf-8"))
    inside = [child for token in tokens for child in token.children or ()]
    return [
        str(t.attrs.get("href") or t.attrs.get("src")) for t in inside if t.type in ("link_open", "image")
    ]


def anchors(page: Path) -> set[str]:
    """Anchors of the headings of a page, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def broken(page: Path) -> list[str]:
    """Relative links of a page that lead nowhere."""
    found = []
    for link in links(page):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            found.append(link)
    return found


@pytest.mark.parametrize("page", OUTSIDE, ids=lambda p: p.name)
def test_every_relative_link_leads_somewhere(page: Path):
    assert broken(page) == []


def test_the_links_of_readme_are_seen():
    assert {"CONTRIBUTING.md", "docs/tutorial.md", "docs/img/verbosity.png"} <= set(links(ROOT / "README.md"))


@pytest.mark.parametrize("link", ["no.md", "other.md#no", "#no"])
def test_a_broken_link_is_seen(link: str, tmp_path: Path):
    (tmp_path / "other.md").write_text("# Here\n")
    page = tmp_path / "page.md"
    page.write_text(f"# Top\n\n[good](other.md#here) [top](#top) [bad]({link}) [far](https://example.org)\n")
    assert broken(page) == [link]
