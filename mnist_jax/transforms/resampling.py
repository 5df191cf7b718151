"""Images read between their pixels as Pillow does it bicubically, bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np

# Fractional bits of the weights that Pillow's `resize` rounds to (`PRECISION_BITS`).
WEIGHT_BITS = 22


def resize_weights(source: int, size: int, box: tuple[float, float] | None = None) -> np.ndarray:
    """The weights with which Pillow's `resize(BICUBIC)` makes `size` pixels of `source` ones.

    Its cubic has a = -0.5; what falls outside the source is left out and the rest scaled to 1.

    Args:
      source: pixels that there are.
      size: pixels to make, no fewer than the box has.
      box: where in the source it begins and ends, from edge to edge; by default all of it.

    Returns:
      int32 [size, source], in units of 2^-22.
    """
    start, stop = map(np.float32, box or (0, source))  # Pillow's type.
    if stop - start == size:  # Pillow copies.
        weights = np.eye(size, source)
    else:
        centers = start + (np.arange(size) + 0.5) * (float(stop - start) / size)
        distance = np.abs(np.arange(source) - centers[:, None] + 0.5)
        near = (1.5 * distance - 2.5) * distance * distance + 1
        far = (((distance - 5) * distance + 8) * distance - 4) * -0.5
        cubic = np.where(distance < 1, near, np.where(distance < 2, far, 0))
        weights = cubic / cubic.sum(axis=1, keepdims=True)
    whole = np.trunc(weights * 2**WEIGHT_BITS + np.copysign(0.5, weights))
    return np.asarray(whole, np.int32)


def resize(
    image: jax.Array, of_rows: jax.typing.ArrayLike, of_columns: jax.typing.ArrayLike
) -> jax.Array:
    """Resizes an image of 8-bit numbers by weights from `resize_weights`, as Pillow rounds.

    Args:
      image: int32 [h, w], from 0 to 255.
      of_rows: int32 [H, h].
      of_columns: int32 [W, w].

    Returns:
      int32 [H, W], from 0 to 255.
    """
    # Columns first, and rounded in between.
    narrow = _to_bytes(jnp.matmul(image, jnp.transpose(of_columns)))
    return _to_bytes(jnp.matmul(of_rows, narrow))


def _to_bytes(numbers: jax.Array) -> jax.Array:
    return jnp.clip((numbers + (1 << WEIGHT_BITS - 1)) >> WEIGHT_BITS, 0, 255)


def bicubic(image: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Reads an image of 8-bit numbers as Pillow's `transform(BICUBIC)` does.

    Its cubic has a = -1, and results are clipped and then truncated, so that a last digit in
    float64 decides: positions and sums are in float64 here, too.

    Args:
      image: int32 [H, W], from 0 to 255; beyond its edge are the nearest of its pixels.
      rows: float64, where centres of pixels are at +0.5; those outside the image read 0.
      columns: the same, of the same shape.

    Returns:
      int32, from 0 to 255.
    """
    with jax.enable_x64(True):
        height, width = image.shape
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        top, left = jnp.floor(rows - 0.5), jnp.floor(columns - 0.5)
        down, right = rows - 0.5 - top, columns - 0.5 - left
        pixels = image.ravel()
        near = np.arange(-1, 3)
        ys = [jnp.clip(top.astype(jnp.int32) + i, 0, height - 1) * width for i in near]
        xs = [jnp.clip(left.astype(jnp.int32) + i, 0, width - 1) for i in near]

        def read(y: jax.Array, x: jax.Array) -> jax.Array:
            return pixels.at[y + x].get(mode="promise_in_bounds").astype(jnp.float64)

        lines = [_cubic([read(y, x) for x in xs], right) for y in ys]
        found = jnp.clip(_cubic(lines, down), 0, 255).astype(jnp.int32)
        return jnp.where(inside, found, jnp.zeros_like(found))


def _cubic(values: list[jax.Array], at: jax.Array) -> jax.Array:
    """Pillow's polynomial through the middle two of four neighbours, in its order of rounding."""
    first, second, third, fourth = values
    linear = third - first
    square = 2 * (first - second) + third - fourth
    cube = second - first - third + fourth
    value = cube
    for addend in (square, linear, second):
        # The bounds are never reached; clipping keeps a compiler from rounding a product and a
        # sum as one.
        value = jnp.clip(at * value, -1e9, 1e9) + addend
    return value
