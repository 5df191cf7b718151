"""Winograd's minimal filtering along rows and columns, F(4×4, 3×3), for many channels.

Like `winograd`, but columns are transformed as rows are: it needs a quarter of the multiplications
of the direct computation, instead of half. The transformed images are larger than the images, and
the transformed kernel is four times the kernel, so it pays where products over channels take most
of the time. Rounding errors are one to three millionths of the result, three to ten times those of
`im2col`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mnist_jax.kernels.winograd import ROWS as TILE
from mnist_jax.kernels.winograd import combine, transforms
from mnist_jax.kernels.xla_cpu import materialize

_TAPS = 3
# By how many rows and columns inputs exceed outputs.
_MORE = _TAPS - 1
# Input channels from which on it is faster than `winograd`, as measured.
_CHANNELS = 128
# Tiles from which on it pays to transform the kernel, which becomes four times as large.
_ENOUGH = 40
# Tiles that are computed at a time: enough for large products, few enough for the cache. A single
# row of tiles may have more, since gathering tiles of several rows takes longer.
_TILES, _MOST = 400, 1000


def supports(kernel: jax.Array) -> bool:
    """Whether a kernel [kh, kw, C, O] is 3×3 and has enough channels to pay."""
    return kernel.shape[:2] == (_TAPS, _TAPS) and kernel.shape[2] >= _CHANNELS


def worthwhile(x: jax.Array) -> bool:
    """Whether images [C, H, W, N] have enough tiles to pay, for a supported kernel."""
    down, across = (-(-(side - _MORE) // TILE) for side in x.shape[1:3])
    tiles: int = down * across * x.shape[3]
    return tiles >= _ENOUGH


def correlate(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Cross-correlates [C, H, W, N] with [3, 3, C, O] to [O, H - 2, W - 2, N]."""
    weights = _transform_kernel(kernel)
    height, width = x.shape[1] - _MORE, x.shape[2] - _MORE
    blocks = _Blocks.of(height, width, x.shape[3])
    padded = _fill_rows(x, blocks.height + _MORE)

    def block(number: jax.Array, out: jax.Array) -> jax.Array:
        cols = _transform_images(blocks.read(padded, number, _MORE))
        products = jnp.einsum("stco,stcp->stop", weights, _pixels_together(cols))
        products = materialize(products)
        some = _combine_outputs(products.reshape(*products.shape[:3], *cols.shape[3:]))
        return lax.dynamic_update_slice(out, some[:, :, :width], blocks.start(number))

    zeros = jnp.zeros((kernel.shape[3], blocks.height, width, x.shape[3]), x.dtype)
    out: jax.Array = lax.fori_loop(0, blocks.number, block, zeros)
    return out[:, :height]


def correlate_gradients(
    x: jax.Array, kernel: jax.Array, grad: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The gradients of `correlate`'s arguments, given that of its result."""
    weights = _transform_kernel(kernel)
    blocks = _Blocks.of(*grad.shape[1:])
    padded = _fill_rows(x, blocks.height + _MORE)
    padded_grad = _fill_rows(grad, blocks.height)

    def block(number: jax.Array, sums: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        x_grad, weights_grad = sums
        some = blocks.read(padded, number, _MORE)
        cols = _transform_images(some)
        products = _combine_outputs_transposed(blocks.read(padded_grad, number))
        products = _pixels_together(products)
        weights_grad += jnp.einsum("stcp,stop->stco", _pixels_together(cols), products)
        cols_grad = materialize(jnp.einsum("stco,stop->stcp", weights, products))
        some = _transform_images_transposed(cols_grad.reshape(cols.shape), some.shape)
        # Vertically adjacent blocks share two rows.
        some += blocks.read(x_grad, number, _MORE)
        return lax.dynamic_update_slice(x_grad, some, blocks.start(number)), weights_grad

    sums = jnp.zeros_like(padded), jnp.zeros_like(weights)
    x_grad, weights_grad = lax.fori_loop(0, blocks.number, block, sums)
    return x_grad[:, : x.shape[1]], _transform_kernel_transposed(weights_grad)


@dataclass(frozen=True)
class _Blocks:
    """Blocks of [C, H, W, N] that are computed one after another: some rows of some images.

    Attributes:
      rows: output rows per block.
      images: images per block.
      height: output rows of all blocks, including the last block's padding.
      number: the number of blocks.
    """

    rows: int
    images: int
    height: int
    number: int

    @classmethod
    def of(cls, height: int, width: int, n: int) -> "_Blocks":
        """The blocks for outputs [O, height, width, n]."""
        down, across = -(-height // TILE), -(-width // TILE)
        divisors = (n // parts for parts in range(1, n + 1) if n % parts == 0)
        images = next((some for some in divisors if across * some <= _MOST), 1)
        above = -(-down // max(1, _TILES // (across * images)))
        rows = -(-down // above) * TILE
        return cls(rows, images, above * rows, above * (n // images))

    def start(self, number: jax.Array) -> tuple[jax.typing.ArrayLike, ...]:
        """The indices in [C, H, W, N] at which a block begins."""
        above = self.height // self.rows
        return 0, number % above * self.rows, 0, number // above * self.images

    def read(self, x: jax.Array, number: jax.Array, more: int = 0) -> jax.Array:
        """A block of [C, H, W, N], with `more` rows after it."""
        sizes = (x.shape[0], self.rows + more, x.shape[2], self.images)
        return lax.dynamic_slice(x, self.start(number), sizes)


def _fill_rows(x: jax.Array, height: int) -> jax.Array:
    """Adds rows of zeros to [C, H, W, N]."""
    return jnp.pad(x, ((0, 0), (0, height - x.shape[1]), (0, 0), (0, 0)))


def _pixels_together(x: jax.Array) -> jax.Array:
    """[s, t, C, tile rows, tile columns, N] to [s, t, C, P]."""
    return x.reshape(*x.shape[:3], -1)


def _transform_kernel(kernel: jax.Array) -> jax.Array:
    """[3, 3, C, O] to [s, t, C, O], at s points along columns and t points along rows."""
    return _in_both_directions(transforms(_TAPS).g, kernel.swapaxes(0, 1))


def _transform_kernel_transposed(weights: jax.Array) -> jax.Array:
    return _in_both_directions(transforms(_TAPS).g.T, weights).swapaxes(0, 1)


def _in_both_directions(matrix: np.ndarray, x: jax.Array) -> jax.Array:
    """Multiplies a constant matrix [I, J] with both first axes of [J, J, ...]: [I, I, ...].

    As one product, which is faster than two in sequence.
    """
    both = jnp.asarray(np.kron(matrix, matrix), x.dtype) @ x.reshape(matrix.shape[1] ** 2, -1)
    return both.reshape(len(matrix), len(matrix), *x.shape[2:])


def _transform_images(x: jax.Array) -> jax.Array:
    """[C, H, W, N], of whole rows of tiles, to [s, t, C, tile rows, tile columns, N]."""
    channels, _, width, n = x.shape
    x = _fill_columns(x, width - _MORE)
    width = x.shape[2]
    points = _at_points(x.reshape(channels, -1, width * n), 1)
    return _at_points(points.reshape(*points.shape[:3], width, n), 3)


def _transform_images_transposed(cols: jax.Array, shape: Sequence[int]) -> jax.Array:
    """The transpose of `_transform_images`: [s, t, C, tile rows, tile columns, N] to `shape`."""
    channels, _, width, n = shape
    points = _at_points_transposed(cols, 3)
    points = points.reshape(*points.shape[:3], -1)
    x = _at_points_transposed(points, 1).reshape(channels, -1, points.shape[3] // n, n)
    return materialize(x[:, :, :width])


def _combine_outputs(products: jax.Array) -> jax.Array:
    """[s, t, O, tile rows, tile columns, N] to [O, h, w, N], of whole tiles."""
    features, rows, columns, n = products.shape[2:]
    out = _in_both_directions(transforms(_TAPS).a.T, products).transpose(2, 3, 1, 4, 0, 5)
    return out.reshape(features, rows * TILE, columns * TILE, n)


def _combine_outputs_transposed(grad: jax.Array) -> jax.Array:
    """[O, h, w, N] to [s, t, O, tile rows, tile columns, N]."""
    grad = _fill_columns(grad, grad.shape[2])
    points = _stack(transforms(_TAPS).a, [grad[:, i::TILE] for i in range(TILE)], 0)
    return _stack(transforms(_TAPS).a, [points[:, :, :, i::TILE] for i in range(TILE)], 0)


def _fill_columns(x: jax.Array, outputs: int) -> jax.Array:
    """Pads [C, H, W, N] with columns of zeros, so that `outputs` columns become whole tiles."""
    return jnp.pad(x, ((0, 0), (0, 0), (0, -outputs % TILE), (0, 0)))


def _at_points(x: jax.Array, axis: int) -> jax.Array:
    """[..., pixels, ...] to [t, ..., tiles, ...], along an axis of whole tiles."""
    outputs = x.shape[axis] - _MORE
    b = transforms(_TAPS).b
    # Every tile's first pixel, every tile's second pixel, and so on.
    pixels = [lax.slice_in_dim(x, i, i + outputs - TILE + 1, TILE, axis) for i in range(len(b))]
    return _stack(b, pixels, 0)


def _at_points_transposed(points: jax.Array, axis: int) -> jax.Array:
    """The transpose of `_at_points`."""
    x = _stack(transforms(_TAPS).b.T, points, axis + 1)
    # A tile reads its own pixels and the first two of the next tile.
    own, next_ones = jnp.split(x, [TILE], axis + 1)
    next_ones = _pad(next_ones, axis + 1, 0, TILE - next_ones.shape[axis + 1])
    merged = (a.reshape(*a.shape[:axis], -1, *a.shape[axis + 2 :]) for a in (own, next_ones))
    own, next_ones = merged
    x = _pad(own, axis, 0, _MORE)
    return materialize(x + _pad(next_ones, axis, TILE, _MORE - TILE))


def _pad(x: jax.Array, axis: int, before: int, after: int) -> jax.Array:
    """Pads one axis with zeros; negative numbers crop it."""
    zero = jnp.zeros((), x.dtype)
    pads = [(before, after, 0) if i == axis else (0, 0, 0) for i in range(x.ndim)]
    return lax.pad(x, zero, pads)


def _stack(matrix: np.ndarray, arrays: Sequence[jax.Array] | jax.Array, axis: int) -> jax.Array:
    """Multiplies a constant matrix with the first axis of arrays, and puts the result on `axis`."""
    return materialize(jnp.stack([combine(row, arrays) for row in matrix], axis))
