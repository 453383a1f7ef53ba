"""The code blocks of README.md and docs/, and how each is held true.

A fence says what a reader need not see in its attributes, as ``{ .python data-run="a -> b" }``:

    data-run="a -> b; c -> d"   run it with these substitutions; on commands, run and not only parsed
    data-raises="VectorError"   Python: raises this error, whose text is the next block of the page
    data-exit="2"               commands: the last one exits with this code, and says the next block
    data-lib="steering_vectors" Python of another library: run where that is installed, else held
                                against the names that the library has
    data-output                 text: what the block before it prints; ... stands for anything
    data-source                 text: stands in the source, each part between ... in one string

Python blocks of a page run in order in one namespace, those of another library in their own; commands
run in this process, all in one folder of the page. The Hugging Face hub of a page is the stand-in of the
tests, empty at first, with ada logged in. Without ``data-run``, a command of ``unlatch`` is
parsed by the command line itself, with nothing behind it. ``python -m tests.docs.blocks`` counts.
"""

import json
import re
import shlex
import sys
import textwrap
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
LANGUAGES = ("python", "bash", "text", "json", "jsonl")
ATTRIBUTES = ("data-run", "data-raises", "data-exit", "data-lib", "data-output", "data-source")
OTHER_PROGRAMS = {
    "pip": "installs",
    "python3.11": "makes an environment",
    ".venv-fresh/bin/pip": "lists what is installed",
    ".venv/bin/pre-commit": "installs git hooks",
    "git": "needs a repository to clone",
    "ray": "starts a cluster",
    "llama-cli": "is llama.cpp's",
    "ssh": "needs another machine",
    "chromium": "is a browser",
}
"""Commands of other programs in the pages, which no test runs, and why."""


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    page: str
    line: int
    language: str
    attributes: dict[str, str]
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @cached_property
    def library(self) -> str | None:
        """The other library that this is written for."""
        return self.attributes.get("data-lib")

    @property
    def kind(self) -> str:
        """What a test does with it."""
        if self.language == "python":
            if self.library is None or find_spec(self.library):
                return "python run"
            return "python of a library that is not installed: names checked"
        if self.language == "bash":
            return "commands run" if "data-run" in self.attributes else "commands parsed"
        if self.language in ("json", "jsonl"):
            return "json parsed"
        if "data-source" in self.attributes:
            return "text found in the source"
        checked = "data-output" in self.attributes or self.attributes.get("said")
        return "output compared" if checked else "text shown"

    @cached_property
    def code(self) -> str:
        """The text with the substitutions of ``data-run``, each of which must occur."""
        text = self.text
        for rule in filter(None, self.attributes.get("data-run", "").split("; ")):
            old, arrow, new = rule.partition(" -> ")
            assert arrow, f"{self}: {rule!r} is no substitution"
            assert old in text, f"{self}: nothing to substitute by {rule!r}"
            text = text.replace(old, new)
        return text

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command, without comments and the ``$`` of a prompt."""
        lines = self.code.replace("\\\n", " ").splitlines()
        split = [shlex.split(line, comments=True) for line in lines]
        return [words[1:] if words[0] == "$" else words for words in split if words]


def blocks_of(page: Path, root: Path = ROOT) -> list[Block]:
    """The fenced blocks of a page in order; a block whose text another one answers for is marked so."""
    name = str(page.relative_to(root))
    found: list[Block] = []
    for token in MarkdownIt("commonmark").parse(flattened(page.read_text("utf-8"))):
        if token.type == "code_block":
            raise AssertionError(f"{name}:{token.map[0] + 1}: indented code; write a fence")
        if token.type != "fence":
            continue
        language, attributes = _info(token.info, f"{name}:{token.map[0] + 1}")
        before = found[-1].attributes if found else {}
        if language == "text" and ("data-raises" in before or "data-exit" in before):
            attributes["said"] = "yes"
        found.append(Block(name, token.map[0] + 1, language, attributes, textwrap.dedent(token.content)))
    return found


def flattened(text: str) -> str:
    """Markdown in which what stands in a tab, a note or a fold is no longer indented; as many lines."""
    lines, inside = [], False
    for line in text.splitlines():
        if re.match(r"(===|!!!|\?\?\?\+?) ", line):
            inside = True
            lines.append("")
        elif inside and (line.startswith("    ") or not line.strip()):
            lines.append(line[4:])
        else:
            inside = False
            lines.append(line)
    return "\n".join(lines) + "\n"


def _info(info: str, where: str) -> tuple[str, dict[str, str]]:
    """The language and the attributes of a fence line: ``bash`` or ``{ .bash data-run="" }``."""
    braced = re.fullmatch(r"\{\s*\.(\w+)((?:\s+[\w-]+(?:=\"[^\"]*\")?)*)\s*\}", info.strip())
    language, rest = braced.groups() if braced else (info.strip(), "")
    attributes = dict(re.findall(r"([\w-]+)(?:=\"([^\"]*)\")?", rest))
    assert language in LANGUAGES, f"{where}: a block of {info!r}; {', '.join(LANGUAGES)} are checked"
    assert set(attributes) <= set(ATTRIBUTES), f"{where}: {set(attributes) - set(ATTRIBUTES)} means nothing"
    return language, attributes


def check_json(block: Block) -> None:
    """Every value of a ``json`` or ``jsonl`` block parses."""
    values = block.text.splitlines() if block.language == "jsonl" else [block.text]
    for value in values:
        json.loads(value)


def count() -> Counter[str]:
    """How many blocks of README and docs there are of each kind."""
    return Counter(block.kind for page in PAGES for block in blocks_of(page))


def _main() -> None:
    counts = count()
    lines = [f"{number:5} {kind}" for kind, number in sorted(counts.items(), key=lambda item: -item[1])]
    sys.stdout.write("\n".join([*lines, f"{counts.total():5} in {len(PAGES)} pages"]) + "\n")


if __name__ == "__main__":
    _main()
