"""The pages that `make docs` builds: all, without a warning, with links that lead somewhere."""

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest

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
