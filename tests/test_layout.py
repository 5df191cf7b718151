"""The layers of the code: imports point downward, and there are no cycles."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("mnist_jax", "experiments")
# From top to bottom; a module belongs to the layer that names it or its package.
LAYERS = [
    {"experiments"},
    {"experiments.sweeps"},
    {"experiments.evidence", "experiments.contenders"},
    {"experiments.references"},
    {"mnist_jax"},
    {"mnist_jax.cli"},
    {"mnist_jax.drawing"},
    {"mnist_jax.reporting", "mnist_jax.interchange"},
    {"mnist_jax.training"},
    {"mnist_jax.runs"},
    {"mnist_jax.models"},
    {"mnist_jax.kernels"},
    {"mnist_jax.data"},
    {
        f"mnist_jax.{name}"
        for name in (
            *("recipe", "schedules", "transforms", "named", "inputs", "augment"),
            *("errors", "files", "hosts", "launchers", "measures", "version"),
        )
    },
]


def modules() -> dict[str, Path]:
    paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in paths}


ENTRY_POINTS = LAYERS.index({"mnist_jax"})

MODULES = modules()


def imports(path: Path) -> set[str]:
    """Every module of ours that a file imports, anywhere in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = {name for name in inner if name in MODULES or f"{name}.__init__" in MODULES}
            found |= modules or {node.module}
    return {name for name in found if name.split(".")[0] in PACKAGES}


IMPORTS = {name: imports(path) for name, path in MODULES.items()}


def layer(module: str) -> int:
    """The index of a module's layer: its own or that of its package."""
    name = module.removesuffix(".__init__")
    while not any(name in members for members in LAYERS):
        name = name.rpartition(".")[0]
    return next(index for index, members in enumerate(LAYERS) if name in members)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_downward(module: str) -> None:
    upward = {name for name in IMPORTS[module] if layer(name) < layer(module)}
    assert not upward, f"{module} imports {upward} from a higher layer"


def test_imports_have_no_cycles() -> None:
    # A package's own `__init__` re-exports its contents.
    graph = {
        name: {other if other in MODULES else f"{other}.__init__" for other in others}
        for name, others in IMPORTS.items()
    }
    assert len(graph) >= len(MODULES)
    TopologicalSorter(graph).prepare()  # Raises CycleError.


@pytest.mark.parametrize("module", sorted(name for name in MODULES if layer(name) == ENTRY_POINTS))
def test_entry_points_set_the_log_level_before_jax_is_imported(module: str) -> None:
    # `mnist_jax.cli` does so, and sorted imports put it first.
    tree = ast.parse(MODULES[module].read_text()).body
    names = [node.module for node in tree if isinstance(node, ast.ImportFrom) and node.module]
    names += [alias.name for node in tree if isinstance(node, ast.Import) for alias in node.names]
    assert not {name.split(".")[0] for name in names} & {"jax", "jaxlib", "flax", "optax"}
    if "mnist_jax.cli" in IMPORTS[module]:
        ours = [name for name in names if name.startswith("mnist_jax")]
        assert ours[0] == "mnist_jax"


def test_upward_import_would_be_detected() -> None:
    assert (
        layer("mnist_jax.kernels.ops") > layer("mnist_jax.models.layers") > layer("mnist_jax.train")
    )
    assert "mnist_jax.kernels.ops" in IMPORTS["mnist_jax.models.layers"]
    assert "mnist_jax.cli.tensorboard" in IMPORTS["mnist_jax.train"]
