"""Statistics of metrics, probabilities and labels, for printing and plotting."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# The 97.5% quantile of the standard normal distribution.
_Z = 1.959964


@dataclass(frozen=True, eq=False)
class Series:
    """One metric of a run: values `y` [T] at increasing steps or epochs `x` [T]."""

    x: np.ndarray
    y: np.ndarray

    def scaled(self, factor: float) -> "Series":
        """The same with every `y` multiplied."""
        return Series(self.x, factor * self.y)


@dataclass(frozen=True, eq=False)
class Band:
    """Mean and range [T] over runs that differ in their seed, where all have a value."""

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True, eq=False)
class Rates:
    """Proportions of correct predictions with Wilson 95% intervals, [K] each.

    From 0 to 1; NaN where there are no images.
    """

    rate: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True, eq=False)
class Calibration:
    """A network's calibration, in bins of equal width over [0, 1].

    Attributes:
      count: [bins], images by the probability of their predicted class.
      confidence: [bins], the mean of that probability; NaN in an empty bin.
      accuracy: the accuracy in each bin.
      error: the expected calibration error: |accuracy - confidence|, averaged over images.
    """

    count: np.ndarray
    confidence: np.ndarray
    accuracy: Rates
    error: float


def since_best(values: Sequence[float]) -> int:
    """The number of values after the first maximum; 0 if there are no values."""
    return len(values) - 1 - int(np.argmax(values)) if values else 0


def by_epoch(
    steps: Sequence[float],
    values: Sequence[float],
    steps_per_epoch: int,
    *,
    mean: bool,
    last_batch: float = 1.0,
) -> Series:
    """Reduces a column of metrics to one value per epoch.

    Args:
      steps: the steps of the evaluations, among them the end of every epoch.
      values: the column's value at each of them.
      steps_per_epoch: the number of steps in an epoch.
      mean: whether a value is a mean since the previous evaluation, as training metrics are, and
        is to be averaged over the epoch; otherwise the value at the end of the epoch is taken.
      last_batch: the size of an epoch's last batch, as a share of the others'.

    Returns:
      A value for every epoch that has ended.
    """
    step, value = np.asarray(steps), np.asarray(values, np.float64)
    ends = np.flatnonzero(step % steps_per_epoch == 0)
    epochs = step[ends] // steps_per_epoch
    if not mean or not ends.size:
        return Series(epochs, value[ends])
    batches = np.diff(step, prepend=0).astype(np.float64)
    batches[ends] += last_batch - 1
    weighted = (value * batches)[: ends[-1] + 1]
    sums = np.add.reduceat(weighted, [0, *(ends[:-1] + 1)])
    return Series(epochs, sums / (steps_per_epoch + last_batch - 1))


def band(runs: Sequence[Series]) -> Band:
    """Mean and range of one or more series, where all have a value."""
    x = runs[0].x
    for run in runs[1:]:
        x = np.intersect1d(x, run.x)
    values = np.stack([run.y[np.isin(run.x, x)] for run in runs])
    return Band(x, values.mean(axis=0), values.min(axis=0), values.max(axis=0))


def thinned(band: Band, most: int) -> Band:
    """Reduces a band to at most `most` values: neighbours' mean, and the range of all of them."""
    starts = np.arange(0, len(band.x), math.ceil(len(band.x) / most))
    counts = np.diff(starts, append=len(band.x))
    return Band(
        np.add.reduceat(band.x, starts) / counts,
        np.add.reduceat(band.mean, starts) / counts,
        np.minimum.reduceat(band.low, starts),
        np.maximum.reduceat(band.high, starts),
    )


def confusion(labels: np.ndarray, predictions: np.ndarray, classes: int = 10) -> np.ndarray:
    """Images by true (row) and predicted (column) class: [classes, classes]."""
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (labels, predictions), 1)
    return counts


def rates(correct: np.ndarray, total: np.ndarray) -> Rates:
    """Proportions of correct predictions: `correct` [K] of `total` [K].

    Example:
      >>> shares = rates(np.array([9943]), np.array([10_000]))
      >>> shares.rate, shares.low.round(4), shares.high.round(4)
      (array([0.9943]), array([0.9926]), array([0.9956]))
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = correct / total
        scale = 1 / (1 + _Z**2 / total)
        centre = (rate + _Z**2 / (2 * total)) * scale
        reach = _Z * np.sqrt(rate * (1 - rate) / total + (_Z / (2 * total)) ** 2) * scale
    # Rounding must not leave the rate outside its interval.
    return Rates(rate, np.minimum(centre - reach, rate), np.maximum(centre + reach, rate))


def calibration(probability: np.ndarray, labels: np.ndarray, bins: int = 10) -> Calibration:
    """Sorts images into bins by the probability [N, classes] of their predicted class."""
    confidence = probability.max(axis=1)
    right = probability.argmax(axis=1) == labels
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    count = np.bincount(index, minlength=bins)
    correct = np.bincount(index, right, bins)
    said = np.bincount(index, confidence, bins)
    with np.errstate(invalid="ignore"):
        mean = said / count
    error = float(np.abs(correct - said).sum() / len(labels))
    return Calibration(count, mean, rates(correct, count), error)


def misclassified(probability: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The indices of wrong predictions, those with the most probability [N, classes] first."""
    wrong = np.flatnonzero(probability.argmax(axis=1) != labels)
    return wrong[np.argsort(-probability.max(axis=1)[wrong], kind="stable")]


def mosaic(maps: np.ndarray, columns: int) -> np.ndarray:
    """Arranges images [K, H, W] in rows, with a frame of NaN around each.

    The result is [rows * (H + 1) + 1, columns * (W + 1) + 1]; missing cells are NaN.
    """
    count, height, width = maps.shape
    rows = math.ceil(count / columns)
    cells = np.full((rows * columns, height + 1, width + 1), np.nan)
    cells[:count, 1:, 1:] = maps
    grid = cells.reshape(rows, columns, height + 1, width + 1).swapaxes(1, 2)
    framed = grid.reshape(rows * (height + 1), columns * (width + 1))
    return np.pad(framed, ((0, 1), (0, 1)), constant_values=np.nan)
