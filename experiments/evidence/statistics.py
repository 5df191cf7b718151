"""The statistics of the comparison: what a few runs say of the next one, and of each other."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

# Points: a hundred thousandth of what one of 10,000 images makes, and far above float rounding.
_NOISE = 1e-7


@dataclass(frozen=True)
class Spread:
    """How far normal runs of one recipe lie from each other.

    Attributes:
      sd: standard deviation; NaN if nothing is known of it.
      df: degrees of freedom that it was estimated with.
    """

    sd: float
    df: int

    def reach(self, n: int, more: int) -> float:
        """How far the mean of `more` runs lies from that of `n` at most, with 95% probability."""
        return float(stats.t.ppf(0.975, self.df)) * self._error(n, more)

    def p(self, distance: float, n: int, more: int) -> float:
        """How probable means at least `distance` apart are; NaN without any spread."""
        if not self.sd:
            return math.nan
        return 2 * float(stats.t.sf(distance / self._error(n, more), self.df))

    def _error(self, n: int, more: int) -> float:
        return self.sd * math.sqrt(1 / n + 1 / more)


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
    def spread(self) -> Spread:
        """What these runs alone say of it."""
        return Spread(self.sd, self.n - 1)

    @property
    def interval(self) -> tuple[float, float]:
        """Where one more run falls with 95% probability, if runs are normal; NaN for one run."""
        return self.within(self.spread.reach(self.n, 1)) if self.n > 1 else (math.nan, math.nan)

    def within(self, reach: float) -> tuple[float, float]:
        """What is so far from the mean at most, between the bounds."""
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


def pooled(samples: Sequence[Sequence[float]]) -> Spread:
    """The spread that several recipes have in common, each with at least two runs."""
    df = sum(len(sample) - 1 for sample in samples)
    squares = sum((len(sample) - 1) * np.var(sample, ddof=1) for sample in samples)
    return Spread(math.sqrt(squares / df), df)


def equally_spread(samples: Sequence[Sequence[float]]) -> float:
    """Levene's p (about the medians) of several recipes having one spread.

    Two runs are equally far from their median: without a recipe of three, there is nothing to test.
    """
    if all(len(sample) < 3 for sample in samples):
        return math.nan
    return float(stats.levene(*samples, center="median").pvalue)


def welch(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Welch's t-test of independent runs, at least two on each side."""
    if np.ptp(first) == np.ptp(second) == 0:
        return _certain(first[0] - second[0])
    return _difference(stats.ttest_ind(first, second, equal_var=False), first, second)


def paired(first: Sequence[float], second: Sequence[float]) -> Difference:
    """The paired t-test of runs on the same seeds, at least two.

    Differences that rounding alone makes differ are equal: then there is nothing to test.
    """
    differences = np.subtract(first, second)
    if np.allclose(differences, differences[0], rtol=0, atol=_NOISE):
        return _certain(float(differences[0]))
    return _difference(stats.ttest_rel(first, second), first, second)


def equivalence(first: Sequence[float], second: Sequence[float], margin: float) -> float:
    """The p of two one-sided Welch tests (TOST), of the means lying `margin` or farther apart."""
    if np.ptp(first) == np.ptp(second) == 0:
        return math.nan
    sides = ((margin, "greater"), (-margin, "less"))
    return max(
        float(stats.ttest_ind(np.add(first, by), second, equal_var=False, alternative=side).pvalue)
        for by, side in sides
    )


def runs_for_equivalence(sd: float, margin: float) -> int:
    """How many runs on each side TOST needs to show that equal means are within a margin.

    With a power of 0.8 at p < 0.05, by the normal approximation.
    """
    quantiles = stats.norm.ppf(0.95) + stats.norm.ppf(0.9)
    return math.ceil(2 * (quantiles * sd / margin) ** 2)


def normality(values: Sequence[float]) -> float:
    """The p of Shapiro and Wilk's test of at least three values, not all the same, being normal."""
    return float(stats.shapiro(values).pvalue)


def skewness(values: Sequence[float]) -> float:
    """The third standardised moment."""
    return float(stats.skew(values))


def holm(ps: Sequence[float]) -> list[float]:
    """Adjusts the p values of a family of tests by Holm's method; NaN is no test, and stays."""
    adjusted = np.full(len(ps), np.nan)
    tests = [i for i in np.argsort(ps) if not math.isnan(ps[i])]
    steps = [min(1.0, (len(tests) - rank) * ps[i]) for rank, i in enumerate(tests)]
    adjusted[tests] = np.maximum.accumulate(steps)
    return adjusted.tolist()


def mcnemar(first: np.ndarray, second: np.ndarray) -> float:
    """The two-sided p of McNemar's exact test: whether two runs are right on an image, bool [N]."""
    only_first, only_second = int(np.sum(first & ~second)), int(np.sum(second & ~first))
    if not only_first + only_second:
        return 1.0
    return float(stats.binomtest(only_first, only_first + only_second).pvalue)


def vote(predictions: np.ndarray) -> np.ndarray:
    """The majority of labels [voters, N] as [N]; of equals the lowest label."""
    return np.asarray(stats.mode(predictions).mode)


def _certain(difference: float) -> Difference:
    """Without any spread there is nothing to test."""
    return Difference(difference, difference, difference, math.nan)


def _difference(result: Any, first: Sequence[float], second: Sequence[float]) -> Difference:
    interval = result.confidence_interval(0.95)
    mean = float(np.mean(first) - np.mean(second))
    return Difference(mean, float(interval.low), float(interval.high), float(result.pvalue))
