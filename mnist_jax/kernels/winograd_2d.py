"""Winograd's minimal filtering along rows and columns, F(4×4, 3×3), for many channels.

It is `winograd` with columns transformed as rows are: a quarter of the multiplications of a direct
sum, where rows alone leave a half. The arrays between the transforms are larger than the images,
and the kernel's are four times the kernel, so it gains where products over channels take most of
the time. Rounding errors are one to three millionths of the result, three to ten times those of
`im2col`.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mnist_jax.kernels.winograd import ROWS as TILE
from mnist_jax.kernels.winograd import combine, transforms
from mnist_jax.kernels.xla_cpu import materialize

_TAPS = 3
# Input channels from which on it is faster than `winograd`, as measured.
_CHANNELS = 128
# Tiles that are computed at a time: enough for large products, few enough for the cache.
_TILES = 1000


def supports(kernel: jax.Array) -> bool:
    """Whether a kernel [kh, kw, C, O] has this form, and enough channels to gain."""
    return kernel.shape[:2] == (_TAPS, _TAPS) and kernel.shape[2] >= _CHANNELS


def correlate(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Cross-correlates [C, H, W, N] with [3, 3, C, O] to [O, H - 2, W - 2, N]."""
    weights = _transform_kernel(kernel)

    def some(x: jax.Array) -> jax.Array:
        cols = _transform_images(x)
        products = jnp.einsum("stco,stcp->stop", weights, _pixels_together(cols))
        products = materialize(products)
        return _combine_outputs(products.reshape(*products.shape[:3], *cols.shape[3:]))

    out = _join(lax.map(some, _split(x, _groups(x))))
    return out[:, : x.shape[1] - _TAPS + 1, : x.shape[2] - _TAPS + 1]


def correlate_gradients(
    x: jax.Array, kernel: jax.Array, grad: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The gradients of `correlate`'s arguments for that of its result."""
    weights = _transform_kernel(kernel)

    def some(total: jax.Array, images: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        x, grad = images
        cols = _transform_images(x)
        products = _pixels_together(_combine_outputs_transposed(grad))
        weights_grad = jnp.einsum("stcp,stop->stco", _pixels_together(cols), products)
        cols_grad = materialize(jnp.einsum("stco,stop->stcp", weights, products))
        x_grad = _transform_images_transposed(cols_grad.reshape(cols.shape), x.shape)
        return total + weights_grad, x_grad

    groups = _groups(x)
    images = _split(x, groups), _split(grad, groups)
    weights_grad, x_grad = lax.scan(some, jnp.zeros_like(weights), images)
    return _join(x_grad), _transform_kernel_transposed(weights_grad)


def _groups(x: jax.Array) -> int:
    """How many equal groups of images [C, H, W, N] are computed one after the other."""
    _, height, width, n = x.shape
    tiles = -(-(height - _TAPS + 1) // TILE) * -(-(width - _TAPS + 1) // TILE)
    divisors = (groups for groups in range(1, n + 1) if n % groups == 0)
    return next((groups for groups in divisors if tiles * n <= groups * _TILES), n)


def _split(x: jax.Array, groups: int) -> jax.Array:
    """[..., N] to [groups, ..., N / groups]."""
    return jnp.moveaxis(x.reshape(*x.shape[:-1], groups, -1), -2, 0)


def _join(x: jax.Array) -> jax.Array:
    """Undoes `_split`."""
    return jnp.moveaxis(x, 0, -2).reshape(*x.shape[1:-1], -1)


def _pixels_together(x: jax.Array) -> jax.Array:
    """[s, t, C, tile rows, tile columns, N] to [s, t, C, P]."""
    return x.reshape(*x.shape[:3], -1)


def _transform_kernel(kernel: jax.Array) -> jax.Array:
    """[3, 3, C, O] to [s, t, C, O], at s points along the columns and t along the rows."""
    g = transforms(_TAPS).g
    return _stack(g, _stack(g, kernel, 0).swapaxes(0, 1), 0)


def _transform_kernel_transposed(weights: jax.Array) -> jax.Array:
    g = transforms(_TAPS).g.T
    return _stack(g, _stack(g, weights, 0).swapaxes(0, 1), 0)


def _transform_images(x: jax.Array) -> jax.Array:
    """[C, H, W, N] to [s, t, C, tile rows, tile columns, N], after zeros that fill the tiles."""
    channels, height, width, n = x.shape
    x = _fill_tiles(x, height - _TAPS + 1, width - _TAPS + 1)
    width = x.shape[2]
    points = _at_points(x.reshape(channels, -1, width * n), 1)
    return _at_points(points.reshape(*points.shape[:3], width, n), 3)


def _transform_images_transposed(cols: jax.Array, shape: Sequence[int]) -> jax.Array:
    """The transpose of `_transform_images`: [s, t, C, tile rows, tile columns, N] to `shape`."""
    channels, height, width, n = shape
    points = _at_points_transposed(cols, 3)
    points = points.reshape(*points.shape[:3], -1)
    x = _at_points_transposed(points, 1).reshape(channels, -1, points.shape[3] // n, n)
    return materialize(x[:, :height, :width])


def _combine_outputs(products: jax.Array) -> jax.Array:
    """[s, t, O, tile rows, tile columns, N] to [O, h, w, N], with every tile whole."""
    _, t, features, rows, columns, n = products.shape
    a = transforms(_TAPS).a.T
    out = _stack(a, products, 4).reshape(t, features, rows, -1)
    return _stack(a, out, 2).reshape(features, rows * TILE, columns * TILE, n)


def _combine_outputs_transposed(grad: jax.Array) -> jax.Array:
    """[O, h, w, N] to [s, t, O, tile rows, tile columns, N]."""
    features, height, width, n = grad.shape
    grad = _fill_tiles(grad, height, width)
    a = transforms(_TAPS).a
    grad = grad.reshape(features, -1, TILE, grad.shape[2] * n)
    points = _stack(a, jnp.moveaxis(grad, 2, 0), 0)
    points = points.reshape(*points.shape[:3], -1, TILE, n)
    return _stack(a, jnp.moveaxis(points, 4, 0), 0)


def _fill_tiles(x: jax.Array, rows: int, columns: int) -> jax.Array:
    """Adds the rows and columns of zeros to [C, H, W, N] that whole tiles of outputs need."""
    return jnp.pad(x, ((0, 0), (0, -rows % TILE), (0, -columns % TILE), (0, 0)))


def _at_points(x: jax.Array, axis: int) -> jax.Array:
    """[..., pixels, ...] to [t, ..., tiles, ...], along an axis whose tiles are whole."""
    outputs = x.shape[axis] - _TAPS + 1
    b = transforms(_TAPS).b
    # Every tile's first pixel, every tile's second pixel, and so on.
    pixels = [lax.slice_in_dim(x, i, i + outputs - TILE + 1, TILE, axis) for i in range(len(b))]
    return _stack(b, pixels, 0)


def _at_points_transposed(points: jax.Array, axis: int) -> jax.Array:
    """The transpose of `_at_points`."""
    x = _stack(transforms(_TAPS).b.T, points, axis + 1)
    # A tile reads pixels of its own and then two of the next one.
    own, next_ones = jnp.split(x, [TILE], axis + 1)
    next_ones = _pad(next_ones, axis + 1, 0, TILE - next_ones.shape[axis + 1])
    merged = (a.reshape(*a.shape[:axis], -1, *a.shape[axis + 2 :]) for a in (own, next_ones))
    own, next_ones = merged
    x = _pad(own, axis, 0, _TAPS - 1)
    return materialize(x + _pad(next_ones, axis, TILE, _TAPS - 1 - TILE))


def _pad(x: jax.Array, axis: int, before: int, after: int) -> jax.Array:
    """Adds zeros along one axis, or cuts what a negative number says."""
    zero = jnp.zeros((), x.dtype)
    pads = [(before, after, 0) if i == axis else (0, 0, 0) for i in range(x.ndim)]
    return lax.pad(x, zero, pads)


def _stack(matrix: np.ndarray, arrays: Sequence[jax.Array] | jax.Array, axis: int) -> jax.Array:
    """The product of a constant matrix and the first axis of arrays, along another axis."""
    return materialize(jnp.stack([combine(row, arrays) for row in matrix], axis))
