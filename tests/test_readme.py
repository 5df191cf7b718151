"""The scripts in the pages run, and the files and names in them exist."""

import re
from pathlib import Path
from typing import Any

import pytest
from commands import run as run_command

from experiments.evidence.analysis import ENOUGH_SEEDS
from mnist_jax.models import model_entry, model_names

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_python_scripts_run_one_after_another() -> None:
    names: dict[str, Any] = {}
    for page in README, (ROOT / "docs" / "python.md").read_text():
        for script in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
            exec(script, names)
    assert isinstance(names["accuracy"], float)
    assert names["accuracy"] > 0.85
    assert names["product"].any()


def test_predict_prints_what_the_readme_shows(tmp_path: Path) -> None:
    (command,) = re.findall(r"^python -m (mnist_jax\.predict) (.*)$", README, re.MULTILINE)
    done = run_command(tmp_path, command[0], *command[1].split(), cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert f"\n{done.stdout}```" in README


@pytest.mark.parametrize("name", model_names())
def test_every_network_is_in_the_readme_s_table(name: str) -> None:
    (line,) = re.findall(rf"^\| `{name}` \| .*", README, re.MULTILINE)
    entry = model_entry(name)
    assert line.endswith(f"| {entry.published} |")
    assert line.split(" | ")[1][0] == entry.article[0]


def test_every_file_named_in_contributing_exists() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text()
    tabulated = re.findall(r"`((?:mnist_jax|experiments|tests)/[\w/]*(?:\.py)?)`", page)
    assert len(tabulated) >= 10
    for path in tabulated:
        assert (ROOT / path).exists(), path


def test_every_link_of_the_experiments_pages_exists() -> None:
    """The links of other pages are tested with the API reference, which lacks these pages."""
    links = [
        path.parent / link
        for path in (ROOT / "experiments").glob("*.md")
        for link in re.findall(r"\]\(([^)#:]+)\)", path.read_text())
    ]
    assert links
    assert [str(link) for link in links if not link.exists()] == []


def test_experiments_page_states_when_a_row_is_provisional() -> None:
    page = (ROOT / "experiments" / "README.md").read_text()
    assert f"*provisional*: fewer than {ENOUGH_SEEDS} runs" in page
