"""Pictures of the comparison: published figures beside ours, and how our runs went."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from experiments.evidence.analysis import ENOUGH_SEEDS
from experiments.evidence.statistics import Summary
from mnist_jax.measures import Course
from mnist_jax.reporting import curves
from mnist_jax.reporting.style import COLORS, SMALL, TINY, new_figure, tidy

# Errors in percent: what is labelled on an axis over several powers of ten, and on a shorter one.
_TICKS = (0.1, 0.2, 0.3, 0.5, 1, 2, 5, 10, 20, 50, 90)
_MORE_TICKS = (*_TICKS, 0.4, 0.6, 0.7, 0.8, 1.5, 3, 4, 7, 15, 30, 70)
_COLUMNS = 2
_ROW = 0.3  # Inches.


@dataclass(frozen=True)
class ForestRow:
    """A line of the forest plot: a published figure and ours.

    Attributes:
      label: whose.
      published: test accuracy in percent.
      rounding: half a unit of its last digit.
      ours: in percent too.
    """

    label: str
    published: float
    rounding: float
    ours: Summary


def published_and_ours(comparisons: Sequence[ForestRow]) -> Figure:
    """Draws our means with their prediction intervals, and the published figures.

    Accuracies are spaced by the logarithm of the error: otherwise 98 and 99.6% would be one dot.
    """
    figure = new_figure(1.3 + _ROW * len(comparisons))
    axes = figure.subplots()
    for row, comparison in enumerate(comparisons):
        _draw(axes, row, comparison)
    axes.set_ylim(len(comparisons) - 0.4, -0.8)
    axes.set_yticks([])
    axes.set_xscale("log")
    largest, smallest = _limits(comparisons)
    axes.set_xlim(largest, smallest)
    _label_accuracies(axes.xaxis, largest / smallest)
    axes.set_xlabel("test accuracy (%), spaced by the logarithm of the error")
    tidy(axes, grid="x")
    axes.spines["left"].set_visible(False)
    figure.legend(
        handles=_legend(), ncols=2, frameon=False, fontsize=SMALL, loc="outside upper left"
    )
    return figure


def accuracy_by_epoch(
    rows: Mapping[str, Sequence[Course]], published: Mapping[str, float]
) -> Figure:
    """Draws a panel for each row: its seeds' test accuracy in percent, and the published figure.

    Args:
      rows: a course for each seed, by the row's name.
      published: in percent, of the rows that have one.
    """
    lines = math.ceil(len(rows) / _COLUMNS)
    figure = new_figure(0.5 + 1.55 * lines)
    grid = figure.subplots(lines, _COLUMNS, squeeze=False).ravel()
    for axes, (name, courses) in zip(grid, rows.items(), strict=False):
        curves.draw(axes, "test", [Course(course.x, 100 - course.y) for course in courses])
        if name in published:
            axes.axhline(100 - published[name], color=COLORS["published"], linestyle="--", lw=1)
        axes.set_yscale("log")
        axes.invert_yaxis()
        errors = np.concatenate([100 - course.y for course in courses])
        _label_accuracies(axes.yaxis, errors.max() / errors.min())
        tidy(axes)
        axes.set_title(name, fontsize=TINY, loc="left")
        axes.xaxis.set_major_locator(
            MaxNLocator(5, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1)
        )
    for axes in grid[len(rows) :]:
        axes.remove()
    figure.supxlabel("epoch", fontsize=SMALL)
    figure.supylabel("test accuracy (%)", fontsize=SMALL)
    return figure


def _draw(axes: Any, row: int, comparison: ForestRow) -> None:
    ours = comparison.ours
    enough = ours.n >= ENOUGH_SEEDS
    color = COLORS["test"]
    if enough:
        low, high = ours.interval
        axes.plot([100 - low, 100 - high], [row, row], color=color, linewidth=2.5, alpha=0.6)
    axes.plot(
        100 - ours.mean, row, "o", color=color, markersize=7.5, mfc=color if enough else "white"
    )
    axes.plot(
        100 - comparison.published, row, "D", color=COLORS["published"], mec="white", markersize=5
    )
    deviation = "" if math.isnan(ours.sd) else f" ± {ours.sd:.2f}"
    digits = round(-math.log10(2 * comparison.rounding))
    published = f"{comparison.published:.{digits}f}"
    words = [
        (0, "left", comparison.label),
        (1, "right", f"{published} | {ours.mean:.2f}{deviation} (n = {ours.n})"),
    ]
    for x, side, text in words:
        axes.text(
            x,
            row - 0.2,
            text,
            ha=side,
            va="bottom",
            fontsize=TINY,
            transform=axes.get_yaxis_transform(),
        )


def _limits(comparisons: Sequence[ForestRow]) -> tuple[float, float]:
    """The largest and the smallest error to show; an interval may reach below the latter."""
    errors = [100 - comparison.ours.mean for comparison in comparisons]
    errors += [100 - comparison.published for comparison in comparisons]
    ends = [100 - c.ours.interval[0] for c in comparisons if c.ours.n >= ENOUGH_SEEDS]
    return 1.2 * max(errors + ends), min(errors) / 1.5


def _label_accuracies(axis: Any, ratio: float) -> None:
    """Labels an axis of errors in percent, the largest `ratio` times the smallest."""
    axis.set_major_locator(FixedLocator(_TICKS if ratio > 10 else _MORE_TICKS))
    axis.set_major_formatter(FuncFormatter(lambda error, _: f"{100 - error:g}"))
    axis.set_minor_locator(NullLocator())


def _legend() -> list[Line2D]:
    blue, black = COLORS["test"], COLORS["published"]
    dot = partial(Line2D, [], [], linestyle="", marker="o", color=blue)
    return [
        Line2D([], [], linestyle="", marker="D", mec="white", color=black, label="published"),
        dot(label="ours, mean over seeds"),
        Line2D([], [], linewidth=2.5, alpha=0.6, color=blue, label="where 95% of our runs fall"),
        dot(mfc="white", label=f"ours, fewer than {ENOUGH_SEEDS} seeds"),
    ]
