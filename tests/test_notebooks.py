"""The notebooks run from top to bottom on tiny models, in a kernel of their own, and are kept without outputs."""

import os
import shutil
from pathlib import Path

import nbformat
import pytest
from documented_files import OWNER, use_registry, write_documented_files, write_tiny_registry
from nbclient import NotebookClient

REPOSITORY = Path(__file__).parents[1]
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
FEW_STEPS = ("EPOCHS, WARMUP_EPOCHS, BATCH = 30, 3, 8", "EPOCHS, WARMUP_EPOCHS, BATCH = 1, 0, 2")
# two clips of each class, of which a fifth is none
MORE_HELD_OUT = ('"--report-to", "none"', '"--report-to", "none", "--eval-share", "0.5"')

notebooks = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def documented_files(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("notebooks")
    with pytest.MonkeyPatch.context() as patch:
        use_registry(patch, write_tiny_registry(root / "registry", OWNER))
        write_documented_files(root / "files", root / "hub")
    return root / "files"


@notebooks
def test_a_notebook_runs(path, documented_files, tmp_path, monkeypatch):
    shutil.copytree(documented_files, tmp_path / "work", ignore=shutil.ignore_patterns("my-model"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        for code, replacement in (FEW_STEPS, MORE_HELD_OUT):
            cell.source = cell.source.replace(code, replacement)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path / "work")}}).execute()
    printed = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.outputs]
    assert len(printed) >= 5


@notebooks
def test_a_notebook_is_kept_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert cell.cell_type == "markdown" or (cell.outputs == [] and cell.execution_count is None)
