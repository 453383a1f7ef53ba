"""The site builds with warnings as errors, holds every module, and asks nothing of a network."""

import ast
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import griffe
import pytest

from tests.docs.blocks import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return out


class _Fetched(HTMLParser):
    """What a browser would fetch from elsewhere to show a page: not the links that a reader may follow."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = [value or "" for name, value in attrs if name in ("src", "srcset", "poster", "data")]
        if tag == "link":
            values += [value or "" for name, value in attrs if name == "href"]
        self.found += [value for value in values if re.match(r"(https?:)?//", value)]


def fetched(html: str) -> list[str]:
    parser = _Fetched()
    parser.feed(html)
    return parser.found + re.findall(r"url\([\"']?(?:https?:)?//[^)]*|@import [^;]*//[^;]*", html)


def test_no_page_fetches_anything_from_elsewhere(site: Path):
    pages = [*site.rglob("*.html"), *site.rglob("*.css")]
    assert len(pages) > 20
    assert {p.name: found for p in pages if (found := fetched(p.read_text("utf-8")))} == {}


@pytest.mark.parametrize(
    "planted",
    [
        '<link rel="stylesheet" href="https://fonts.example/css">',
        '<script src="//cdn.example/x.js"></script>',
        '<img src="http://example.org/x.png">',
        "<style>body { background: url('https://example.org/x.png') }</style>",
    ],
)
def test_a_planted_fetch_is_seen(planted: str):
    assert len(fetched(f'<a href="https://example.org">a link to follow</a>{planted}')) == 1


def test_search_works_from_disk(site: Path):
    index = (site / "search" / "search_index.js").read_text("utf-8")
    assert "receipt" in index


def test_a_docstrings_role_became_a_link(site: Path):
    html = (site / "reference" / "edit.html").read_text("utf-8")
    assert re.search(r"<a [^>]*hooks\.errors\.VectorError[^>]*><code>VectorError</code></a>", html)
    assert not re.findall(r":(?:func|class|meth|attr|mod|data):<", html)


def defines(file: Path) -> bool:
    """Whether a package's own file holds more than names of others."""
    tree = ast.parse((ROOT / file).with_suffix(".py").read_text("utf-8"))
    return any(isinstance(node, (ast.FunctionDef, ast.ClassDef)) for node in tree.body)


def test_every_module_is_on_one_page_of_the_reference():
    folders = ("hooks", "saes", "interp")
    files = [file.relative_to(ROOT).with_suffix("") for f in folders for file in (ROOT / f).rglob("*.py")]
    packages = [file.parent for file in files if file.name == "__init__" and defines(file)]
    modules = sorted(
        ".".join(path.parts) for path in (*packages, *(f for f in files if f.name != "__init__"))
    )
    pages = "\n".join(page.read_text("utf-8") for page in (ROOT / "docs" / "reference").glob("*.md"))
    assert sorted(re.findall(r"^::: (\S+)$", pages, re.MULTILINE)) == modules


# --- roles


@pytest.fixture(scope="module")
def roles() -> ModuleType:
    spec = spec_from_file_location("docs_roles", ROOT / "docs" / "roles.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rewritten(roles: ModuleType, docstring: str) -> str:
    source = {
        "__init__.py": "from planted.load import load",
        "load.py": f'def load():\n    """{docstring}"""\n\n'
        "def _own(): ...\n\nclass Model:\n    def run(self): ...",
    }
    with (
        pytest.MonkeyPatch.context() as patch,
        griffe.temporary_visited_package("planted", source) as package,
    ):
        patch.setattr(roles, "REFERENCE", ("planted",))
        roles.rewrite(package)
        return package["load.load"].docstring.value


@pytest.mark.parametrize(
    ("role", "markdown"),
    [
        (":class:`Model`", "[`Model`][planted.load.Model]"),
        (":meth:`Model.run`", "[`run`][planted.load.Model.run]"),
        (":func:`planted.load`", "[`planted.load`][planted.load.load]"),
        (":mod:`planted.load`", "[`planted.load`][planted.load]"),
        (":func:`_own`", "`_own`"),
        (":mod:`analyses.tasks`", "`analyses.tasks`"),
    ],
)
def test_a_role_means_what_it_names_from_where_it_stands(roles: ModuleType, role: str, markdown: str):
    assert rewritten(roles, f"See {role}.") == f"See {markdown}."


def test_a_role_that_names_nothing_is_an_error(roles: ModuleType):
    with pytest.raises(LookupError, match=r"gone.*planted\.load\.load"):
        rewritten(roles, "See :func:`gone`.")
