"""The tutorial runs from top to bottom, and its stored outputs are small and consistent."""

import os
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

TUTORIAL = Path(__file__).parents[1] / "docs" / "tutorial.ipynb"


def printed(notebook: Any) -> str:
    """The text that its cells printed."""
    outputs = (output for cell in notebook.cells for output in cell.get("outputs", ()))
    return "".join(output.text for output in outputs if output.output_type == "stream")


def check_outputs(notebook: Any, *, torch: bool) -> None:
    text = printed(notebook)
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
def test_the_tutorial_runs_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.endswith("_DATA_DIR"):
            monkeypatch.delenv(name)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    notebook = nbformat.read(TUTORIAL, as_version=4)
    folder = {"metadata": {"path": str(TUTORIAL.parent)}}
    NotebookClient(notebook, timeout=600, resources=folder).execute()
    check_outputs(notebook, torch=find_spec("torch") is not None)


def test_the_stored_outputs_are_small_and_from_one_run() -> None:
    assert TUTORIAL.stat().st_size < 200_000
    notebook = nbformat.read(TUTORIAL, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    kinds = {output.output_type for cell in code for output in cell.outputs}
    assert kinds == {"stream", "execute_result", "display_data"}
    check_outputs(notebook, torch=True)
