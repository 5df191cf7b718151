"""The statistics of the comparison: what a few runs say of the next one, and of each other."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Summary:
    """Runs of one recipe that differ in their seed.

    Attributes:
      n: how many.
      mean: of their figures.
      sd: standard deviation, of a sample; NaN for one run.
      low: the smallest.
      high: the largest.
      bounds: what any figure lies between.
    """

    n: int
    mean: float
    sd: float
    low: float
    high: float
    bounds: tuple[float, float]

    @property
    def interval(self) -> tuple[float, float]:
        """Where one more run falls with 95% probability, if runs are normal; NaN for one run."""
        if self.n < 2:
            return math.nan, math.nan
        reach = float(stats.t.ppf(0.975, self.n - 1)) * self.sd * math.sqrt(1 + 1 / self.n)
        floor, ceiling = self.bounds
        return max(floor, self.mean - reach), min(ceiling, self.mean + reach)


@dataclass(frozen=True)
class Difference:
    """A mean difference with its test.

    Attributes:
      mean: first minus second.
      low: the lower end of the 95% confidence interval of the mean.
      high: the upper end.
      p: two-sided; NaN where it is not defined.
    """

    mean: float
    low: float
    high: float
    p: float


def summarize(values: Sequence[float], bounds: tuple[float, float]) -> Summary:
    """Summarises at least one figure; `bounds` are what any figure lies between."""
    array = np.asarray(values, np.float64)
    sd = float(array.std(ddof=1)) if len(array) > 1 else math.nan
    low, high = float(array.min()), float(array.max())
    return Summary(len(array), float(array.mean()), sd, low, high, bounds)


def welch(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Welch's t-test of independent runs, at least two on each side."""
    if np.ptp(first) == np.ptp(second) == 0:
        return _certain(first[0] - second[0])
    return _difference(stats.ttest_ind(first, second, equal_var=False), first, second)


def paired(first: Sequence[float], second: Sequence[float]) -> Difference:
    """The paired t-test of runs on the same seeds, at least two."""
    if np.ptp(differences := np.subtract(first, second)) == 0:
        return _certain(float(differences[0]))
    return _difference(stats.ttest_rel(first, second), first, second)


def mcnemar(first: np.ndarray, second: np.ndarray) -> tuple[int, int, float]:
    """McNemar's exact test of two runs: whether each is right on the same test images, bool [N].

    Returns:
      Images that only the first, and only the second has right, and the two-sided p.
    """
    only_first, only_second = int(np.sum(first & ~second)), int(np.sum(second & ~first))
    if not only_first + only_second:
        return 0, 0, 1.0
    p = stats.binomtest(only_first, only_first + only_second).pvalue
    return only_first, only_second, float(p)


def vote(predictions: np.ndarray) -> np.ndarray:
    """The majority of labels [voters, N] as [N]; of equals the lowest label."""
    counts = np.stack([(predictions == label).sum(0) for label in range(10)])
    return counts.argmax(0)


def _certain(difference: float) -> Difference:
    """Without any spread there is nothing to test."""
    return Difference(difference, difference, difference, math.nan)


def _difference(result: Any, first: Sequence[float], second: Sequence[float]) -> Difference:
    interval = result.confidence_interval(0.95)
    mean = float(np.mean(first) - np.mean(second))
    return Difference(mean, float(interval.low), float(interval.high), float(result.pvalue))
