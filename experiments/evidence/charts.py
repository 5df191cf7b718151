"""Plots of the comparison: published figures beside ours, and our training curves."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from matplotlib.transforms import blended_transform_factory

from experiments.evidence.analysis import ENOUGH_SEEDS
from experiments.evidence.statistics import Summary
from mnist_jax.measures import Series
from mnist_jax.reporting import curves
from mnist_jax.reporting.style import COLORS, DASHES, SMALL, TINY, WIDE, WIDTH, new_figure, tidy

# Candidate tick labels: errors in percent, roundest first.
_TICKS = [
    mantissa * power
    for mantissa in (1, 2, 5, 3, 7, 4, 1.5, 6, 8, 9, 2.5)
    for power in (1, 0.1, 10, 0.01)
    if mantissa * power < 100
]


@dataclass(frozen=True)
class ForestRow:
    """A line of the forest plot: a published figure and ours.

    Attributes:
      label: article and row.
      published: test accuracy in percent.
      rounding: half a unit of its last digit.
      ours: test accuracies in percent.
      interval: as in `Limits`; None with too few runs.
    """

    label: str
    published: float
    rounding: float
    ours: Summary
    interval: tuple[float, float] | None


def published_and_ours(comparisons: Sequence[ForestRow], *, wide: bool = False) -> Figure:
    """Draws our means with their prediction intervals, and the published figures.

    The axis is logarithmic in the error: otherwise 98 and 99.6% would be one dot. Labels are above
    each row or, if `wide`, beside it.
    """
    count = len(comparisons)
    figure = new_figure(1.0 + 0.22 * count, WIDE) if wide else new_figure(1.2 + 0.33 * count)
    axes = figure.subplots()
    for row, comparison in enumerate(comparisons):
        _draw(axes, row, comparison)
        _write(axes, row, comparison, wide)
    axes.set_ylim(count - 0.4, -0.6 if wide else -0.8)
    axes.set_yticks([])
    axes.set_xscale("log")
    largest, smallest = _limits(comparisons)
    axes.set_xlim(largest, smallest)
    _label_accuracies(axes.xaxis, 20 if wide else 10)
    axes.set_xlabel("test accuracy (%), logarithmic in the error")
    tidy(axes, grid="x")
    axes.spines["left"].set_visible(False)
    figure.legend(
        handles=_legend(),
        ncols=4 if wide else 2,
        columnspacing=2 if wide else 0.8,
        handlelength=1.5,
        frameon=False,
        fontsize=SMALL,
        loc="outside upper left",
    )
    return figure


def accuracy_by_epoch(
    rows: Mapping[str, Sequence[Series]],
    published: Mapping[str, Sequence[float]],
    *,
    wide: bool = False,
) -> Figure:
    """Draws a panel for each row: its seeds' test accuracy, and the published figures.

    Args:
      rows: a curve for each seed, by the row's name.
      published: accuracies in percent, by the row's name.
      wide: whether to draw up to five panels side by side, instead of two.
    """
    lines = math.ceil(len(rows) / (5 if wide else 2))
    columns = math.ceil(len(rows) / lines) if wide else 2
    figure = new_figure(0.4 + 1.7 * lines, WIDE if wide else WIDTH)
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes, (name, courses) in zip(grid, rows.items(), strict=False):
        curves.draw(axes, "test", [Series(course.x, 100 - course.y) for course in courses])
        for figure_of_row in published[name]:
            axes.axhline(100 - figure_of_row, color=COLORS["published"], linestyle="--", lw=1)
        axes.set_yscale("log")
        axes.invert_yaxis()
        _label_accuracies(axes.yaxis, 7)
        tidy(axes)
        axes.set_title(_in_lines(name, 26 if wide else 18), fontsize=TINY, loc="left")
        axes.xaxis.set_major_locator(
            MaxNLocator(6 if wide else 4, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1)
        )
    for axes in grid[len(rows) :]:
        axes.remove()
    figure.supxlabel("epoch", fontsize=SMALL)
    figure.supylabel("test accuracy (%)", fontsize=SMALL)
    return figure


def losses_by_probability() -> Figure:
    """Draws both losses of an image against the predicted probability x of its class.

    Cross-entropy is -ln x. Of the squared error only the term of that class is drawn, (x - 1)².
    """
    x = np.linspace(0.01, 1, 100)
    figure = new_figure(2.4)
    axes = figure.subplots()
    axes.plot(x, -np.log(x), DASHES["training"], color=COLORS["training"], label="−ln x")
    axes.plot(x, (x - 1) ** 2, DASHES["test"], color=COLORS["test"], label="(x − 1)²")
    tidy(axes)
    axes.set_title("loss of an image", fontsize=SMALL, loc="left")
    axes.set_xlabel("probability x of its class")
    axes.legend(frameon=False, fontsize=SMALL)
    return figure


def _draw(axes: Any, row: int, comparison: ForestRow) -> None:
    ours = comparison.ours
    enough = comparison.interval is not None
    color = COLORS["test"]
    if comparison.interval is not None:
        low, high = comparison.interval
        axes.plot([100 - low, 100 - high], [row, row], color=color, linewidth=2.5, alpha=0.6)
    axes.plot(
        100 - ours.mean, row, "o", color=color, markersize=7.5, mfc=color if enough else "white"
    )
    axes.plot(
        100 - comparison.published, row, "D", color=COLORS["published"], mec="white", markersize=5
    )


def _write(axes: Any, row: int, comparison: ForestRow, wide: bool) -> None:
    ours = comparison.ours
    deviation = "" if math.isnan(ours.sd) else f" ± {ours.sd:.2f}"
    digits = round(-math.log10(2 * comparison.rounding))
    published = f"{comparison.published:.{digits}f}"
    numbers = f"{published} | {ours.mean:.2f}{deviation}"
    if wide:
        words = [(-0.01, "right", comparison.label), (1.01, "left", f"{numbers} (n = {ours.n})")]
        across, above = axes.transAxes, 0.0
    else:  # Across the whole width of the figure.
        words = [(0.015, "left", comparison.label), (0.985, "right", numbers)]
        across, above = axes.figure.transFigure, 0.2
    for x, side, text in words:
        written = axes.text(
            x,
            row - above,
            text,
            ha=side,
            va="center" if wide else "bottom",
            fontsize=TINY,
            transform=blended_transform_factory(across, axes.transData),
        )
        written.set_in_layout(wide)


def _in_lines(name: str, most: int) -> str:
    """A row's name, broken into two lines if it has more than `most` letters."""
    cut = name.rfind("_", 0, most) + 1 if len(name) > most else 0
    return f"{name[:cut]}\n{name[cut:]}" if cut else name


def _limits(comparisons: Sequence[ForestRow]) -> tuple[float, float]:
    """The largest and the smallest error shown; an interval may extend beyond the smallest."""
    errors = [100 - comparison.ours.mean for comparison in comparisons]
    errors += [100 - comparison.published for comparison in comparisons]
    ends = [100 - c.interval[0] for c in comparisons if c.interval is not None]
    return 1.2 * max(errors + ends), min(errors) / 1.5


def _label_accuracies(axis: Any, most: int) -> None:
    """Sets up to about `most` ticks on a logarithmic axis of errors whose limits are set."""
    low, high = sorted(axis.get_view_interval())
    gap = math.log(high / low) / most
    ticks: list[float] = []
    for tick in _TICKS:
        if low <= tick <= high and all(abs(math.log(tick / other)) >= gap for other in ticks):
            ticks.append(tick)
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FuncFormatter(lambda error, _: f"{100 - error:g}"))
    axis.set_minor_locator(NullLocator())


def _legend() -> list[Line2D]:
    blue, black = COLORS["test"], COLORS["published"]
    dot = partial(Line2D, [], [], linestyle="", marker="o", color=blue)
    return [
        Line2D([], [], linestyle="", marker="D", mec="white", color=black, label="published"),
        dot(label="ours, mean over seeds"),
        Line2D([], [], linewidth=2.5, alpha=0.6, color=blue, label="95% interval"),
        dot(mfc="white", label=f"fewer than {ENOUGH_SEEDS} seeds"),
    ]
