"""The statistics of the comparison: what a few runs say of the next one, and of each other."""

import itertools
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

    def reach(self, shares: np.ndarray, more: int) -> float:
        """How far the mean of `more` runs lies from ours at most, with 95% probability.

        Args:
          shares: [n], each of our runs' share of our mean.
          more: how many other runs.
        """
        return float(stats.t.ppf(0.975, self.df)) * self._error(shares, more)

    def p(self, distance: float, shares: np.ndarray, more: int) -> float:
        """How probable means at least `distance` apart are; NaN without any spread."""
        if not self.sd:
            return math.nan
        return 2 * float(stats.t.sf(distance / self._error(shares, more), self.df))

    def _error(self, shares: np.ndarray, more: int) -> float:
        return self.sd * math.sqrt(np.square(shares).sum() + 1 / more)


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
        if self.n < 2:
            return math.nan, math.nan
        reach = self.spread.reach(equal_shares(self.n), 1)
        return self.within(self.mean - reach, self.mean + reach)

    def within(self, low: float, high: float) -> tuple[float, float]:
        """An interval's part between the bounds."""
        floor, ceiling = self.bounds
        return max(floor, low), min(ceiling, high)


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


def equal_shares(n: int) -> np.ndarray:
    """Those of `n` runs in their mean."""
    return np.full(n, 1 / n)


def shares_of_best(scores: Sequence[float], size: int) -> np.ndarray:
    """How often each run has the best score among `size` of them, or all, over all such choices.

    The mean of other figures of the runs, with these as shares, is what is to be expected of the
    best of `size` runs. Of equal scores each is the best as often.
    """
    shares = np.zeros(len(scores))
    for chosen in itertools.combinations(range(len(scores)), min(size, len(scores))):
        best = max(scores[i] for i in chosen)
        first = [i for i in chosen if scores[i] == best]
        shares[first] += 1 / len(first)
    return shares / shares.sum()


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
