"""The statistics of the comparison: prediction intervals and tests on a few runs."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

# In points: 1e-5 of the share of one of 10,000 images, and far above float rounding.
_NOISE = 1e-7


@dataclass(frozen=True)
class Spread:
    """The spread of normally distributed runs of one recipe.

    Attributes:
      sd: standard deviation; NaN if unknown.
      df: degrees of freedom of its estimate.
    """

    sd: float
    df: int

    def reach(self, shares: np.ndarray, more: int) -> float:
        """The half-width of the 95% interval about our mean for the mean of `more` other runs.

        Args:
          shares: [n], the weight of each of our runs in our mean.
          more: the number of other runs.
        """
        return float(stats.t.ppf(0.975, self.df)) * self._error(shares, more)

    def p(self, distance: float, shares: np.ndarray, more: int) -> float:
        """The two-sided p of means at least `distance` apart; NaN without any spread."""
        if not self.sd:
            return math.nan
        return 2 * float(stats.t.sf(distance / self._error(shares, more), self.df))

    def _error(self, shares: np.ndarray, more: int) -> float:
        return self.sd * math.sqrt(np.square(shares).sum() + 1 / more)


@dataclass(frozen=True)
class Summary:
    """Runs of one recipe that differ in their seed.

    Attributes:
      n: the number of runs.
      mean: of their values.
      sd: sample standard deviation; NaN for one run.
      low: the smallest value.
      high: the largest value.
      bounds: the range of possible values.
    """

    n: int
    mean: float
    sd: float
    low: float
    high: float
    bounds: tuple[float, float]

    @property
    def spread(self) -> Spread:
        """The spread estimated from these runs alone."""
        return Spread(self.sd, self.n - 1)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% prediction interval for one more normal run; NaN for one run."""
        if self.n < 2:
            return math.nan, math.nan
        reach = self.spread.reach(equal_shares(self.n), 1)
        return self.within(self.mean - reach, self.mean + reach)

    def within(self, low: float, high: float) -> tuple[float, float]:
        """The interval clipped to the bounds."""
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
    """Summarises at least one value; `bounds` are the range of possible values."""
    array = np.asarray(values, np.float64)
    sd = float(array.std(ddof=1)) if len(array) > 1 else math.nan
    low, high = float(array.min()), float(array.max())
    return Summary(len(array), float(array.mean()), sd, low, high, bounds)


def equal_shares(n: int) -> np.ndarray:
    """The equal weights of `n` runs in their mean."""
    return np.full(n, 1 / n)


def shares_of_best(scores: Sequence[float], size: int) -> np.ndarray:
    """How often each run has the best score among `size` of them (or all), over all such subsets.

    Weighted with these shares, the mean of another value of the runs is its expectation for the
    best of `size` runs. Ties are shared equally.
    """
    shares = np.zeros(len(scores))
    for chosen in itertools.combinations(range(len(scores)), min(size, len(scores))):
        best = max(scores[i] for i in chosen)
        first = [i for i in chosen if scores[i] == best]
        shares[first] += 1 / len(first)
    return shares / shares.sum()


def pooled(samples: Sequence[Sequence[float]]) -> Spread:
    """The pooled spread of several recipes, each with at least two runs."""
    df = sum(len(sample) - 1 for sample in samples)
    squares = sum((len(sample) - 1) * np.var(sample, ddof=1) for sample in samples)
    return Spread(math.sqrt(squares / df), df)


def equally_spread(samples: Sequence[Sequence[float]]) -> float:
    """The p of Levene's test (about the medians) that several recipes have one spread.

    Two runs are equally far from their median, so at least one recipe needs three.
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

    If the differences are equal up to rounding, there is nothing to test.
    """
    differences = np.subtract(first, second)
    if np.allclose(differences, differences[0], rtol=0, atol=_NOISE):
        return _certain(float(differences[0]))
    return _difference(stats.ttest_rel(first, second), first, second)


def equivalence(first: Sequence[float], second: Sequence[float], margin: float) -> float:
    """The p of two one-sided Welch tests (TOST) against the means being `margin` or more apart."""
    if np.ptp(first) == np.ptp(second) == 0:
        return math.nan
    sides = ((margin, "greater"), (-margin, "less"))
    return max(
        float(stats.ttest_ind(np.add(first, by), second, equal_var=False, alternative=side).pvalue)
        for by, side in sides
    )


def runs_for_equivalence(sd: float, margin: float) -> int:
    """The runs per side that TOST needs to show that equal means are within a margin.

    For a power of 0.8 at p < 0.05, by the normal approximation.
    """
    quantiles = stats.norm.ppf(0.95) + stats.norm.ppf(0.9)
    return math.ceil(2 * (quantiles * sd / margin) ** 2)


def normality(values: Sequence[float]) -> float:
    """The p of the Shapiro–Wilk test of normality, for at least three values, not all the same."""
    return float(stats.shapiro(values).pvalue)


def skewness(values: Sequence[float]) -> float:
    """The skewness, i.e. the third standardised moment."""
    return float(stats.skew(values))


def holm(ps: Sequence[float]) -> list[float]:
    """Adjusts the p values of a family of tests by Holm's method; NaN, for no test, stays NaN."""
    adjusted = np.full(len(ps), np.nan)
    tests = [i for i in np.argsort(ps) if not math.isnan(ps[i])]
    steps = [min(1.0, (len(tests) - rank) * ps[i]) for rank, i in enumerate(tests)]
    adjusted[tests] = np.maximum.accumulate(steps)
    return adjusted.tolist()


def mcnemar(first: np.ndarray, second: np.ndarray) -> float:
    """The two-sided p of McNemar's exact test, from whether two runs are correct: bool [N]."""
    only_first, only_second = int(np.sum(first & ~second)), int(np.sum(second & ~first))
    if not only_first + only_second:
        return 1.0
    return float(stats.binomtest(only_first, only_first + only_second).pvalue)


def vote(predictions: np.ndarray) -> np.ndarray:
    """The majority of labels [voters, N] as [N]; ties go to the lowest label."""
    return np.asarray(stats.mode(predictions).mode)


def _certain(difference: float) -> Difference:
    """Without any spread there is nothing to test."""
    return Difference(difference, difference, difference, math.nan)


def _difference(result: Any, first: Sequence[float], second: Sequence[float]) -> Difference:
    interval = result.confidence_interval(0.95)
    mean = float(np.mean(first) - np.mean(second))
    return Difference(mean, float(interval.low), float(interval.high), float(result.pvalue))
