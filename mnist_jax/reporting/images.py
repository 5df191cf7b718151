"""Figures of images: image grids, a network's filters, and its layers' activations."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mnist_jax import measures
from mnist_jax.reporting.style import COLORS, SMALL, TINY, WIDTH, picture, place, tidy

# Blue below zero, white at zero, red above.
_SIGNED = colormaps["RdBu_r"].with_extremes(bad=COLORS["frame"])
# The most input and output channels of a layer's filters that are shown.
MOST_FILTERS = (20, 40)
_MARGIN = 0.1  # Inches, like all lengths below.
_LINE = 0.16
_CELL = 15  # Least side of each image in a mosaic, in pixels.


@dataclass(frozen=True, eq=False)
class LayerOutput:
    """A layer's output for one image.

    Attributes:
      name: the layer's name.
      output: [H, W, channels] or [units].
      limit: the largest absolute value over all images to be compared.
    """

    name: str
    output: np.ndarray
    limit: float


def image_grid(
    images: np.ndarray,
    titles: Sequence[str],
    columns: int,
    colors: Sequence[str] | None = None,
    width: float = WIDTH,
) -> Figure:
    """Shows uint8 images [N, H, W] in rows, dark on light, each below its title."""
    lines = max(title.count("\n") + 1 for title in titles)
    cell = (width - _MARGIN) / columns
    side, head = cell - _MARGIN, 0.06 + _LINE * lines
    rows = math.ceil(len(images) / columns)
    figure = Figure(figsize=(width, rows * (side + head) + _MARGIN), facecolor="white")
    for i, (image, title) in enumerate(zip(images, titles, strict=True)):
        row, column = divmod(i, columns)
        top = head + row * (side + head)
        axes = place(figure, _MARGIN + column * cell, top, side, side)
        picture(axes, image, cmap="gray_r", vmin=0, vmax=255)
        axes.set_title(title, fontsize=TINY, pad=2, color=colors[i] if colors else "black")
    return figure


def filters(kernel: np.ndarray) -> Figure:
    """Shows a convolution's weights [h, w, inputs, outputs], blue below zero and red above.

    With one input channel, the filters are wrapped into rows; with several, every row is an input
    channel and every column an output channel, up to 20 and 40 of them.
    """
    inputs, outputs = (min(pair) for pair in zip(kernel.shape[2:], MOST_FILTERS, strict=True))
    shown = kernel[:, :, :inputs, :outputs].transpose(2, 3, 0, 1)
    grid = _mosaic(
        shown.reshape(-1, *kernel.shape[:2]), min(outputs, 10) if inputs == 1 else outputs
    )
    left, below, width = 0.3, 0.8, WIDTH - 0.4
    height = width * grid.shape[0] / grid.shape[1]
    figure = Figure(figsize=(WIDTH, height + below + _MARGIN), facecolor="white")
    axes = place(figure, left, _MARGIN, width, height)
    most = np.abs(shown).max()
    picture(axes, grid, cmap=_SIGNED, vmin=-most, vmax=most)
    if inputs > 1:
        axes.set_ylabel(f"{inputs} input channels", fontsize=SMALL)
    axes.set_xlabel(f"{outputs} output channels", fontsize=SMALL)
    bar = place(figure, left + width / 4, height + 0.4, width / 2, 0.1)
    shades = figure.colorbar(
        axes.images[0], cax=bar, orientation="horizontal", ticks=MaxNLocator(4)
    )
    shades.set_label("weight", size=SMALL)
    bar.tick_params(labelsize=TINY)
    return figure


def activations(
    image: np.ndarray,
    heading: str,
    layers: Sequence[LayerOutput],
    probability: np.ndarray,
    names: Sequence[str],
) -> Figure:
    """Shows an image, below it every layer's output, and the probabilities at the end.

    Args:
      image: uint8 [H, W].
      heading: the text beside it.
      layers: in order; channels are shown as separate images, units are arranged in rows.
      probability: [classes].
      names: the classes' names.
    """
    width, side = WIDTH - 2 * _MARGIN, 1.0
    mosaics = [_channels(layer.output) for layer in layers]
    heights = [width * grid.shape[0] / grid.shape[1] for grid in mosaics]
    bars = 0.18 * len(names)
    row = _LINE + 2 * _MARGIN
    total = side + sum(heights) + row * len(layers) + row + bars + 0.6
    figure = Figure(figsize=(WIDTH, total), facecolor="white")
    picture(place(figure, _MARGIN, _MARGIN, side, side), image, cmap="gray_r", vmin=0, vmax=255)
    figure.text(
        (side + 3 * _MARGIN) / WIDTH, 1 - (side / 2 + _MARGIN) / total, heading, va="center"
    )
    top = side + row
    for layer, grid, height in zip(layers, mosaics, heights, strict=True):
        axes = place(figure, _MARGIN, top, width, height)
        picture(axes, grid, cmap=_SIGNED, vmin=-layer.limit, vmax=layer.limit)
        axes.set_title(_describe(layer), fontsize=SMALL, loc="left", pad=3)
        top += height + row
    left = 0.3 + 0.08 * max(map(len, names))
    axes = place(figure, left, top, width - left - _MARGIN, bars)
    axes.barh(range(len(names)), 100 * probability, color=COLORS["test"])
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set(xlim=(0, 100), xlabel="probability (%)")
    tidy(axes, grid="x")
    return figure


def _channels(output: np.ndarray) -> np.ndarray:
    """Arranges a layer's channels or units in an image several times wider than high."""
    if output.ndim == 3:
        maps, aspect = output.transpose(2, 0, 1), 4.5
    else:
        maps, aspect = output.reshape(-1, 1, 1), 20.0
    rows = math.ceil(len(maps) / math.ceil(math.sqrt(aspect * len(maps))))
    return _mosaic(maps, math.ceil(len(maps) / rows))


def _mosaic(maps: np.ndarray, columns: int) -> np.ndarray:
    """Enlarges small images, so that the frame around each is thin in comparison."""
    times = math.ceil(_CELL / maps.shape[1])
    return measures.mosaic(maps.repeat(times, axis=1).repeat(times, axis=2), columns)


def _describe(layer: LayerOutput) -> str:
    if layer.output.ndim == 3:
        height, width, channels = layer.output.shape
        size = f"{channels} channels of {height}×{width}"
    else:
        size = f"{len(layer.output)} units"
    return f"{layer.name}: {size}, ±{layer.limit:.3g}"
