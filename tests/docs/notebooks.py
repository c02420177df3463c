"""Running the notebooks of docs/: ``python tests/docs/notebooks.py`` fills in their outputs, and saves a picture.

The picture of the how-to on notebooks is the last one of the notebook, so it shows what the code does now.
"""

from __future__ import annotations

import base64
import re
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

DOCS = Path(__file__).resolve().parents[2] / "docs"
NOTEBOOK = DOCS / "tutorials" / "click_session.ipynb"
PICTURE = DOCS / "how-to" / "notebook.png"


def read(path: Path = NOTEBOOK) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def executed(notebook: NotebookNode) -> NotebookNode:
    """The notebook with the outputs of a fresh kernel, run in a folder of its own.

    Raises:
        CellExecutionError: a cell fails; the error shows it.
    """
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times, which differ in every run
    return notebook


def printed(notebook: NotebookNode) -> str:
    """All that the cells print."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")


def pictures(notebook: NotebookNode) -> list[bytes]:
    """All PNGs that the cells show."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return [base64.b64decode(output.data["image/png"]) for output in outputs if "image/png" in output.get("data", {})]


def scores(notebook: NotebookNode) -> list[float]:
    """The Dice after each click."""
    return [float(value) for value in re.findall(r"(?:Dice|,) (\d\.\d\d)", printed(notebook))]


def main() -> None:
    notebook = executed(read())
    nbformat.write(notebook, NOTEBOOK)
    PICTURE.write_bytes(pictures(notebook)[-1])
    sys.stdout.write(f"wrote {NOTEBOOK} and {PICTURE}\n{printed(notebook)}")


if __name__ == "__main__":
    main()
