"""Cost and gain of several hosts: measured here with two single-threaded ones, and modelled.

In a step, each of n hosts computes its share of the batch, and all-reduces add up the gradients and
the statistics of batch normalisation. The model assumes no overlap of the two. A ring of n hosts
passes 2 (n - 1) messages for each all-reduce and, over every link, 2 (n - 1) / n of the bytes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.contenders.exchanges import exchanges
from experiments.contenders.measurements import Spread
from experiments.contenders.worker import Reading
from mnist_jax.errors import Failure
from mnist_jax.recipe import Recipe

# Measurements: one host, one with half the batch, the all-reduces of a step, and two hosts.
ALONE, HALF, ALL_REDUCE, TWO = "one_host", "half_batch", "all_reduce", "two_hosts"


class Link(NamedTuple):
    """A link between two hosts.

    Attributes:
      name: its kind.
      latency: seconds per message, including the programs at both ends.
      bandwidth: bytes per second in each direction.
    """

    name: str
    latency: float
    bandwidth: float

    def all_reduce(self, exchanges: int, size: int, hosts: int) -> float:
        """Seconds for `exchanges` all-reduces with `size` bytes in total."""
        messages = 2 * (hosts - 1)
        return exchanges * messages * self.latency + messages / hosts * size / self.bandwidth


# Assumed, in round figures; none was available to measure.
ACCELERATORS = (Link("NVLink 4", 2e-6, 450e9), Link("TPU v5e ICI", 1e-6, 45e9))


def ethernet(loopback: Link) -> Link:
    """10 Gbit/s Ethernet: a message costs the programs' time on loopback plus the wire's."""
    return Link("10 GbE", loopback.latency + 30e-6, 1.25e9)


def row(recipe: Recipe, readings: Mapping[str, Sequence[Reading]]) -> dict[str, Any]:
    """The results of the rounds for a network and batch size: a row of the JSON file."""
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
    """The link whose modelled all-reduces best fit those measured between two hosts.

    Raises:
      Failure: no link fits them.
    """
    costs = [[2 * row["exchanges"], row["bytes"]] for row in rows]
    times = np.array([row[ALL_REDUCE] for row in rows])
    # Relative residuals: the fastest counts as much as the slowest.
    solution, _, rank, _ = np.linalg.lstsq(costs / times[:, None], np.ones(len(rows)))
    if rank < 2 or min(solution) <= 0:
        raise Failure(
            "No link explains these all-reduces; measure more networks on an idle machine."
        )
    return Link("loopback", float(solution[0]), float(1 / solution[1]))


def seconds_per_image(row: Mapping[str, Any]) -> float:
    """The time that each additional image adds to a step on one host."""
    difference: float = row[ALONE] - row[HALF]
    return difference / (row["batch_size"] / 2)


def least_computing(all_reduce: float, hosts: int) -> float:
    """The least seconds of one host's computing on a batch for which `hosts` hosts are faster.

    Each host computes only its share of it, but they pay for the all-reduces.
    """
    return all_reduce * hosts / (hosts - 1)
