"""Pillow's bicubic resampling, bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np

# Fractional bits of the weights that Pillow's `resize` rounds to (`PRECISION_BITS`).
WEIGHT_BITS = 22


def resize_weights(source: int, size: int, box: tuple[float, float] | None = None) -> np.ndarray:
    """The weights of Pillow's `resize(BICUBIC)` from `source` pixels to `size` pixels.

    Its cubic has a = -0.5; weights outside the source are dropped, and the rest scaled to sum to 1.

    Args:
      source: number of source pixels.
      size: number of output pixels, no fewer than the box has.
      box: start and end of the resized part of the source; by default all of it.

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
    """Resizes an 8-bit image by weights from `resize_weights`, with Pillow's rounding.

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
    """Samples an 8-bit image as Pillow's `transform(BICUBIC)` does.

    Its cubic has a = -1, and results are clipped and then truncated, so that the last digit of a
    float64 may matter: positions and sums are float64 here, too.

    Args:
      image: int32 [H, W], from 0 to 255; its edge pixels are repeated beyond the edge.
      rows: float64 coordinates, with pixel centres at +0.5; those outside the image give 0.
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
    """Pillow's polynomial between the middle two of four neighbours, in its order of operations."""
    first, second, third, fourth = values
    linear = third - first
    square = 2 * (first - second) + third - fourth
    cube = second - first - third + fourth
    value = cube
    for addend in (square, linear, second):
        # The bounds are never reached; clipping keeps the compiler from fusing the multiplication
        # and addition, which would round once instead of twice.
        value = jnp.clip(at * value, -1e9, 1e9) + addend
    return value
