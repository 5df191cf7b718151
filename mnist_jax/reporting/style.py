"""Shared style of all figures: size, colours and axes."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

# Inches of 100 CSS pixels, so that a figure fills a phone at its natural size, with readable text,
# and three fit side by side on a screen.
WIDTH = 3.6
# For a second version that uses a screen's whole width instead of a third.
WIDE = 9.6
CSS_PIXELS_PER_INCH = 100
SMALL, TINY = 9.0, 8.0  # Points.

# Okabe and Ito's colours, which colour-blind readers can tell apart.
COLORS = {
    "test": "#0072B2",
    "training": "#E69F00",
    "validation": "#009E73",
    "wrong": "#D55E00",
    "published": "#000000",
    "frame": "#C8C8C8",
    "diagonal": "#E8E8E8",
}
# Distinguishes lines without colour.
DASHES = {"test": "-", "training": "--", "validation": ":"}


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """An empty figure, with sizes in inches and constrained layout."""
    layout = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.08)
    return Figure(figsize=(width, height), layout=layout, facecolor="white")


def tidy(axes: Axes, *, grid: str = "y") -> None:
    """Removes unnecessary spines, and draws a light grid along `grid`: `x`, `y` or `both`."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color="#E5E5E5", linewidth=0.8)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=SMALL)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set_fontsize(SMALL)


def place(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Adds axes at a position in inches from the left and the top of a figure."""
    whole_width, whole_height = figure.get_size_inches()
    bottom = whole_height - top - height
    return figure.add_axes(
        (left / whole_width, bottom / whole_height, width / whole_width, height / whole_height)
    )


def picture(axes: Axes, pixels: Any, **values: Any) -> None:
    """Shows an array pixel by pixel, without ticks."""
    axes.imshow(pixels, interpolation="nearest", aspect="auto", **values)
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_color(COLORS["frame"])


def log_ticks(axis: Any, low: float, high: float) -> None:
    """Labels a logarithmic axis that shows `low` to `high` with plain numbers."""
    if high > 300 * low:
        subs: tuple[int, ...] = (1,)
    else:
        subs = (1, 2, 5) if high > 10 * low else (1, 2, 3, 5, 7)
    axis.set_major_locator(LogLocator(subs=subs, numticks=20))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
