"""Runs of 14 steps on synthetic images, for tests that stop, damage and repeat them."""

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from mnist_jax.data import Dataset, Split
from mnist_jax.models.layers import BatchNorm, Dropout, Linear, Network, flatten
from mnist_jax.recipe import Recipe
from mnist_jax.runs.directory import RunDirectory
from mnist_jax.runs.environment import describe_environment
from mnist_jax.training.session import Resumed, fit
from mnist_jax.training.trainer import Trainer

# 7 steps per epoch, the last of 4 images; evaluations after 3, 6, 7, 9, 12 and 14 steps.
RECIPE = Recipe(
    model="shallow",
    batch_size=16,
    epochs=2,
    validation=20,
    learning_rate=0.05,
    momentum=0.9,
    optimizer="sgd",
    selection="best_validation",
    eval_every=3,
)


def shallow(**changes: Any) -> Recipe:
    """A recipe of one epoch, with these fields changed."""
    recipe = Recipe(model="shallow", batch_size=16, epochs=1, learning_rate=0.1)
    return dataclasses.replace(recipe, **changes)


def _split(count: int) -> Split:
    """Noise in which a bright row marks the label."""
    labels = np.arange(count, dtype=np.int32) % 10
    noise = np.random.default_rng(count).integers(0, 200, (count, 28, 28), np.uint8)
    noise[np.arange(count), labels] = 255
    return Split(noise, labels)


class Normed(Network):
    """BatchNorm and dropout, without convolutions, which take half a minute to compile."""

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        super().__init__(
            norm=BatchNorm(1, rngs=rngs),
            flatten=flatten,
            dropout=Dropout(0.5),
            out=Linear(784, 10, rngs=rngs),
        )


DATASET = Dataset("mnist", _split(120), _split(30), "0" * 64, "synthetic")


def train_small(
    paths: Iterable[Path],
    recipe: Recipe = RECIPE,
    *,
    dataset: Dataset = DATASET,
    stop: Callable[[], bool] = lambda: False,
    save_every: float = 1e9,
) -> int:
    """Trains a seed in each directory; returns the step from which they resumed, or 0."""
    runs = [RunDirectory(path) for path in paths]
    trainer = Trainer(recipe, dataset, seeds=range(len(runs)), num_devices=1)
    environment = describe_environment(dataset, {"platform": "test"})
    steps = []

    def report(event: object) -> None:
        if isinstance(event, Resumed):
            steps.append(event.step)

    for seed, run in enumerate(runs):
        with run.locked():
            run.create(dataclasses.replace(recipe, seed=seed), environment)
    fit(trainer, runs, report, save_every=save_every, stop=stop)
    return max(steps, default=0)


def remove_result(path: Path) -> None:
    """Makes a run unfinished, as if it had been killed before it wrote its result."""
    (path / "result.json").unlink()
