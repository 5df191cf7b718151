"""The scripts of the pages run, and what these say of files and names is true."""

import re
from pathlib import Path
from typing import Any

import pytest
from commands import run as run_command

from experiments.evidence.analysis import ENOUGH_SEEDS
from mnist_jax.models import model_entry, model_names

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_research_scripts_run_one_after_the_other() -> None:
    names: dict[str, Any] = {}
    for page in README, (ROOT / "docs" / "python.md").read_text():
        for script in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
            exec(script, names)
    assert isinstance(names["accuracy"], float)
    assert names["accuracy"] > 0.85
    assert names["product"].any()


def test_the_first_picture_is_read_as_the_readme_says(tmp_path: Path) -> None:
    (command,) = re.findall(r"^python -m (mnist_jax\.predict) (.*)$", README, re.MULTILINE)
    done = run_command(tmp_path, command[0], *command[1].split(), cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert f"\n{done.stdout}```" in README


@pytest.mark.parametrize("name", model_names())
def test_every_network_is_in_the_readme_with_what_the_list_says(name: str) -> None:
    (line,) = re.findall(rf"^\| `{name}` \| .*", README, re.MULTILINE)
    entry = model_entry(name)
    assert line.endswith(f"| {entry.published} |")
    assert line.split(" | ")[1][0] == entry.article[0]


def test_every_tabulated_file_exists() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text()
    tabulated = re.findall(r"`((?:mnist_jax|experiments|tests)/[\w/]*(?:\.py)?)`", page)
    assert len(tabulated) >= 10
    for path in tabulated:
        assert (ROOT / path).exists(), path


def test_every_link_of_the_experiments_pages_leads_somewhere() -> None:
    """The other pages' links are tested in the API reference, which these are not part of."""
    for path in (ROOT / "experiments").glob("*.md"):
        for link in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
            assert (path.parent / link).exists(), f"{path.name}: {link}"


def test_the_experiments_page_knows_when_a_row_is_provisional() -> None:
    page = (ROOT / "experiments" / "README.md").read_text()
    assert f"*provisional*: fewer than {ENOUGH_SEEDS} runs" in page
