"""The house is the shape that it says: whose packages are imported, and what no file may be.

The four packages have plain names, so a ``hooks.py`` beside a user's script would win over ours;
these tests say who shadows whom.
"""

import ast
import importlib.metadata
import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ["hooks", "saes", "interp", "analyses"]
CATCH_ALLS = {"utils", "util", "helpers", "helper", "misc", "common"}
HOME_PATH = re.compile(r"(?:(?<![\w.~})/-])|(?<=file://))/(?:work|root|home|Users)/")


def project_files() -> list[Path]:
    """Every file that is tracked, or would be by ``git add .``."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: nothing is tracked")
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    files = [ROOT / name for name in names.split("\0") if name]
    return [file for file in files if file.is_file()]  # a file deleted but not yet committed is listed


def modules() -> list[Path]:
    return [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]


def relative(files: list[Path]) -> list[str]:
    return [str(file.relative_to(ROOT)) for file in files]


# --- whose packages


def found_from(folder: Path) -> dict[str, list[str]]:
    """Where a Python that starts in ``folder`` finds each package, without importing it."""
    code = (
        "import json, sys; from importlib.util import find_spec\n"
        "specs = {name: find_spec(name) for name in sys.argv[1:]}\n"
        "places = {n: list(s.submodule_search_locations or [s.origin]) if s else []"
        " for n, s in specs.items()}\n"
        "print(json.dumps(places))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, *PACKAGES],
        cwd=folder,
        env={k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "PYTHONSAFEPATH"}},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    places: dict[str, list[str]] = json.loads(out)
    return places


@pytest.fixture
def installed():
    try:
        importlib.metadata.distribution("unlatch")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("unlatch is not installed in this environment: `make setup` does it")


@pytest.mark.parametrize("package", PACKAGES)
def test_the_package_under_test_is_this_checkouts(package: str):
    spec = find_spec(package)
    assert spec is not None, f"{package} cannot be imported"
    places = {str(Path(p).resolve()) for p in spec.submodule_search_locations or [str(spec.origin)]}
    assert places == {str(ROOT / package)}, f"{package} is shadowed by {places}"


@pytest.mark.usefixtures("installed")
def test_the_installed_packages_are_this_checkouts_from_any_folder(tmp_path: Path):
    assert found_from(tmp_path) == {package: [str(ROOT / package)] for package in PACKAGES}


@pytest.mark.usefixtures("installed")
def test_a_planted_shadow_is_seen(tmp_path: Path):
    (tmp_path / "hooks.py").write_text("")
    places = found_from(tmp_path)
    assert places["hooks"] != [str(ROOT / "hooks")]
    assert places["interp"] == [str(ROOT / "interp")]


# --- what no file may be


def test_every_module_opens_with_what_it_is():
    bare = [file for file in modules() if not ast.get_docstring(ast.parse(file.read_text("utf-8")))]
    assert relative(bare) == []


def test_every_folder_of_a_package_is_a_package():
    folders = {file.parent for file in modules()}
    assert relative(sorted(f for f in folders if not (f / "__init__.py").exists())) == []


def test_no_file_is_a_catch_all():
    catch_alls = [f for f in project_files() if CATCH_ALLS & {f.stem, f.parent.name}]
    assert relative(catch_alls) == [], "a helper lives beside its first user"


def test_no_folder_of_tests_or_notebooks_is_a_package():
    inits = [f for folder in ("tests", "notebooks") for f in (ROOT / folder).rglob("__init__.py")]
    assert relative(inits) == [], "they would be imported under names that clash"


def home_paths(text: str) -> list[str]:
    """The lines of ``text`` that name a path on somebody's machine."""
    return [line.strip()[:80] for line in text.splitlines() if HOME_PATH.search(line)]


def test_no_text_file_names_a_path_of_somebodys_machine():
    found = []
    for file in project_files():
        try:
            text = file.read_text("utf-8")
        except UnicodeDecodeError:
            continue  # not a text file
        found += [f"{file.relative_to(ROOT)}: {line}" for line in home_paths(text)]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize("start", ["", "open('", "see ", "file://", "PATH=", "(", "`", "a:"])
@pytest.mark.parametrize("top", ["work", "root", "home", "Users"])
def test_a_planted_home_path_is_caught(start: str, top: str):
    assert home_paths(f"first\n{start}/{top}/ada/x") == [f"{start}/{top}/ada/x"]


@pytest.mark.parametrize("path", ["~/work/x", "runs/home/x", "./root/x", "$HOME/work/x", "{a}/root/x"])
def test_a_relative_path_is_not_mistaken_for_one(path: str):
    assert home_paths(path) == []
