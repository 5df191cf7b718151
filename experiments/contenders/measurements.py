"""The benchmark's results: contenders compared with ours, with date, revision and machine."""

import os
import platform
import shlex
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata, util
from typing import Any, NamedTuple, Self

from experiments.contenders.job import MATMUL, TORCH
from experiments.contenders.worker import Reading
from mnist_jax.models.layers import Network
from mnist_jax.models.summary import summarize
from mnist_jax.recipe import Recipe
from mnist_jax.runs.environment import PACKAGES, git_revision
from mnist_jax.training import devices


def circumstances(program: str) -> dict[str, Any]:
    """The circumstances of a program's measurements: the header of its file."""
    packages = [*PACKAGES, *(["torch"] if util.find_spec("torch") else [])]
    return {
        "command": shlex.join(["python", "-m", program, *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
        "git": git_revision(),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in packages},
        "processor": devices.processor(),
        "cores": devices.cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "busy_before": os.getloadavg()[0],
    }


class Entrant(NamedTuple):
    """A contender: a variant and the number of networks trained together."""

    variant: str
    seeds: int


PEAK = Entrant(MATMUL, 1)


class Spread(NamedTuple):
    """The median and range over the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        """Summarises one value per round."""
        values = list(values)
        return cls(statistics.median(values), min(values), max(values))

    @classmethod
    def of_ratios(cls, ours: Sequence[float], other: Sequence[float]) -> Self:
        """Summarises the ratios round by round."""
        return cls.of(a / b for a, b in zip(ours, other, strict=True))

    def columns(self, name: str) -> dict[str, Any]:
        """The median under this name, and the range under `{name}_range`."""
        return {name: self.median, f"{name}_range": [self.low, self.high]}


def training_flops(model: Network) -> int:
    """Floating-point operations per image of a training step, in convolutions and dense layers.

    Forward pass, kernel gradient and, except in the first layer, input gradient: each has as many
    multiplications and additions as the forward pass.
    """
    forward = [2 * layer.multiply_adds for layer in summarize(model) if layer.multiply_adds]
    return 3 * sum(forward) - forward[0]


def compared(
    task: str, recipe: Recipe, readings: Mapping[Entrant, Sequence[Reading]], flops: int | None
) -> list[dict[str, Any]]:
    """Compares a recipe's contenders and the matrix product: the rows of the JSON file.

    `flops` are operations per image; None if they are not counted.
    """
    rates = {entrant: [one.rate for one in rounds] for entrant, rounds in readings.items()}
    peak = rates.pop(PEAK)
    speeds = {entrant: Spread.of(own) for entrant, own in rates.items()}
    torch = [entrant for entrant in rates if entrant.variant in TORCH]
    # The fastest by median is the one reported.
    best = {e.seeds: e for e in sorted(torch, key=lambda e: speeds[e].median)}
    found = []
    for entrant, own in rates.items():
        speed = speeds[entrant]
        ours = rates.get(Entrant("ours", entrant.seeds))
        ratio = Spread.of_ratios(ours, own) if ours else None
        found.append(
            {
                "task": task,
                "model": recipe.model,
                "batch_size": recipe.batch_size,
                "variant": entrant.variant,
                "seeds": entrant.seeds,
                "images_per_second": speed.median,
                "images_per_second_range": [speed.low, speed.high],
                "ours_over_this": ratio and ratio.median,
                "ours_over_this_range": ratio and [ratio.low, ratio.high],
                "best_of_pytorch": best.get(entrant.seeds) == entrant,
                "fraction_of_matmul_peak": flops and flops * Spread.of_ratios(own, peak).median,
                "peak_memory_mib": readings[entrant][-1].memory,
            }
        )
    return found
