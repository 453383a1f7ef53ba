"""Every notebook runs top to bottom, and its .ipynb is the same notebook, executed."""

import runpy
from pathlib import Path

import jupytext
import nbformat
import pytest

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.py"))


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.bundled
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_runs_top_to_bottom(path: Path):
    runpy.run_path(str(path), run_name="__main__")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_the_rendered_notebook_has_the_same_cells_and_small_outputs(path: Path):
    rendered_file = path.with_suffix(".ipynb")
    rendered = nbformat.read(rendered_file, as_version=4)
    script = jupytext.read(path)
    assert [c.source for c in rendered.cells] == [c.source for c in script.cells], "run `make notebooks`"
    code = [c for c in rendered.cells if c.cell_type == "code"]
    assert all(c.execution_count for c in code), f"{rendered_file.name} was not executed"
    assert not [o for c in code for o in c.outputs if o.output_type == "error"]
    assert rendered_file.stat().st_size < 200_000
