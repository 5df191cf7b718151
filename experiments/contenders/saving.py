"""The time of a checkpoint: while training waits, and in the background."""

import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import jax

from mnist_jax.data import Dataset
from mnist_jax.recipe import Recipe
from mnist_jax.runs.checkpoints import Checkpoints
from mnist_jax.training.trainer import Trainer


class Save(NamedTuple):
    """One checkpoint.

    Attributes:
      seconds: time that training waited.
      background: time from then until it was safe on disk, in seconds.
    """

    seconds: float
    background: float


def saves(recipe: Recipe, dataset: Dataset, rounds: int) -> tuple[int, list[Save]]:
    """Saves a fresh run of one seed repeatedly, after one warm-up save.

    Returns:
      The bytes of a checkpoint's arrays, and the timed saves.
    """
    trainer = Trainer(recipe, dataset, seeds=[recipe.seed])
    found = []
    with tempfile.TemporaryDirectory() as folder, Checkpoints(Path(folder) / "run") as store:
        for step in range(rounds + 1):
            started = time.perf_counter()
            (saved,) = trainer.saved()
            store.save(step, saved)
            waited = time.perf_counter()
            store.wait()
            found.append(Save(waited - started, time.perf_counter() - waited))
    return sum(leaf.nbytes for leaf in jax.tree.leaves(saved)), found[1:]
