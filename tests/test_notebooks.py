"""Every notebook runs from top to bottom, and is committed with outputs that name no machine."""

from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import KernelManager, start_new_kernel
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def kernel() -> Iterator[KernelManager]:
    """One for all notebooks, since to start it and to import torch takes longer than some of them."""
    manager, client = start_new_kernel()
    yield manager
    client.stop_channels()
    manager.shutdown_kernel(now=True)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_its_own_assertions_hold(path: Path, tmp_path: Path, kernel: KernelManager) -> None:
    notebook = nbformat.read(path, as_version=4)
    assert any("assert " in cell.source for cell in notebook.cells if cell.cell_type == "code")
    # It finds no name of another's.
    notebook.cells.insert(0, nbformat.v4.new_code_cell(f"%reset -f\n%cd -q {tmp_path}"))
    NotebookClient(notebook, timeout=600, km=kernel).execute()
    committed = nbformat.read(path, as_version=4)
    assert count_pictures(notebook) == count_pictures(committed) >= 1


def count_pictures(notebook: nbformat.NotebookNode) -> int:
    """The pictures among the outputs of all cells."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return sum("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_notebook_is_small_and_names_no_machine(path: Path) -> None:
    text = path.read_text()
    nbformat.validate(nbformat.reads(text, as_version=4))
    assert len(text) < 400_000
    assert "image/png" in text, "commit notebooks with their outputs"
    for trace in ("/home/", "/tmp/", "/root/", "site-packages", "Traceback"):
        assert trace not in text
