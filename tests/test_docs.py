"""The pages that `make docs` builds: all, without a warning, with links that lead somewhere."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest

from mnist_jax.schedules import SEGMENTS, Segment
from mnist_jax.transforms import TRANSFORMS

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built by the command, in which warnings are errors."""
    folder = tmp_path_factory.mktemp("pages")
    command = [sys.executable, "-m", "docs.build_pages", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_module_and_every_guide_has_a_page(pages: Path) -> None:
    for path in (ROOT / "mnist_jax").glob("*/*.py"):
        name = path.relative_to(ROOT).with_suffix("")
        page = name.parent if name.name == "__init__" else name
        assert (pages / f"{page}.html").exists()
    for path in (ROOT / "docs").glob("*.md"):
        assert (pages / f"{path.stem}.html").exists()
    reference = (pages / "mnist_jax.html").read_text()
    assert "load_pretrained" in reference
    assert 'href="mnist_jax/training.html"' in reference


def test_links_lead_somewhere(pages: Path) -> None:
    checked = 0
    for page in pages.rglob("*.html"):
        text = re.sub(r"<(pre|script)>.*?</\1>", "", page.read_text(), flags=re.DOTALL)
        for link in re.findall(r'(?:href|src)="([^"#:]+)["#]', text):
            checked += 1
            assert (page.parent / unquote(link)).exists(), f"{page.name}: {link}"
    assert checked > 500


@pytest.mark.parametrize("name", [*TRANSFORMS, *SEGMENTS])
def test_the_guide_has_every_argument_with_its_default(name: str) -> None:
    lines = (ROOT / "docs/training.md").read_text().splitlines()
    rows = [line.split("|") for line in lines if line.startswith("| ")]
    (cell,) = (row[3] for row in rows if f"`{name}`" in row[1])
    of_all = {one.name for one in dataclasses.fields(Segment)}
    arguments = {
        one.name: "" if one.default is dataclasses.MISSING else str(one.default)
        for one in dataclasses.fields((TRANSFORMS | SEGMENTS)[name])
        if one.init and one.name not in of_all
    }
    # They are listed with semicolons between them.
    assert dict(re.findall(r"(?:^|;) `(\w+)`(?: \((.*?)\))?", cell)) == arguments
