"""From metrics, probabilities and labels to numbers that are printed and drawn."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Of the standard normal distribution, 95% lie within so many deviations.
_Z = 1.959964


@dataclass(frozen=True, eq=False)
class Course:
    """How one number of a run went: values `y` [T] at rising steps or epochs `x` [T]."""

    x: np.ndarray
    y: np.ndarray

    def scaled(self, factor: float) -> "Course":
        """The same with every `y` multiplied."""
        return Course(self.x, factor * self.y)


@dataclass(frozen=True, eq=False)
class Band:
    """Runs that differ in their seed, together: mean and extremes [T] where all have a value."""

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True, eq=False)
class Rates:
    """Shares of right answers with Wilson's 95% intervals, [K] each.

    From 0 to 1; NaN where there was nothing to answer.
    """

    rate: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True, eq=False)
class Calibration:
    """Whether a network is right as often as it says; of bins of equal width over [0, 1].

    Attributes:
      count: [bins], images by the probability of their predicted class.
      confidence: [bins], the mean of that probability; NaN in an empty bin.
      accuracy: of each bin.
      error: the expected calibration error: |accuracy - confidence|, averaged over images.
    """

    count: np.ndarray
    confidence: np.ndarray
    accuracy: Rates
    error: float


def since_best(values: Sequence[float]) -> int:
    """How many of the values come after the first of the largest ones; 0 of none."""
    return len(values) - 1 - int(np.argmax(values)) if values else 0


def by_epoch(
    steps: Sequence[float], values: Sequence[float], steps_per_epoch: int, *, mean: bool
) -> Course:
    """Takes a column of metrics per epoch.

    Args:
      steps: of the evaluations, the end of every epoch among them.
      values: at each of them.
      steps_per_epoch: what an epoch has.
      mean: whether a value is a mean since the evaluation before it, as those of training are,
        and is to be averaged over the epoch; otherwise the one at the epoch's end counts.

    Returns:
      A value for every epoch that has ended.
    """
    step, value = np.asarray(steps), np.asarray(values, np.float64)
    ends = np.flatnonzero(step % steps_per_epoch == 0)
    epochs = step[ends] // steps_per_epoch
    if not mean or not ends.size:
        return Course(epochs, value[ends])
    weighted = (value * np.diff(step, prepend=0))[: ends[-1] + 1]
    sums = np.add.reduceat(weighted, [0, *(ends[:-1] + 1)])
    return Course(epochs, sums / steps_per_epoch)


def band(courses: Sequence[Course]) -> Band:
    """Mean and range of at least one course, where all have a value."""
    x = courses[0].x
    for course in courses[1:]:
        x = np.intersect1d(x, course.x)
    values = np.stack([course.y[np.isin(course.x, x)] for course in courses])
    return Band(x, values.mean(axis=0), values.min(axis=0), values.max(axis=0))


def thinned(band: Band, most: int) -> Band:
    """A band with `most` values at most: means of neighbours within the range of them all."""
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
    """Shares of right answers: `correct` [K] of `total` [K].

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
    """Lays pictures [K, H, W] out in rows, with a frame of NaN around each.

    The result is [rows * (H + 1) + 1, columns * (W + 1) + 1]; what the last row lacks is NaN.
    """
    count, height, width = maps.shape
    rows = math.ceil(count / columns)
    cells = np.full((rows * columns, height + 1, width + 1), np.nan)
    cells[:count, 1:, 1:] = maps
    grid = cells.reshape(rows, columns, height + 1, width + 1).swapaxes(1, 2)
    framed = grid.reshape(rows * (height + 1), columns * (width + 1))
    return np.pad(framed, ((0, 1), (0, 1)), constant_values=np.nan)
