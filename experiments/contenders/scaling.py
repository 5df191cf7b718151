"""What several hosts cost and gain: as two of one thread each measure it here, and by a model.

In a step each of n hosts computes its share of the batch, and all-reduces add up the gradients and
the statistics of batch normalisation. The model has one after the other. A ring of n hosts passes
2 (n - 1) messages for each all-reduce and, over every link, 2 (n - 1) / n of the bytes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.contenders.exchanges import exchanges
from experiments.contenders.measurements import Spread
from experiments.contenders.worker import Reading
from mnist_jax.errors import Failure
from mnist_jax.recipe import Recipe

# What is measured: one host, one with half the batch, the all-reduces of a step, and two hosts.
ALONE, HALF, ALL_REDUCE, TWO = "one_host", "half_batch", "all_reduce", "two_hosts"


class Link(NamedTuple):
    """What connects two hosts.

    Attributes:
      name: of its kind.
      latency: seconds that a message takes, by the programs at both ends too.
      bandwidth: bytes per second, each way.
    """

    name: str
    latency: float
    bandwidth: float

    def all_reduce(self, exchanges: int, size: int, hosts: int) -> float:
        """Seconds for so many all-reduces of so many bytes together."""
        messages = 2 * (hosts - 1)
        return exchanges * messages * self.latency + messages / hosts * size / self.bandwidth


# Assumed, in round figures: none was at hand.
ACCELERATORS = (Link("NVLink 4", 2e-6, 450e9), Link("TPU v5e ICI", 1e-6, 45e9))


def ethernet(loopback: Link) -> Link:
    """10 Gbit/s, where messages cost what the same programs need on loopback, and the way."""
    return Link("10 GbE", loopback.latency + 30e-6, 1.25e9)


def row(recipe: Recipe, readings: Mapping[str, Sequence[Reading]]) -> dict[str, Any]:
    """What the rounds of a network and batch size give: a row of the JSON file."""
    count, size = exchanges(recipe)
    images = {ALONE: recipe.batch_size, HALF: recipe.batch_size // 2, ALL_REDUCE: 1}
    seconds = {
        what: [images.get(what, recipe.batch_size) / one.rate for one in rounds]
        for what, rounds in readings.items()
    }
    model = [a + b for a, b in zip(seconds[HALF], seconds[ALL_REDUCE], strict=True)]
    found: dict[str, Any] = {
        "task": "hosts",
        "model": recipe.model,
        "batch_size": recipe.batch_size,
        "exchanges": count,
        "bytes": size,
    }
    spreads = {what: Spread.of(times) for what, times in (*seconds.items(), ("modelled", model))}
    spreads["speedup"] = Spread.of_ratios(seconds[ALONE], seconds[TWO])
    spreads["measured_over_modelled"] = Spread.of_ratios(seconds[TWO], model)
    for what, spread in spreads.items():
        found |= spread.columns(what)
    return found


def fitted(rows: Sequence[Mapping[str, Any]]) -> Link:
    """The link whose all-reduces come closest to those that two hosts have measured.

    Raises:
      Failure: they fit to none.
    """
    costs = [[2 * row["exchanges"], row["bytes"]] for row in rows]
    times = np.array([row[ALL_REDUCE] for row in rows])
    # Relative deviations: the fastest counts as much as the slowest.
    solution, _, rank, _ = np.linalg.lstsq(costs / times[:, None], np.ones(len(rows)))
    if rank < 2 or min(solution) <= 0:
        raise Failure("No link explains these all-reduces; measure more networks, at rest.")
    return Link("loopback", float(solution[0]), float(1 / solution[1]))


def seconds_per_image(row: Mapping[str, Any]) -> float:
    """What every image more adds to a step of one host."""
    difference: float = row[ALONE] - row[HALF]
    return difference / (row["batch_size"] / 2)


def least_computing(all_reduce: float, hosts: int) -> float:
    """How long one host must compute on a batch for so many to be faster, in seconds.

    Of that they save all but their own share, and pay for an all-reduce.
    """
    return all_reduce * hosts / (hosts - 1)
