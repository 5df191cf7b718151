"""Augmentor's transforms as ttdoucet/mnist uses them, on 8-bit values, as Pillow computes them."""

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mnist_jax.transforms.resampling import bicubic, resize, resize_weights
from mnist_jax.transforms.transform import Transform

_SIDE = 28
_MIDDLE = _SIDE / 2
# The tiles of `GridDistortion` per side, and the largest move of their corners.
_TILES = 4
_STEP = 1
_TILE = _SIDE // _TILES
# For each angle, the side of the canvas that holds the rotated image, and the box that Augmentor
# crops from it: left, top, right, bottom. Its formula for the largest box without background has an
# operator-precedence error; these are the boxes that it actually gives.
_DEGREES = 10
_CUTS = {
    0: (28, (0, 0, 28, 28)),
    1: (30, (1, 1, 29, 29)),
    2: (30, (1, 1, 29, 29)),
    3: (30, (1, 1, 29, 29)),
    4: (30, (2, 2, 28, 28)),
    5: (32, (3, 3, 29, 29)),
    6: (32, (3, 3, 29, 29)),
    7: (32, (3, 4, 29, 28)),
    8: (32, (4, 4, 28, 28)),
    9: (34, (5, 5, 29, 29)),
    10: (34, (5, 5, 29, 29)),
}
# The average fraction of a side that remains.
_LEFT = sum(right - left + bottom - top for _, (left, top, right, bottom) in _CUTS.values()) / (
    2 * len(_CUTS) * _SIDE
)


@dataclass(frozen=True, kw_only=True)
class CropResize(Transform):
    """A random window, resized to the whole image's size: ttdoucet/mnist's magnification.

    Attributes:
      window: the side of the window, in pixels.
      centre: what an evaluated image is cropped to. `published` rounds the corners of the window
        in the middle as that program does, halves to even, which leaves 24 of 25 pixels; `true`
        does not round them; `turned`, which is ours, crops to what remains of a window on average
        after `MagnifyingRotation`, 23.3 of 25 pixels.
    """

    name: str = field(default="crop_resize", init=False, repr=False)
    window: int = 25
    centre: Literal["published", "true", "turned"] = "published"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 <= self.window <= _SIDE:
            self.refuse("window", f"a number from 2 to {_SIDE}")

    def draw(self, key: jax.Array) -> jax.Array:
        """Draws the window's first row and column: [2]."""
        return jax.random.randint(key, (2,), 0, _SIDE - self.window + 1)

    def apply(self, image: jax.Array, drawn: jax.Array) -> jax.Array:
        """Crops and resizes."""
        cropped = lax.dynamic_slice(_bytes(image), drawn, (self.window, self.window))
        weights = resize_weights(self.window, _SIDE)
        return _image(resize(cropped, weights, weights))

    def evaluation(self, image: jax.Array) -> jax.Array:
        """Crops to the centre and resizes."""
        weights = self.evaluation_weights()
        return _image(resize(_bytes(image), weights, weights))

    def evaluation_weights(self) -> np.ndarray:
        """The weights to crop and resize an evaluated image, in units of 2^-22: int32 [28, 28]."""
        window = self.window * (_LEFT if self.centre == "turned" else 1)
        start, stop = (_SIDE - window) / 2, (_SIDE + window) / 2
        if self.centre != "published":
            return resize_weights(_SIDE, _SIDE, (start, stop))
        first, last = round(start), round(stop)
        return np.pad(resize_weights(last - first, _SIDE), ((0, 0), (first, _SIDE - last)))


@dataclass(frozen=True, kw_only=True)
class GridDistortion(Transform):
    """Moves the nine inner corners of 4×4 tiles by up to one pixel each: Augmentor's distortion."""

    name: str = field(default="grid_distortion", init=False, repr=False)

    def draw(self, key: jax.Array) -> jax.Array:
        """Draws the corners' moves along rows and along columns, in pixels: [2, 3, 3]."""
        inner = (2, _TILES - 1, _TILES - 1)
        return jax.random.randint(key, inner, -_STEP, _STEP + 1)

    def apply(self, image: jax.Array, drawn: jax.Array) -> jax.Array:
        """Samples every tile from between its moved corners."""
        moves = jnp.pad(drawn, ((0, 0), (1, 1), (1, 1))) + _STEP
        with jax.enable_x64(True):
            rows, columns = (
                _positions(jnp.asarray(_tiles(along)), moves[axis])
                for axis, along in enumerate(("rows", "columns"))
            )
            return _image(bicubic(_bytes(image), rows, columns))


def _positions(table: jax.Array, moves: jax.Array) -> jax.Array:
    """Where pixels are sampled along one axis: [28, 28]; moves are [5, 5] and not negative."""
    corners = (moves[:-1, :-1], moves[1:, :-1], moves[1:, 1:], moves[:-1, 1:])
    places = jnp.arange(_TILES)
    tiles = table[(places[:, None], places[None, :], *corners)]
    return tiles.transpose(0, 2, 1, 3).reshape(_SIDE, _SIDE)


@functools.cache
def _tiles(along: Literal["rows", "columns"]) -> np.ndarray:
    """Where a tile's pixels are sampled, rounded as in Pillow's `transform(QUAD)`.

    Returns:
      [row of tiles, column of tiles, four moves + 1, 7, 7]; the corners are north-west,
      south-west, south-east, north-east.
    """
    values = range(2 * _STEP + 1)
    table = np.empty((_TILES, _TILES, *(4 * [len(values)]), _TILE, _TILE))
    # A pixel's coordinates within the tile, and the reciprocal of the tile's side.
    x = (np.arange(_TILE) + 0.5)[None, :]
    y, per = x.T, 1 / _TILE
    for place in np.ndindex(_TILES, _TILES):
        first = place[0 if along == "rows" else 1] * _TILE
        far = (0, 1, 1, 0) if along == "rows" else (0, 0, 1, 1)
        for moves in itertools.product(values, repeat=4):
            corners = zip(far, moves, strict=True)
            nw, sw, se, ne = (first + _TILE * one + move - _STEP for one, move in corners)
            table[(*place, *moves)] = (
                nw
                + (ne - nw) * per * x
                + (sw - nw) * per * y
                + (se - sw - ne + nw) * per * per * x * y
            )
    return table


@dataclass(frozen=True, kw_only=True)
class MagnifyingRotation(Transform):
    """Rotates by whole degrees, crops the middle and resizes it: Augmentor's rotation.

    A fair coin decides between left and right, and 0 to 10 degrees are equally likely.
    """

    name: str = field(default="magnifying_rotation", init=False, repr=False)

    def draw(self, key: jax.Array) -> jax.Array:
        """Draws the angle in degrees, from -10 to 10, anticlockwise."""
        of_side, of_angle = jax.random.split(key)
        angle = jax.random.randint(of_angle, (), 0, _DEGREES + 1)
        return jnp.where(jax.random.bernoulli(of_side), angle, -angle)

    def apply(self, image: jax.Array, drawn: jax.Array) -> jax.Array:
        """Rotates, crops and resizes."""
        place = drawn + _DEGREES
        of_rows, of_columns = (jnp.asarray(table)[place] for table in _cut_weights())
        with jax.enable_x64(True):
            rows, columns = (jnp.asarray(table)[place] for table in _turned())
            turned = bicubic(_bytes(image), rows, columns)
        return _image(resize(turned, of_rows, of_columns))


@functools.cache
def _turned() -> Sequence[np.ndarray]:
    """The coordinates at which Pillow's `rotate(expand=True)` samples the crop, at each angle.

    Returns:
      Rows and columns [21, 28, 28]; they continue beyond a smaller box.
    """
    tables = np.empty((2, 2 * _DEGREES + 1, _SIDE, _SIDE))
    for place, degrees in enumerate(range(-_DEGREES, _DEGREES + 1)):
        canvas, (left, top, *_) = _CUTS[abs(degrees)]
        radians = -math.radians(degrees % 360)
        cosine, sine = round(math.cos(radians), 15), round(math.sin(radians), 15)
        # By how much the canvas is larger on every side.
        more = (canvas - _SIDE) / 2
        offsets = [
            p * -more + q * -more + (p * -_MIDDLE + q * -_MIDDLE + _MIDDLE)
            for p, q in ((-sine, cosine), (cosine, sine))
        ]
        x = (np.arange(_SIDE) + left + 0.5)[None, :]
        y = (np.arange(_SIDE) + top + 0.5)[:, None]
        tables[0, place] = -sine * x + cosine * y + offsets[0]
        tables[1, place] = cosine * x + sine * y + offsets[1]
    return tuple(tables)


@functools.cache
def _cut_weights() -> Sequence[np.ndarray]:
    """The weights that resize the crop, at each angle.

    Returns:
      For rows and for columns: [21, 28, 28] each.
    """
    tables = np.zeros((2, 2 * _DEGREES + 1, _SIDE, _SIDE), np.int32)
    for place, degrees in enumerate(range(-_DEGREES, _DEGREES + 1)):
        _, (left, top, right, bottom) = _CUTS[abs(degrees)]
        for table, size in zip(tables, (bottom - top, right - left), strict=True):
            table[place, :, :size] = resize_weights(size, _SIDE)
    return tuple(tables)


def _bytes(image: jax.Array) -> jax.Array:
    """Rounds to 8-bit values, as int32."""
    return jnp.clip(jnp.round(image * 255), 0, 255).astype(jnp.int32)


def _image(numbers: jax.Array) -> jax.Array:
    return numbers.astype(jnp.float32) / 255
