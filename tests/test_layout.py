"""The plan of the house: every module's imports point downward, and none go in a circle."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("mnist_jax", "experiments")
# From the top floor to the ground; a module belongs to the floor that names it or its room.
FLOORS = [
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


DOORS = FLOORS.index({"mnist_jax"})

MODULES = modules()


def imports(path: Path) -> set[str]:
    """Every module of ours that a file names in an import, wherever in the file it stands."""
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


def floor(module: str) -> int:
    """The number of a module's floor; that of its room, or its own."""
    name = module.removesuffix(".__init__")
    while not any(name in rooms for rooms in FLOORS):
        name = name.rpartition(".")[0]
    return next(number for number, rooms in enumerate(FLOORS) if name in rooms)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_downward(module: str) -> None:
    upward = {name for name in IMPORTS[module] if floor(name) < floor(module)}
    assert not upward, f"{module} imports {upward} from a floor above"


def test_there_are_no_circles() -> None:
    # A package's own `__init__` gathers what is in it.
    graph = {
        name: {other if other in MODULES else f"{other}.__init__" for other in others}
        for name, others in IMPORTS.items()
    }
    order = list(TopologicalSorter(graph).static_order())
    assert len(order) >= len(MODULES)


@pytest.mark.parametrize("door", sorted(name for name in MODULES if floor(name) == DOORS))
def test_doors_set_the_log_level_before_jax_is_imported(door: str) -> None:
    # `mnist_jax.cli` does so, and comes first in the order in which imports are sorted.
    tree = ast.parse(MODULES[door].read_text()).body
    names = [node.module for node in tree if isinstance(node, ast.ImportFrom) and node.module]
    names += [alias.name for node in tree if isinstance(node, ast.Import) for alias in node.names]
    assert not {name.split(".")[0] for name in names} & {"jax", "jaxlib", "flax", "optax"}
    if "mnist_jax.cli" in IMPORTS[door]:
        ours = [name for name in names if name.startswith("mnist_jax")]
        assert ours[0] == "mnist_jax"


def test_an_upward_import_and_a_circle_would_be_seen() -> None:
    assert (
        floor("mnist_jax.kernels.ops") > floor("mnist_jax.models.layers") > floor("mnist_jax.train")
    )
    assert "mnist_jax.kernels.ops" in IMPORTS["mnist_jax.models.layers"]
    assert "mnist_jax.cli.tensorboard" in IMPORTS["mnist_jax.train"]
