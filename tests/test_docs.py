"""The pages that `make docs` builds: complete, without warnings or broken links."""

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
    """The pages as the command builds them, which turns warnings into errors."""
    folder = tmp_path_factory.mktemp("pages")
    command = [sys.executable, "-m", "docs.build_pages", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_module_and_every_guide_has_a_page(pages: Path) -> None:
    modules, guides = [*(ROOT / "mnist_jax").glob("*/*.py")], [*(ROOT / "docs").glob("*.md")]
    assert modules
    assert guides
    for path in modules:
        name = path.relative_to(ROOT).with_suffix("")
        page = name.parent if name.name == "__init__" else name
        assert (pages / f"{page}.html").exists()
    for path in guides:
        assert (pages / f"{path.stem}.html").exists()
    reference = (pages / "mnist_jax.html").read_text()
    assert "load_pretrained" in reference
    assert 'href="mnist_jax/training.html"' in reference


def test_local_links_are_not_broken(pages: Path) -> None:
    checked = 0
    for page in pages.rglob("*.html"):
        text = re.sub(r"<(pre|script)>.*?</\1>", "", page.read_text(), flags=re.DOTALL)
        for link in re.findall(r'(?:href|src)="([^"#:]+)["#]', text):
            checked += 1
            assert (page.parent / unquote(link)).exists(), f"{page.name}: {link}"
    assert checked > 500


@pytest.mark.parametrize("name", [*TRANSFORMS, *SEGMENTS])
def test_the_guide_lists_every_argument_with_its_default(name: str) -> None:
    lines = (ROOT / "docs/training.md").read_text().splitlines()
    rows = [line.split("|") for line in lines if line.startswith("| ")]
    (cell,) = (row[3] for row in rows if f"`{name}`" in row[1])
    common = {field.name for field in dataclasses.fields(Segment)}
    arguments = {
        field.name: "" if field.default is dataclasses.MISSING else str(field.default)
        for field in dataclasses.fields((TRANSFORMS | SEGMENTS)[name])
        if field.init and field.name not in common
    }
    # They are separated by semicolons.
    assert dict(re.findall(r"(?:^|;) `(\w+)`(?: \((.*?)\))?", cell)) == arguments
