"""Comparing two sources of random tensors by their moments."""

import dataclasses
import math
from collections.abc import Iterable, Mapping

import numpy as np


@dataclasses.dataclass(frozen=True)
class Moments:
    """What many samples of one tensor say of the distribution of its values.

    Attributes:
      count: values seen.
      mean: their mean.
      variance: their mean squared distance from the mean.
      fourth: their mean fourth power of that distance.
      bound: the largest absolute value.
    """

    count: int
    mean: float
    variance: float
    fourth: float
    bound: float


def moments(samples: Iterable[Mapping[str, np.ndarray]]) -> dict[str, Moments]:
    """Measures every tensor's values over all samples together."""
    values: dict[str, list[np.ndarray]] = {}
    for sample in samples:
        for name, tensor in sample.items():
            values.setdefault(name, []).append(np.asarray(tensor, np.float32).ravel())
    return {name: _moments(np.concatenate(parts)) for name, parts in values.items()}


def standard_errors_apart(ours: Moments, theirs: Moments) -> float:
    """How many standard errors two means or two variances differ by, whichever is more.

    Constants are 0 apart if they are equal, and infinitely far otherwise.
    """
    apart = []
    for difference, variances in (
        (ours.mean - theirs.mean, [m.variance / m.count for m in (ours, theirs)]),
        (
            ours.variance - theirs.variance,
            [(m.fourth - m.variance**2) / m.count for m in (ours, theirs)],
        ),
    ):
        error = math.sqrt(max(sum(variances), 0.0))
        apart.append(abs(difference) / error if error else (0.0 if not difference else math.inf))
    return max(apart)


def _moments(values: np.ndarray) -> Moments:
    mean = float(values.mean(dtype=np.float64))
    squares = (values - mean) ** 2
    return Moments(
        count=values.size,
        mean=mean,
        variance=float(squares.mean(dtype=np.float64)),
        fourth=float((squares**2).mean(dtype=np.float64)),
        bound=float(np.abs(values).max()),
    )
