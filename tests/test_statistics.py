"""Intervals, tests and votes, compared with manual computations and SciPy."""

import math

import numpy as np
import pytest
from scipy import stats

from experiments.evidence import statistics


def test_the_prediction_interval_is_that_of_one_more_run():
    summary = statistics.summarize([1.0, 2.0, 3.0], (0.0, 6.0))
    # t with 2 degrees of freedom is 4.3027; the interval is clipped to the possible values.
    assert summary.interval == (0.0, 6.0)
    wide = statistics.summarize([1.0, 2.0, 3.0], (-math.inf, math.inf))
    reach = 4.302653 * math.sqrt(4 / 3)
    assert wide.interval == pytest.approx((2 - reach, 2 + reach), rel=1e-6)
    assert math.isnan(statistics.summarize([1.0], (0.0, 1.0)).sd)


def test_the_prediction_interval_covers_19_of_20_draws():
    draws = np.random.default_rng(0).normal(50, 1, (2000, 6))
    intervals = [statistics.summarize(d[:5].tolist(), (0, 100)).interval for d in draws]
    hits = [low < d[5] < high for d, (low, high) in zip(draws, intervals, strict=True)]
    assert np.mean(hits) == pytest.approx(0.95, abs=0.015)


def test_the_pooled_spread_is_that_of_an_analysis_of_variance():
    samples = [[1.0, 2.0, 3.0], [10.0, 14.0], [5.0, 5.5, 6.5, 9.0]]
    spread = statistics.pooled(samples)
    # F is the mean square between groups divided by that within groups.
    n, means = [len(s) for s in samples], [np.mean(s) for s in samples]
    between = np.dot(n, (np.asarray(means) - np.average(means, weights=n)) ** 2) / 2
    assert spread.sd**2 == pytest.approx(between / stats.f_oneway(*samples).statistic)
    assert spread.df == 6
    assert statistics.equally_spread([[1, 2, 3], [1, 2, 3]]) == pytest.approx(1)
    assert statistics.equally_spread([[1, 2, 3] * 9, [10, 20, 30] * 9]) < 1e-6
    assert math.isnan(statistics.equally_spread([[1, 2], [1, 20]]))
    assert statistics.equally_spread([[1, 2], [1, 2, 3]]) > 0


def test_comparing_two_means_is_student_s_t_test():
    first, second = [1.0, 2.0, 4.0], [5.0, 6.0, 8.0]
    spread = statistics.pooled([first, second])
    test = stats.ttest_ind(first, second)
    shares = statistics.equal_shares(3)
    assert spread.p(4.0, shares, 3) == pytest.approx(test.pvalue)
    assert spread.reach(shares, 3) == pytest.approx(4 + test.confidence_interval(0.95).high)


def test_shares_of_best_count_the_subsets_in_which_a_run_is_best():
    assert statistics.shares_of_best([5, 4, 3, 2, 1], 3) == pytest.approx([0.6, 0.3, 0.1, 0, 0])
    assert statistics.shares_of_best([1, 2, 2], 3) == pytest.approx([0, 0.5, 0.5])
    assert statistics.shares_of_best([3, 2], 3) == pytest.approx([1, 0])
    assert statistics.shares_of_best([1, 3, 2], 1) == pytest.approx([1 / 3] * 3)


def test_paired_and_welch_s_t_tests():
    first, second = [3.0, 4.0, 6.0], [1.0, 3.0, 4.0]
    paired = statistics.paired(first, second)
    # Differences 2, 1, 2: mean 5/3, standard error 1/3, t = 5.
    assert paired.mean == pytest.approx(5 / 3)
    assert (paired.low, paired.high) == pytest.approx((5 / 3 - 4.302653 / 3, 5 / 3 + 4.302653 / 3))
    assert paired.p == pytest.approx(0.03775, abs=1e-4)
    welch = statistics.welch(first, second)
    assert welch.mean == pytest.approx(5 / 3)
    assert welch.p > paired.p
    for test in (statistics.paired, statistics.welch):
        certain = test([2.0, 2.0], [1.0, 1.0])
        assert (certain.mean, certain.low, certain.high) == (1.0, 1.0, 1.0)
        assert math.isnan(certain.p)
    # A difference of 28 of 10,000 images in both pairs, up to floating-point rounding.
    certain = statistics.paired([99.57, 99.59], [99.29, 99.31])
    assert 99.57 - 99.29 != 99.59 - 99.31
    assert certain.mean == pytest.approx(0.28)
    assert math.isnan(certain.p)


def test_equivalence_is_shown_if_the_90_percent_interval_is_within_the_margin():
    first, second = [99.10, 99.14, 99.12, 99.11], [99.13, 99.16, 99.10]
    interval = stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.90)
    edge = max(-interval.low, interval.high)
    assert statistics.equivalence(first, second, edge) == pytest.approx(0.05)
    assert statistics.equivalence(first, second, edge * 1.1) < 0.05
    assert statistics.equivalence(first, second, edge * 0.9) > 0.05
    assert statistics.equivalence([99.0, 99.1], [98.0, 98.1], 0.1) > 0.9
    assert math.isnan(statistics.equivalence([1.0, 1.0], [1.0, 1.0], 0.1))


def test_the_number_of_runs_for_equivalence_gives_a_power_of_80_percent():
    n = statistics.runs_for_equivalence(0.5, 0.5)
    assert n == 18  # 2 · (1.645 + 1.282)², rounded up.
    draws = np.random.default_rng(0).normal(99, 0.5, (400, 2, n))
    shown = [statistics.equivalence(a, b, 0.5) < 0.05 for a, b in draws]
    assert np.mean(shown) == pytest.approx(0.8, abs=0.06)


def test_holm_adjusts_step_by_step():
    # 4 · 0.005, 3 · 0.01, 2 · 0.03, and the last no smaller than the one before it.
    assert statistics.holm([0.04, 0.01, 0.03, 0.005]) == pytest.approx([0.06, 0.03, 0.06, 0.02])
    with_none = statistics.holm([math.nan, 0.7, 0.6])
    assert math.isnan(with_none[0])
    assert with_none[1:] == [1.0, 1.0]
    assert statistics.holm([]) == []


def test_mcnemar_counts_only_discordant_images():
    first, second = np.ones(100, bool), np.ones(100, bool)
    second[:6] = False
    assert statistics.mcnemar(first, second) == pytest.approx(2 * 0.5**6)
    assert statistics.mcnemar(first, first) == 1.0


def test_a_vote_takes_the_majority_and_the_lowest_class_of_a_tie():
    votes = np.array([[3, 9, 5], [3, 1, 4], [7, 2, 5]])
    np.testing.assert_array_equal(statistics.vote(votes), [3, 1, 5])
