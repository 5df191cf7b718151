"""Convolution on a CPU with fewer multiplications: Winograd's minimal filtering F(4, kh).

Computed directly, four neighbouring outputs of a filter with r taps need 4·r multiplications.
F(4, r) needs r + 3: it evaluates inputs and filter, as polynomials, at r + 3 points, multiplies,
and interpolates the outputs, all by small constant matrices. Here it runs along the rows, where a
step of the algorithm is a sum of long contiguous rows; columns are gathered as in `im2col`, and
each point is a matrix product over input channels and columns. A 5×5 convolution needs 0.4 of the
multiplications, a 3×3 one half. Rounding errors are below 1e-6 of the result, two to four times
those of `im2col`; an infinite input gives NaN in the rows around it.

Sources: A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural Networks" (2015), section
4. The choice of small points with their reciprocals, for accuracy, is from B. Barabasz et al.,
"Error Analysis and Improving the Accuracy of Winograd Convolution for Deep Neural Networks" (2018).
"""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from numpy.polynomial import polynomial

from mnist_jax.kernels.im2col import shifted_columns
from mnist_jax.kernels.xla_cpu import materialize

# Output rows of a tile, F's first argument.
ROWS = 4
# The last point is always infinity.
_POINTS = (0, 1, -1, 1 / 2, -2, 2, -1 / 2)


class Transforms(NamedTuple):
    """The constant matrices of F(4, r), with their names in the literature; t is r + 3.

    Attributes:
      a: [t, 4], the output transform.
      b: [t, t], the input transform.
      g: [t, r], the filter transform.
    """

    a: np.ndarray
    b: np.ndarray
    g: np.ndarray


def supports(kernel: jax.Array) -> bool:
    """Whether the points suffice for [kh, kw, C, O] and the products are large enough to pay."""
    return 2 <= kernel.shape[0] <= len(_POINTS) + 2 - ROWS and kernel.shape[2] > 1


def worthwhile(x: jax.Array, kernel: jax.Array) -> bool:
    """Whether whole tiles save multiplications for the number of rows of images [C, H, W, N]."""
    taps = kernel.shape[0]
    rows: int = x.shape[1] - taps + 1
    return -(-rows // ROWS) * (taps + ROWS - 1) < rows * taps


def correlate(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Cross-correlates [C, H, W, N] with [kh, kw, C, O] to [O, H - kh + 1, W - kw + 1, N]."""
    kh, kw, _, features = kernel.shape
    _, height, width, n = x.shape
    rows, columns = height - kh + 1, (width - kw + 1) * n
    products = materialize(_transform_kernel(kernel) @ _transform_images(x, kh, kw))
    products = products.reshape(len(products), features, -1, columns)
    out = jnp.stack([combine(row, products) for row in transforms(kh).a.T], 2)
    return out.reshape(features, -1, width - kw + 1, n)[:, :rows]


def correlate_gradients(
    x: jax.Array, kernel: jax.Array, grad: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The gradients of `correlate`'s arguments, given that of its result."""
    kh, kw, channels, features = kernel.shape
    # The same arrays as in the forward pass; see `im2col`.
    cols = _transform_images(x, kh, kw)
    weights = _transform_kernel(kernel)

    rows = grad.shape[1]
    grad = _pad_rows(grad.reshape(features, rows, -1), 0, -rows % ROWS)
    grad = jnp.moveaxis(grad.reshape(features, -1, ROWS, grad.shape[2]), 2, 0)
    products = materialize(jnp.stack([combine(row, grad) for row in transforms(kh).a]))
    products = products.reshape(len(products), features, -1)

    kernel_grad = materialize(jnp.einsum("tkp,top->tko", cols, products))
    kernel_grad = kernel_grad.reshape(-1, kw, channels, features)
    kernel_grad = jnp.stack([combine(row, kernel_grad) for row in transforms(kh).g.T])

    cols_grad = materialize(jnp.einsum("tok,top->tkp", weights, products))
    return _transform_images_transposed(cols_grad, kh, kw, x.shape), kernel_grad


@cache
def transforms(taps: int) -> Transforms:
    """The Toom-Cook construction, with every row of `b` scaled to a largest element of 1."""
    points = np.array(_POINTS[: taps + ROWS - 2])
    others = [np.delete(points, i) for i in range(len(points))]
    b = np.array(
        [
            *(np.append(polynomial.polyfromroots(o), 0) for o in others),
            polynomial.polyfromroots(points),
        ]
    )
    g = np.vander(points, taps, increasing=True)
    g = np.array([row / np.prod(p - o) for row, p, o in zip(g, points, others, strict=True)])
    scale = abs(b).max(1, keepdims=True)
    return Transforms(
        a=_with_infinity(np.vander(points, ROWS, increasing=True)),
        b=b / scale,
        g=_with_infinity(g) * scale,
    )


def _with_infinity(rows: np.ndarray) -> np.ndarray:
    """Appends the row for the point at infinity, which selects the highest coefficient."""
    return np.vstack([rows, np.eye(rows.shape[1])[-1]])


def combine(coefficients: Iterable[float], arrays: Sequence[jax.Array] | jax.Array) -> jax.Array:
    """The linear combination of arrays, without terms whose coefficient is 0."""
    pairs = zip(coefficients, arrays, strict=True)
    total: jax.Array = sum(array if c == 1 else float(c) * array for c, array in pairs if c)
    return total


def _transform_kernel(kernel: jax.Array) -> jax.Array:
    """[kh, kw, C, O] to [t, O, kw·C]."""
    points = jnp.stack([combine(row, kernel) for row in transforms(len(kernel)).g])
    return materialize(points.reshape(len(points), -1, kernel.shape[3]).mT)


def _transform_images(x: jax.Array, kh: int, kw: int) -> jax.Array:
    """[C, H, W, N] to [t, kw·C, tiles·w·N], after padding the last tile with rows of zeros."""
    channels, height, _, n = x.shape
    rows = height - kh + 1
    x = _pad_rows(x.reshape(channels, height, -1), 0, -rows % ROWS)
    b = transforms(kh).b
    # Every tile's first row, every tile's second row, and so on.
    tile_rows = [x[:, i : i + rows : ROWS] for i in range(len(b))]
    x = materialize(jnp.stack([combine(row, tile_rows) for row in b]))
    return shifted_columns(x, kw, n).reshape(len(b), kw * channels, -1)


def _transform_images_transposed(
    cols: jax.Array, kh: int, kw: int, shape: Sequence[int]
) -> jax.Array:
    """The transpose of `_transform_images`: [t, kw·C, tiles·w·N] to [C, H, W, N]."""
    channels, height, width, n = shape
    cols = cols.reshape(len(cols), kw, channels, -1, (width - kw + 1) * n)
    unmoved = [(0, 0)] * 3
    shifted = [jnp.pad(cols[:, j], [*unmoved, (j * n, (kw - 1 - j) * n)]) for j in range(kw)]
    x = materialize(cast(jax.Array, sum(shifted)))
    x = materialize(jnp.stack([combine(row, x) for row in transforms(kh).b.T], 2))
    # A tile reads its own rows and the first kh - 1 of the next tile.
    own, next_ones = x[:, :, :ROWS], _pad_rows(x[:, :, ROWS:], 0, ROWS + 1 - kh)
    own, next_ones = (a.reshape(channels, -1, width * n) for a in (own, next_ones))
    x = _pad_rows(own, 0, ROWS) + _pad_rows(next_ones, ROWS, 0)
    return materialize(x[:, :height]).reshape(shape)


def _pad_rows(x: jax.Array, before: int, after: int) -> jax.Array:
    """Adds rows of zeros to [..., H, W·N]."""
    return jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(before, after), (0, 0)])
