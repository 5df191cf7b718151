"""The tutorial runs from top to bottom, and what was kept of its outputs is small and in order."""

import os
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

TUTORIAL = Path(__file__).parents[1] / "docs" / "tutorial.ipynb"


def said(notebook: Any) -> str:
    """What its cells printed."""
    outputs = (output for cell in notebook.cells for output in cell.get("outputs", ()))
    return "".join(output.text for output in outputs if output.output_type == "stream")


def assert_taught(notebook: Any, *, torch: bool) -> None:
    text = said(notebook)
    own, library = re.findall(r"our own loop ([\d.]+)%, the library's ([\d.]+)%", text)[0]
    assert min(float(own), float(library)) > 80
    (right,) = re.findall(r"(\d+) of 297 are right", text)
    assert f"{int(right) / 297:.2%}" == f"{library}%"
    low, high = map(float, re.findall(r"95% interval ([-+][\d.]+) to ([-+][\d.]+)", text)[0])
    (difference,) = map(float, re.findall(r"difference ([-+][\d.]+) points", text))
    assert low < difference < high
    if torch:
        (apart,) = map(float, re.findall(r"logits differ by at most (\S+)", text))
        assert apart < 1e-4
        assert "they are the same: True" in text
    else:
        assert "PyTorch is not installed here" in text


@pytest.mark.slow
def test_it_runs_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.endswith("_DATA_DIR"):
            monkeypatch.delenv(name)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    notebook = nbformat.read(TUTORIAL, as_version=4)
    folder = {"metadata": {"path": str(TUTORIAL.parent)}}
    NotebookClient(notebook, timeout=600, resources=folder).execute()
    assert_taught(notebook, torch=find_spec("torch") is not None)


def test_what_was_kept_of_its_outputs_is_small_and_in_order() -> None:
    assert TUTORIAL.stat().st_size < 200_000
    notebook = nbformat.read(TUTORIAL, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    kinds = {output.output_type for cell in code for output in cell.outputs}
    assert kinds == {"stream", "execute_result", "display_data"}
    assert_taught(notebook, torch=True)
