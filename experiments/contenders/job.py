"""What a worker of the benchmark is told to do, and what its work is."""

import dataclasses
import json
import os
from collections.abc import Callable
from typing import Self

from mnist_jax.data import Dataset, Split
from mnist_jax.errors import UsageError
from mnist_jax.recipe import Recipe

# Does so many steps, or a few more, and waits for them; returns the images they took.
Work = Callable[[int], float]

TORCH = ("torch-eager", "torch-channels_last", "torch-compile", "torch-cuda-graphs")
FLAX = ("flax-steps", "flax-scan")
AUGMENTED = "ours-augmented"
OURS = ("ours", "ours-one-device", "ours-all-devices", AUGMENTED)
VARIANTS = (*OURS, *TORCH, *FLAX)

# Processes of ours that compute with one thread, as hosts of a cluster: one, and two that meet.
HOSTS = ("one-host", "two-hosts")

# Two hosts that add up a network's gradients and do nothing else; its "images" are times.
ALL_REDUCE = "all-reduce"

# Not a variant, but what all are held against: its "images" are floating-point operations.
MATMUL = "matmul"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """What a worker does.

    Attributes:
      variant: one of `VARIANTS` or `HOSTS`, `ALL_REDUCE` or `MATMUL`.
      task: `train`, or `evaluate` for the whole test set.
      recipe: network, batch size, optimiser and dataset.
      seeds: networks trained together in this process.
      threads: of PyTorch; JAX makes its own.
      address: HOST:PORT where the first of several processes that meet is found.
      place: which of its contender's processes this is.
    """

    variant: str
    task: str
    recipe: Recipe
    seeds: int
    threads: int
    address: str = ""
    place: int = 0

    def to_json(self) -> str:
        """Writes the job in one line."""
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
    """On a GPU several workers are there at once; each shall take what it needs."""
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
