"""Figures of runs' metrics against steps or epochs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from mnist_jax import measures
from mnist_jax.measures import Series
from mnist_jax.reporting.style import COLORS, DASHES, SMALL, WIDE, log_ticks, new_figure, tidy

READING = (
    "Thin lines are single seeds, the thick one is their mean, and the band spans from the lowest"
    " seed to the highest."
)
# The number of values that fit in a panel of every iteration.
ROOM = 300
# With fewer values than this, each gets a dot.
_FEW = 25


@dataclass(frozen=True)
class Panel:
    """Curves that share a vertical axis.

    Attributes:
      label: the axis label, with the unit.
      lines: the series of all seeds, by `training`, `validation` or `test`.
      logarithmic: whether the axis is logarithmic if the values differ enough.
      published: published values to mark in the panel.
      most: the most values to draw of a series, without single seeds; None: all, and single seeds.
    """

    label: str
    lines: Mapping[str, Sequence[Series]]
    logarithmic: bool = False
    published: Series | None = None
    most: int | None = None


def plot(panels: Sequence[Panel], across: str, *, wide: bool = False) -> Figure:
    """Draws panels above each other: every seed and, for several, their mean and range.

    Each panel has at least one value; `across` is the label of the horizontal axis. If `wide`,
    panels are placed side by side.
    """
    count = len(panels)
    if wide:
        figure = new_figure(2.8, WIDE)
        grid = figure.subplots(1, count, squeeze=False)[0]
    else:
        figure = new_figure(0.5 + (1.9 if count > 1 else 2.4) * count)
        grid = figure.subplots(count, sharex=True, squeeze=False)[:, 0]
    for axes, panel in zip(grid, panels, strict=True):
        for name, runs in panel.lines.items():
            if panel.most is None:
                draw(axes, name, runs)
            else:
                _draw_thinned(axes, name, runs, panel.most)
        if panel.published is not None:
            x, y = panel.published.x, panel.published.y
            axes.plot(x, y, "D", color=COLORS["published"], markersize=5, label="published")
        tidy(axes)
        # Above the axis, where long labels fit.
        axes.set_title(panel.label, fontsize=SMALL, loc="left")
        if panel.logarithmic:
            _logarithmic(axes, [run for runs in panel.lines.values() for run in runs])
        if len(axes.get_legend_handles_labels()[0]) > 1:
            axes.legend(frameon=False, fontsize=SMALL)
    for axes in grid if wide else grid[-1:]:
        axes.set_xlabel(across)
        axes.xaxis.set_major_locator(
            MaxNLocator(5, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1)
        )
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    return figure


def draw(axes: Axes, name: str, runs: Sequence[Series]) -> None:
    """Draws the series of a recipe's seeds in the colour of `name`."""
    color, dash = COLORS[name], DASHES[name]
    if len(runs) > 1:
        for run in runs:
            axes.plot(run.x, run.y, color=color, linewidth=0.7, alpha=0.5)
        together = measures.band(runs)
        axes.fill_between(
            together.x, together.low, together.high, color=color, alpha=0.2, linewidth=0
        )
        x, y = together.x, together.mean
    else:
        x, y = runs[0].x, runs[0].y
    marker = "o" if len(x) < _FEW else ""
    axes.plot(x, y, dash, color=color, linewidth=1.8, marker=marker, markersize=4, label=name)


def reading_thinned(steps: int, seeds: int, most: int) -> str:
    """A caption for a panel of every step, in which at most `most` values are drawn."""
    each = math.ceil(steps / most)
    if each * seeds == 1:
        return ""
    of = [f"{each} iterations"] * (each > 1) + [f"{seeds} seeds"] * (seeds > 1)
    return (
        f"The line is the mean of {' of '.join(of)}, and the band spans from the lowest of these"
        " batches to the highest."
    )


def _draw_thinned(axes: Axes, name: str, runs: Sequence[Series], most: int) -> None:
    shown = measures.thinned(measures.band(runs), most)
    axes.fill_between(shown.x, shown.low, shown.high, color=COLORS[name], alpha=0.25, linewidth=0)
    axes.plot(shown.x, shown.mean, "-", color=COLORS[name], linewidth=1.2, label=name)


def _logarithmic(axes: Axes, runs: Sequence[Series]) -> None:
    values = np.concatenate([run.y for run in runs])
    low, high = float(values.min()), float(values.max())
    if low > 0 and high > 3 * low:
        axes.set_yscale("log")
        log_ticks(axes.yaxis, low, high)
