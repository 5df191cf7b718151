"""Comparison of two sources of random tensors by mean and variance."""

import math
from collections.abc import Iterable, Mapping

import numpy as np


def pooled(samples: Iterable[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The values of each tensor pooled over all samples: [count], by name."""
    values: dict[str, list[np.ndarray]] = {}
    for sample in samples:
        for name, tensor in sample.items():
            values.setdefault(name, []).append(np.asarray(tensor, np.float32).ravel())
    return {name: np.concatenate(parts) for name, parts in values.items()}


def standard_errors_apart(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The number of standard errors by which means or variances differ, whichever is larger.

    For constants it is 0 if they are equal, and infinite otherwise.
    """
    first, second = _moments(ours), _moments(theirs)
    counts = len(ours), len(theirs)
    apart = []
    for difference, variances in (
        (first[0] - second[0], [first[1], second[1]]),
        (first[1] - second[1], [m[2] - m[1] ** 2 for m in (first, second)]),
    ):
        error = math.sqrt(max(sum(v / n for v, n in zip(variances, counts, strict=True)), 0.0))
        apart.append(abs(difference) / error if error else (0.0 if not difference else math.inf))
    return max(apart)


def _moments(values: np.ndarray) -> tuple[float, float, float]:
    """The mean, and the second and fourth moment about it."""
    mean = values.mean(dtype=np.float64)
    squares = (values - mean) ** 2
    return float(mean), float(squares.mean()), float((squares**2).mean())
