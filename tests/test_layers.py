"""Imports point down, and no module does what the house forbids.

Structure, read off the syntax tree: nothing is imported to check it, and an import inside a
function counts too. `lint-imports` follows whole chains of imports; this needs no library. Each
rule also meets a planted breach, since a check of something invisible must be able to fail.
"""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = ["hooks", "saes", "interp", "analyses"]  # low to high
DRAWS_OR_PRINTS = {"matplotlib", "plotly", "rich", "tyro"}  # for analyses alone
UNPICKLES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}

Rule = Callable[[str, ast.Module], Iterator[tuple[int, str]]]
"""From a layer's name and a module's tree to (line, what is wrong there)."""


def imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, top-level package) of every absolute import in the module, at any depth."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, name.name.partition(".")[0]) for name in names)
            case ast.ImportFrom(module=str(module), level=0):
                yield node.lineno, module.partition(".")[0]
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(module)), *_],
            ):
                yield node.lineno, module.partition(".")[0]


def upward_import(layer: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """An import of a layer above, of the tests or of the notebooks."""
    above = {*LAYERS[LAYERS.index(layer) + 1 :], "tests", "notebooks", "benchmarks", "interop"}
    return ((line, f"{layer} imports {name}") for line, name in imports(tree) if name in above)


def drawing(layer: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Plots, terminals and command lines below analyses."""
    banned = set() if layer == "analyses" else DRAWS_OR_PRINTS
    return ((line, f"{layer} imports {name}") for line, name in imports(tree) if name in banned)


def stringified_annotations(_layer: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """What hides every shape from the run-time checker."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            yield from ((node.lineno, name.name) for name in node.names if name.name == "annotations")


def unpickling(_layer: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Reading a file in a way that runs what is in it."""
    yield from ((line, f"import {name}") for line, name in imports(tree) if name in UNPICKLES)
    for node in ast.walk(tree):
        match node:
            case (
                ast.keyword(arg="allow_pickle", value=ast.Constant(value=True))
                | ast.keyword(arg="weights_only", value=ast.Constant(value=False))
            ):
                yield node.lineno, ast.unparse(node)
            case ast.Call(func=ast.Attribute(attr="read_pickle") | ast.Name(id="read_pickle")):
                yield node.lineno, ast.unparse(node.func)
            case ast.Call(func=ast.Attribute(value=ast.Name(id="torch"), attr="load")):
                if "weights_only" not in {keyword.arg for keyword in node.keywords}:
                    yield node.lineno, "torch.load without weights_only=True"


def named_values(node: ast.AST) -> Iterator[tuple[str, ast.expr | None]]:
    """What ``node`` calls by a name: an argument, a default, an assignment, a key of a dict."""
    match node:
        case ast.keyword(arg=str(name), value=value):
            yield name, value
        case ast.arguments(defaults=defaults, kwonlyargs=keywords, kw_defaults=kw_defaults):
            last = [*node.posonlyargs, *node.args][-len(defaults) :] if defaults else []
            names = [argument.arg for argument in [*last, *keywords]]
            yield from zip(names, [*defaults, *kw_defaults], strict=True)
        case ast.Assign(targets=[target], value=value) | ast.AnnAssign(target=target, value=value):
            yield ast.unparse(target).rpartition(".")[2], value
        case ast.Dict(keys=keys, values=values):
            for key, value in zip(keys, values, strict=True):
                if isinstance(key, ast.Constant):
                    yield str(key.value), value


def remote_code(_layer: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Asking for a stranger's Python."""
    for node in ast.walk(tree):
        for name, value in named_values(node):
            if name == "trust_remote_code" and isinstance(value, ast.Constant) and value.value:
                yield value.lineno, "trust_remote_code is on"


RULES: list[Rule] = [upward_import, drawing, stringified_annotations, unpickling, remote_code]


def breaches(rule: Rule, root: Path) -> list[str]:
    """``file:line: what`` for every breach in the four packages under ``root``."""
    return [
        f"{file.relative_to(root)}:{line}: {what}"
        for layer in LAYERS
        for file in sorted((root / layer).rglob("*.py"))
        for line, what in rule(layer, ast.parse(file.read_text("utf-8"), str(file)))
    ]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_no_module_breaks_the_rule(rule: Rule):
    found = breaches(rule, ROOT)
    assert not found, "\n" + "\n".join(found)


def test_every_layer_has_modules_to_check():
    assert [layer for layer in LAYERS if not any((ROOT / layer).rglob("*.py"))] == []


PLANTED = [
    (upward_import, "hooks", "from interp import contrast"),
    (upward_import, "hooks", "import saes.topk"),
    (upward_import, "saes", "def late():\n    from analyses.run import run"),
    (upward_import, "interp", "import importlib\nimportlib.import_module('analyses.cli')"),
    (upward_import, "analyses", "from tests.conftest import model"),
    (drawing, "hooks", "import rich"),
    (drawing, "saes", "from plotly import graph_objects"),
    (drawing, "interp", "if True:\n    import tyro.conf"),
    (stringified_annotations, "saes", "from __future__ import annotations"),
    (unpickling, "saes", "import pickle"),
    (unpickling, "saes", "from joblib import load"),
    (unpickling, "saes", "torch.load(path)"),
    (unpickling, "saes", "torch.load(path, weights_only=False)"),
    (unpickling, "interp", "np.load(path, allow_pickle=True)"),
    (unpickling, "analyses", "pd.read_pickle(path)"),
    (remote_code, "hooks", "AutoModel.from_pretrained(name, trust_remote_code=True)"),
    (remote_code, "hooks", "def load(name, trust_remote_code=True): ..."),
    (remote_code, "hooks", "def load(name, *, trust_remote_code: bool = True): ..."),
    (remote_code, "analyses", "class Config:\n    trust_remote_code: bool = True"),
    (remote_code, "analyses", "options = {'trust_remote_code': True}"),
]


@pytest.mark.parametrize(
    ("rule", "layer", "source"), PLANTED, ids=lambda part: getattr(part, "__name__", part)
)
def test_a_planted_breach_is_caught(rule: Rule, layer: str, source: str, tmp_path: Path):
    (tmp_path / layer / "deep").mkdir(parents=True)
    (tmp_path / layer / "deep" / "planted.py").write_text(source)
    (found,) = breaches(rule, tmp_path)
    assert found.startswith(f"{layer}/deep/planted.py:{len(source.splitlines())}: ")


ALLOWED = [
    ("interp", "from hooks import capture\nfrom saes.topk import TopKSAE\nimport interp.stats"),
    ("analyses", "import plotly\nfrom rich.console import Console\nimport tyro"),
    ("hooks", "from __future__ import division"),
    ("saes", "torch.load(path, weights_only=True)\nload_file(path)\njson.load(stream)"),
    ("hooks", "def load(name, *, trust_remote_code=False): f(trust_remote_code=trust_remote_code)"),
]


@pytest.mark.parametrize(("layer", "source"), ALLOWED, ids=[source[:40] for _, source in ALLOWED])
def test_what_is_allowed_passes_every_rule(layer: str, source: str, tmp_path: Path):
    (tmp_path / layer).mkdir()
    (tmp_path / layer / "innocent.py").write_text(source)
    assert [found for rule in RULES for found in breaches(rule, tmp_path)] == []
