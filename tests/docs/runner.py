"""Runs the blocks of one page, in order and in one folder."""

import ast
import contextlib
import doctest
import functools
import importlib
import io
import re
import sys
import tomllib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from analyses import cli
from hooks.load import load as real_load
from tests.docs.blocks import OTHER_PROGRAMS, ROOT, Block, check_json

LIBRARY_NAMES: dict[str, set[str]] = {
    # steering-vectors 0.12.2 and repeng 0.4.0, read in their wheels
    "steering_vectors": {"train_steering_vector", "apply", "multiplier", "layers", "read_token_index"},
    "repeng": {
        *("ControlModel", "ControlVector", "DatasetEntry", "train", "set_control", "coeff", "reset"),
        *("export_gguf", "generate", "positive", "negative"),
    },
}
"""What a page may use of a library that is not installed here, beside Python's and transformers' own."""

OF_TRANSFORMERS = {
    *("AutoModelForCausalLM", "AutoTokenizer", "from_pretrained", "generate", "decode", "return_tensors"),
    *("max_new_tokens", "do_sample", "apply_chat_template", "add_generation_prompt", "tokenize", "to"),
}


@dataclass
class Page:
    """One page as it runs: its folder, its namespaces, what its last block said."""

    folder: Path
    given: dict[str, Any] = field(default_factory=dict)
    namespaces: dict[str, dict[str, Any]] = field(default_factory=dict)
    said: str = ""
    ran: int = 0

    def run(self, block: Block) -> None:
        """Hold one block true, or raise."""
        handlers: dict[str, Callable[[Block], None]] = {
            "python": self._python,
            "bash": self._bash,
            "json": check_json,
            "jsonl": check_json,
            "text": self._text,
        }
        handlers[block.language](block)
        self.ran += 1

    def _python(self, block: Block) -> None:
        if block.kind != "python run":
            check_names(block)
            return
        namespace = self.namespaces.setdefault(block.library or "", {"__name__": "__page__", **self.given})
        code = compile("\n" * block.line + block.code, str(ROOT / block.page), "exec")
        wanted = block.attributes.get("data-raises")
        with (
            contextlib.chdir(self.folder),
            contextlib.redirect_stdout(io.StringIO()) as out,
            warnings.catch_warnings(),
        ):
            if block.library:  # what another library has yet to renew is not for our pages
                warnings.simplefilter("ignore", DeprecationWarning)
            try:
                exec(code, namespace)  # the page's own code
            except Exception as error:
                if type(error).__name__ != wanted:
                    raise
                self.said = str(error)
                return
        assert wanted is None, f"{block}: no {wanted} was raised"
        self.said = out.getvalue()

    def _bash(self, block: Block) -> None:
        for place, words in enumerate(block.commands, start=1):
            if words[0] != "unlatch":
                check_command(block, words)
            elif "data-run" in block.attributes:
                last = place == len(block.commands)
                self._unlatch(block, words[1:], int(block.attributes.get("data-exit", 0)) if last else 0)
            else:
                parse(block, words[1:])

    def _unlatch(self, block: Block, arguments: list[str], wanted: int) -> None:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.chdir(self.folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = cli.main(arguments)
            except SystemExit as stop:  # help, or an argument that tyro refuses
                code = int(stop.code or 0)
        assert code == wanted, f"{block}: exit {code} of {arguments}: {err.getvalue()}"
        self.said = err.getvalue() if wanted else out.getvalue() + err.getvalue()

    def _text(self, block: Block) -> None:
        if block.kind == "output compared":
            compare(block, self.said)
        if block.kind == "text found in the source":
            find(block)


def compare(block: Block, said: str) -> None:
    """The text is what was said, but for the space in it; ``...`` stands for anything."""
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    same = doctest.OutputChecker().check_output(f"{block.text.strip()}\n", f"{said.strip()}\n", flags)
    assert same, f"{block}: the page has\n{block.text}\nand it was\n{said}"


def find(block: Block) -> None:
    """Each part of the text between ``...`` stands in some string of the packages."""
    known = "\n".join(strings())
    for part in " ".join(block.text.split()).split("..."):
        assert part.strip() in known, f"{block}: no string of the source has {part.strip()!r}"


@functools.cache
def strings() -> tuple[str, ...]:
    """Every string constant of the packages, those of f-strings in parts."""
    files = [
        file for package in ("hooks", "saes", "interp", "analyses") for file in (ROOT / package).rglob("*.py")
    ]
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text("utf-8")))]
    return tuple(n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str))


def parse(block: Block, arguments: list[str]) -> None:
    """The command line reads these arguments, and would have called the command once."""
    called: list[str] = []

    def instead(name: str) -> Callable[..., None]:
        command = cli.COMMANDS[name]
        return functools.wraps(command)(lambda *_, **__: called.append(name))

    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
        patch.setattr(cli, "COMMANDS", {name: instead(name) for name in cli.COMMANDS})
        err = io.StringIO()
        with contextlib.redirect_stderr(err):
            try:
                code = cli.main(arguments)
            except SystemExit as stop:
                code = int(stop.code or 0)
    assert code == 0, f"{block}: unlatch {' '.join(arguments)}: {err.getvalue()}"
    helped = not arguments or {"--help", "-h"} & set(arguments)
    assert helped or called == [arguments[0]], f"{block}: unlatch {' '.join(arguments)} calls {called}"


def check_command(block: Block, words: list[str]) -> None:
    """A command that is not ours to run: its target, module or extra exists, and its program is known."""
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words = words[1:]
    program, *rest = words
    if program == "make":
        targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
        unknown = {word for word in rest if "=" not in word} - targets
        assert not unknown, f"{block}: make has no {unknown}"
    elif program == "python" and rest[:1] == ["-m"]:
        path = ROOT / rest[1].replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), f"{block}: {words}"
    else:
        assert program in OTHER_PROGRAMS, f"{block}: nobody says why {program!r} is not run"
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    asked = {
        extra for word in words for found in re.findall(r"\.\[([\w,]+)\]", word) for extra in found.split(",")
    }
    assert asked <= set(extras), f"{block}: there is no extra {asked - set(extras)}"


def check_names(block: Block) -> None:
    """Python of a library that is not here parses, and uses of it only what it is known to have."""
    assert block.library in LIBRARY_NAMES, f"{block}: nobody says what {block.library} has"
    tree = ast.parse(block.code)
    imported = {n.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for n in node.names}
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    keywords = {node.arg for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg}
    unknown = (imported | attributes | keywords) - LIBRARY_NAMES[block.library] - OF_TRANSFORMERS
    assert not unknown, f"{block}: {block.library} is not known to have {sorted(unknown)}"


@functools.cache
def loaded(*name: Any, **options: Any) -> Any:
    """What ``hooks.load`` gives for these arguments, once."""
    return real_load(*name, **options)


@contextlib.contextmanager
def one_model() -> Iterator[None]:
    """``hooks.load`` answers the same call with the same model, in pages and in commands."""
    for path in sorted((ROOT / "analyses").rglob("*.py")):  # none is first imported with the cached one
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        importlib.import_module(name.removesuffix(".__init__"))
    with pytest.MonkeyPatch.context() as patch:
        for module in list(sys.modules.values()):
            if vars(module).get("load") is real_load:
                patch.setattr(module, "load", loaded)
        yield
