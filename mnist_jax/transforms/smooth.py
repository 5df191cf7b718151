"""Transforms with bilinear sampling and no rounding: affine and elastic."""

import functools
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates

from mnist_jax.transforms.transform import Transform


@dataclass(frozen=True, kw_only=True)
class Affine(Transform):
    """Rotation, shift and zoom about the image's centre, in one bilinear resampling.

    Keras' `ImageDataGenerator`: rotation · shift · zoom, all drawn uniformly, maps a position in
    the output to the sampled position. Defaults are those of cdeotte/MNIST-CNN-99.75.

    Attributes:
      rotation: largest rotation in either direction, in degrees.
      shift: largest shift in pixels, drawn separately along rows and along columns.
      zoom: largest difference of the scale from 1, drawn separately for rows and columns.
      fill: the values around an image, its nearest edge pixels or zeros.
    """

    name: str = field(default="affine", init=False, repr=False)
    rotation: float = 15.0
    shift: float = 2.8
    zoom: float = 0.15
    fill: Literal["nearest", "zero"] = "nearest"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("rotation", "shift", "zoom"):
            if getattr(self, name) < 0:
                self.refuse(name, "0 or more")
        if self.zoom >= 1:
            self.refuse("zoom", "less than 1")

    def draw(self, key: jax.Array) -> dict[str, jax.Array]:
        """Draws the angle in radians, shifts [2] and scales [2], rows first."""
        drawn = jax.random.uniform(key, (5,), minval=-1)
        return {
            "radians": np.deg2rad(self.rotation) * drawn[0],
            "shifts": self.shift * drawn[1:3],
            "scales": 1 + self.zoom * drawn[3:],
        }

    def apply(self, image: jax.Array, drawn: dict[str, jax.Array]) -> jax.Array:
        """Resamples an image."""
        cosine, sine = jnp.cos(drawn["radians"]), jnp.sin(drawn["radians"])
        rows, columns = (
            drawn["scales"][axis] * _from_centre(size) + drawn["shifts"][axis]
            for axis, size in enumerate(image.shape)
        )
        height, width = image.shape
        positions = (
            (cosine * rows)[:, None] - (sine * columns)[None] + (height - 1) / 2,
            (sine * rows)[:, None] + (cosine * columns)[None] + (width - 1) / 2,
        )
        return _read(image, positions, self.fill)


def _from_centre(size: int) -> np.ndarray:
    return (np.arange(size) - (size - 1) / 2).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Elastic(Transform):
    """Elastic distortion: moves every pixel by a smooth random field.

    Simard, Steinkraus and Platt, *Best Practices for Convolutional Neural Networks Applied to
    Visual Document Analysis* (2003): both coordinates of the field are uniform in ±1 for every
    pixel, smoothed by a Gaussian and scaled; positions outside an image are background.

    Attributes:
      alpha: the scale of the smoothed field, in pixels.
      sigma: the Gaussian's standard deviation, in pixels.
    """

    name: str = field(default="elastic", init=False, repr=False)
    alpha: float = 34.0
    sigma: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alpha < 0:
            self.refuse("alpha", "0 or more")
        if not 0.1 <= self.sigma <= 28:  # From no smoothing to an image's side.
            self.refuse("sigma", "a number from 0.1 to 28")

    def draw(self, key: jax.Array) -> Any:
        """Draws the field before smoothing: [2, 28, 28], rows first."""
        return jax.random.uniform(key, (2, 28, 28), minval=-1)

    def apply(self, image: jax.Array, drawn: jax.Array) -> jax.Array:
        """Smooths the field and moves the pixels."""
        down, across = (_gaussian(size, self.sigma) for size in image.shape)
        highest = jax.lax.Precision.HIGHEST
        smooth = jnp.matmul(jnp.matmul(down, drawn, precision=highest), across.T, precision=highest)
        rows, columns = jnp.indices(image.shape, dtype=jnp.float32)
        moved = self.alpha * smooth
        return _read(image, (rows + moved[0], columns + moved[1]), "zero")


def _read(image: jax.Array, positions: tuple[jax.Array, jax.Array], fill: str) -> jax.Array:
    """Samples an image bilinearly at positions (rows, columns), counted from the first pixel."""
    if fill == "zero":  # A frame of zeros costs a CPU less than mode "constant".
        image, positions = jnp.pad(image, 1), (positions[0] + 1, positions[1] + 1)
    read: jax.Array = map_coordinates(image, positions, order=1, mode="nearest")
    return read


@functools.cache
def _gaussian(size: int, sigma: float) -> np.ndarray:
    """A 1-D Gaussian filter with zero padding, truncated at 4 sigma, as a matrix [size, size]."""
    radius = int(4 * sigma + 0.5)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    distance = np.abs(np.subtract.outer(np.arange(size), np.arange(size)))
    values = np.exp(-0.5 * (distance / sigma) ** 2) / weights.sum()
    return np.where(distance <= radius, values, 0).astype(np.float32)
