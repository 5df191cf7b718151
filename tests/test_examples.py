"""Examples in docstrings give the output they show, and the main entry points have one."""

import doctest
from importlib import import_module
from pathlib import Path

import pytest

import mnist_jax
from mnist_jax.data import load_dataset
from mnist_jax.models import create_model
from mnist_jax.recipe import Recipe
from mnist_jax.training import TrainState, train_step

ROOT = Path(__file__).parents[1]
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted((ROOT / "mnist_jax").rglob("*.py"))
    if ">>> " in path.read_text()
]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_give_the_output_they_show(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    done = doctest.testmod(import_module(name))
    assert done.attempted > 0
    assert not done.failed, capsys.readouterr().out


@pytest.mark.parametrize(
    "entry",
    [
        mnist_jax.differentiable,
        mnist_jax.load_pretrained,
        load_dataset,
        create_model,
        Recipe,
        TrainState.create,
        train_step,
    ],
    ids=lambda entry: entry.__qualname__,
)
def test_entry_point_has_an_example(entry: object) -> None:
    assert ">>> " in (entry.__doc__ or "")
