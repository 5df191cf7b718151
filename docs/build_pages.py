"""Builds the API reference, with the README and the guides beside it: `make docs`."""

import os
import pkgutil
import re
import sys
import warnings
from importlib import import_module
from pathlib import Path
from types import ModuleType

from pdoc import doc, render

import mnist_jax

ROOT = Path(__file__).resolve().parents[1]
# Commands, whose --help is their documentation; flags can't be defined twice in one process.
COMMANDS = {
    path.stem
    for path in (ROOT / "mnist_jax").glob("*.py")
    if 'if __name__ == "__main__":' in path.read_text()
}


def build(folder: Path) -> None:
    """Writes the pages: `index.html` is the README.

    Args:
      folder: where they go; links into the checkout are relative to it.
    """
    # The package imports these lazily, and pdoc does not trigger that.
    for name in mnist_jax.__all__:
        setattr(mnist_jax, name, getattr(mnist_jax, name))
    modules = {"mnist_jax": doc.Module(mnist_jax)}
    for found in pkgutil.walk_packages(mnist_jax.__path__, "mnist_jax."):
        if found.name.removeprefix("mnist_jax.") not in COMMANDS:
            modules[found.name] = doc.Module(import_module(found.name))
    for name, module in modules.items():
        # Pdoc would skip those that `__all__` does not name.
        below = (other for other in modules if other.rpartition(".")[0] == name)
        module.__dict__["submodules"] = [modules[other] for other in below]
    for path in (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))):
        name = _page_name(path)
        page = ModuleType(name, _linked(path, folder))
        page.__dict__["__docformat__"] = "markdown"
        modules[name] = doc.Module(page)
    render.configure(docformat="google")
    for name, module in modules.items():
        target = folder / f"{name.replace('.', '/')}.html"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(render.html_module(module, modules))
    (folder / "search.js").write_text(render.search_index(modules))


def _page_name(path: Path) -> str:
    return "index" if path.name == "README.md" else path.stem.lower()


def _linked(path: Path, folder: Path) -> str:
    """A guide's text, its links turned into those of a page in `folder`."""

    def link(found: re.Match[str]) -> str:
        file, mark, place = found[1].partition("#")
        target = (path.parent / file).resolve()
        if target.suffix == ".md" and target.parent in (ROOT, ROOT / "docs"):
            return f"]({_page_name(target)}.html{mark}{place})"
        return f"]({os.path.relpath(target, folder)}{mark}{place})"

    text = re.sub(r"\]\(([^)#:][^):]*)\)", link, path.read_text())
    return text if path.name != "README.md" else f"[API reference](mnist_jax.html)\n\n{text}"


if __name__ == "__main__":
    warnings.simplefilter("error")
    # Optax's state type refers to `ArrayTree` by a name that only its own module knows; optional
    # packages need not be installed to build the pages.
    warnings.filterwarnings("ignore", ".* Import of (ArrayTree|onnx) failed")
    warnings.filterwarnings("ignore", ".* No module named 'onnx'")
    build(Path(sys.argv[1]).resolve())
