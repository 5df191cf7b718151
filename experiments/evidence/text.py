"""Formatting of cells in the comparison's tables."""

import math

from experiments.evidence import analysis
from experiments.evidence.analysis import Limits
from experiments.evidence.statistics import Difference, Summary


def mean(summary: Summary, digits: int = 2) -> str:
    """The mean, and ± the standard deviation if there are several values."""
    if math.isnan(summary.sd):
        return f"{summary.mean:.{digits}f}"
    return f"{summary.mean:.{digits}f} ± {summary.sd:.{digits}f}"


def interval(summary: Summary, digits: int = 2) -> str:
    """The prediction interval for one more run; empty with too few runs."""
    if summary.n < analysis.ENOUGH_SEEDS:
        return ""
    low, high = summary.interval
    return f"{low:.{digits}f}–{high:.{digits}f}"


def limits_cell(limits: Limits | None) -> str:
    """An interval; empty if nothing is tested."""
    return f"{limits.interval[0]:.2f}–{limits.interval[1]:.2f}" if limits else ""


def difference_cells(difference: Difference | None, digits: int = 2) -> tuple[str, str]:
    """A difference with its interval, and its p; both empty if there is none."""
    if difference is None:
        return "", ""
    d = difference
    mean, low, high = (f"{points:+.{digits}f}" for points in (d.mean, d.low, d.high))
    return f"{mean} [{low}, {high}]", p_value(d.p)


def p_value(p: float) -> str:
    """A p value with three digits; empty if nothing was tested."""
    if math.isnan(p):
        return ""
    return f"{p:.3g}" if p >= 0.0001 else "< 0.0001"


def duration(seconds: float) -> str:
    """A duration in minutes or hours."""
    minutes = seconds / 60
    return f"≈ {minutes / 60:.1f} h" if minutes >= 90 else f"≈ {minutes:.1f} min"
