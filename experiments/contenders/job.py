"""The benchmark's jobs for its workers."""

import dataclasses
import json
import os
from collections.abc import Callable
from typing import Self

from mnist_jax.data import Dataset, Split
from mnist_jax.errors import UsageError
from mnist_jax.recipe import Recipe

# Runs this many steps, or a few more, and waits for them; returns the number of images.
Work = Callable[[int], float]

TORCH = ("torch-eager", "torch-channels_last", "torch-compile", "torch-cuda-graphs")
FLAX = ("flax-steps", "flax-scan")
AUGMENTED = "ours-augmented"
OURS = ("ours", "ours-one-device", "ours-all-devices", AUGMENTED)
VARIANTS = (*OURS, *TORCH, *FLAX)

# Single-threaded processes of ours that act as cluster hosts: one, and two connected ones.
HOSTS = ("one-host", "two-hosts")

# Two hosts that only all-reduce a network's gradients; its "images" are repetitions.
ALL_REDUCE = "all-reduce"

# Not a variant but the reference for all; its "images" are floating-point operations.
MATMUL = "matmul"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """A worker's job.

    Attributes:
      variant: one of `VARIANTS` or `HOSTS`, `ALL_REDUCE` or `MATMUL`.
      task: `train`, or `evaluate` on the whole test set.
      recipe: network, batch size, optimiser and dataset.
      seeds: networks trained together in this process.
      threads: PyTorch's; JAX creates its own.
      address: HOST:PORT of the first of several connected processes.
      place: this process's index within its contender.
    """

    variant: str
    task: str
    recipe: Recipe
    seeds: int
    threads: int
    address: str = ""
    place: int = 0

    def to_json(self) -> str:
        """Writes the job as one line."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Reads what `to_json` wrote."""
        values = json.loads(text)
        return cls(**values | {"recipe": Recipe.from_dict(values["recipe"])})


def whole_batches(dataset: Dataset, batch_size: int) -> Dataset:
    """Drops the training images that would make a short last batch.

    Raises:
      UsageError: there is no whole batch.
    """
    train = dataset.train
    count = len(train) // batch_size * batch_size
    if not count:
        raise UsageError(f"{dataset.name} has {len(train)} images; give smaller --batch_sizes.")
    return dataclasses.replace(dataset, train=Split(train.images[:count], train.labels[:count]))


def share_gpu() -> None:
    """Disables JAX's memory preallocation, since several workers share a GPU."""
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
