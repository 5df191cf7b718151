"""Figures of a network's accuracy by class and by confidence, and its confusion matrix."""

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from mnist_jax.measures import Calibration, Rates
from mnist_jax.reporting.style import COLORS, SMALL, TINY, new_figure, tidy

_ERRORS = LinearSegmentedColormap.from_list(
    "errors", ["white", COLORS["wrong"]], bad=COLORS["diagonal"]
)


def confusion_matrix(counts: np.ndarray, names: Sequence[str]) -> Figure:
    """Shows counts [classes, classes] by true (row) and predicted class, errors in colour."""
    figure = new_figure(3.6)
    axes = figure.subplots()
    errors = np.where(np.eye(len(names), dtype=bool), np.nan, counts)
    axes.imshow(errors, cmap=_ERRORS, vmin=0, vmax=max(1, np.nanmax(errors)))
    for row, column in np.argwhere(counts):
        count = counts[row, column]
        axes.text(column, row, f"{count}", ha="center", va="center", fontsize=TINY)
    axes.set_xticks(range(len(names)), names, rotation=90 if max(map(len, names)) > 2 else 0)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0, labelsize=SMALL)
    axes.set_xlabel("predicted class", fontsize=SMALL)
    axes.set_ylabel("true class", fontsize=SMALL)
    axes.spines[:].set_color(COLORS["frame"])
    return figure


def class_accuracy(accuracy: Rates, overall: float, names: Sequence[str]) -> Figure:
    """Shows each class's accuracy with its 95% interval, beside the accuracy over all classes."""
    figure = new_figure(3.2)
    axes = figure.subplots()
    rows = np.arange(len(names))
    low, rate, high = (100 * values for values in (accuracy.low, accuracy.rate, accuracy.high))
    axes.errorbar(
        rate, rows, xerr=(rate - low, high - rate), fmt="o", color=COLORS["test"], capsize=3
    )
    axes.axvline(100 * overall, color="black", linestyle="--", linewidth=1)
    axes.annotate(
        f"all classes: {overall:.2%}",
        (100 * overall, 1.0),
        (0, 3),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        ha="center",
        fontsize=SMALL,
    )
    axes.set_yticks(rows, names)
    axes.invert_yaxis()
    axes.set(xlabel="accuracy (%), with 95% interval", ylabel="true class")
    tidy(axes, grid="x")
    return figure


def reliability(found: Calibration) -> Figure:
    """Shows accuracy against confidence per bin, above the number of images in each bin."""
    figure = new_figure(3.9)
    upper, lower = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    filled = found.count > 0
    x, rates = found.confidence[filled], found.accuracy
    y, low, high = (values[filled] for values in (rates.rate, rates.low, rates.high))
    upper.plot([0, 1], [0, 1], "--", color="black", linewidth=1, label="perfectly calibrated")
    upper.errorbar(
        x,
        y,
        yerr=(y - low, high - y),
        fmt="o",
        color=COLORS["test"],
        capsize=3,
        label="test images",
    )
    upper.set(ylabel="accuracy", ylim=(-0.02, 1.02), xlim=(-0.02, 1.02))
    figure.legend(frameon=False, fontsize=SMALL, loc="outside upper left")  # Clear of the dots.
    bins = len(found.count)
    lower.bar((np.arange(bins) + 0.5) / bins, found.count, 0.94 / bins, color=COLORS["test"])
    lower.set_yscale("log")
    lower.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    lower.set(ylabel="images", xlabel="confidence: the predicted class's probability")
    lower.set_ylim(bottom=0.7)
    for axes in (upper, lower):
        tidy(axes)
    return figure
