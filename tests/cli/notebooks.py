"""Notebooks under test: their texts, and what their cells show in a real kernel."""

import json
from pathlib import Path
from typing import Any

import nbformat
import pytest

from runner.spec import parse

JOB = {
    "name": "small",
    "data": {"name": "digits", "arguments": {"image_size": 8}},
    "model": {"name": "mlp", "arguments": {"units": [8]}},
    "training": {"epochs": 2, "batch_size": 64},
    "evaluation": {"augmented_passes": 0},
}
SPECS = [parse(JOB, source="the test")]


def text_of(notebook: dict[str, Any], kind: str = "") -> str:
    cells = [cell for cell in notebook["cells"] if not kind or cell["cell_type"] == kind]
    return "\n".join("".join(cell["source"]) for cell in cells)


def outputs_of(folder: Path, *sources: str) -> list[str]:
    """What each cell of a notebook shows, in a real kernel; an error does not end it."""
    nbclient = pytest.importorskip("nbclient")
    notebook = nbformat.v4.new_notebook()  # type: ignore[no-untyped-call]
    for source in sources:
        notebook.cells.append(nbformat.v4.new_code_cell(source))  # type: ignore[no-untyped-call]
    resources = {"metadata": {"path": str(folder)}}
    client = nbclient.NotebookClient(notebook, timeout=200, resources=resources, allow_errors=True)
    client.execute()
    return [str(cell.outputs) for cell in notebook.cells]


def execute(notebook: dict[str, Any], kernel: str, folder: Path) -> Any:
    """Run the cells but the platform's own; the notebook then."""
    nbclient = pytest.importorskip("nbclient")
    found = nbformat.reads(json.dumps(notebook), as_version=4)  # type: ignore[no-untyped-call]
    nbclient.NotebookClient(
        found,
        timeout=400,
        kernel_name=kernel,
        skip_cells_with_tag="platform",
        resources={"metadata": {"path": str(folder)}},
    ).execute()
    return found
