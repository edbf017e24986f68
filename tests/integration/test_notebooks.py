"""The notebooks run from top to bottom, and are kept without what running them leaves."""

import os
import re

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import ROOT

NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))
MACHINE = re.compile(r"(?<![\w./])(/(home|root|work|tmp|Users|mnt|opt|usr)/|[A-Za-z]:\\)")

by_name = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def test_there_are_notebooks():
    names = {path.stem for path in NOTEBOOKS}
    assert {"first_steps", "ranking", "language_model", "theory"} <= names


@by_name
def test_a_notebook_is_kept_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.language_info == {"name": "python"}
    for cell in notebook.cells:
        assert not cell.metadata
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


@by_name
def test_a_notebook_names_no_place_of_a_machine(path):
    assert not MACHINE.search(path.read_text("utf-8"))


@by_name
def test_a_notebook_teaches_with_a_picture_for_every_part(path):
    cells = nbformat.read(path, as_version=4).cells
    assert cells[0].source.startswith("# ")
    drawn = [cell for cell in cells if cell.cell_type == "code" and "plt.subplots" in cell.source]
    assert len(drawn) >= 3
    assert all(len(cell.source.splitlines()) <= 30 for cell in cells)


@pytest.mark.slow
@by_name
def test_a_notebook_runs_without_a_warning_and_draws(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    place = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=300, resources=place).execute(
        env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    outputs = [
        output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
    ]
    assert [output.text for output in outputs if output.get("name") == "stderr"] == []
    n_pictures = sum("image/png" in output.get("data", {}) for output in outputs)
    assert n_pictures == sum("plt.subplots" in cell.source for cell in notebook.cells)
