"""The README's script runs, and what it says of files and names is true."""

import re
from pathlib import Path

from mnist_jax.models import model_names

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_research_script_trains() -> None:
    (script,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict[str, object] = {}
    exec(script, names)
    assert isinstance(names["accuracy"], float)
    assert names["accuracy"] > 0.85


def test_every_network_is_in_the_readme() -> None:
    for name in model_names():
        assert f"`{name}`" in README


def test_every_linked_or_tabulated_file_exists() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    tabulated = re.findall(r"`((?:mnist_jax|experiments|tests)/[\w/]*(?:\.py)?)`", README)
    assert len(links) >= 5
    assert len(tabulated) >= 10
    for path in (*links, *tabulated):
        assert (ROOT / path).exists(), path
