"""Convolution on a CPU as matrix products over an im2col matrix.

Activations are [C, H, W, N]: with the image axis innermost, copies run over long contiguous blocks
and fill the vector lanes for any number of channels.
"""

from collections.abc import Sequence
from typing import cast

import jax
import jax.numpy as jnp
from jax import lax

from mnist_jax.kernels.xla_cpu import materialize


def correlate(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Cross-correlates [C, H, W, N] with [kh, kw, C, O] to [O, H - kh + 1, W - kw + 1, N]."""
    kh, kw, _, features = kernel.shape
    _, height, width, n = x.shape
    out = materialize(kernel.reshape(-1, features).T) @ _im2col(x, kh, kw)
    return out.reshape(features, height - kh + 1, width - kw + 1, n)


def correlate_gradients(
    x: jax.Array, kernel: jax.Array, grad: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The gradients of `correlate`'s arguments, given that of its result."""
    kh, kw, _, features = kernel.shape
    # The same matrix as in the forward pass: XLA computes it once if both are in one computation,
    # and recomputes it, in the cache, if they are in separate loops.
    cols = _im2col(x, kh, kw)
    grad = materialize(grad).reshape(features, -1)
    kernel_grad = materialize(lax.dot_general(grad, cols, (((1,), (1,)), ((), ())))).T
    cols_grad = materialize(kernel.reshape(-1, features) @ grad)
    return _col2im(cols_grad, kh, kw, x.shape), kernel_grad.reshape(kernel.shape)


def shifted_columns(x: jax.Array, kw: int, n: int) -> jax.Array:
    """[..., C, H, W·N] to [..., kw, C, H, (W - kw + 1)·N]: the inputs of kw taps in a row."""
    columns = x.shape[-1] - (kw - 1) * n
    return materialize(jnp.stack([x[..., j * n : j * n + columns] for j in range(kw)], -4))


def _im2col(x: jax.Array, kh: int, kw: int) -> jax.Array:
    """[C, H, W, N] to [kh·kw·C, h·w·N]: copies the windows' columns first, then their rows."""
    channels, height, width, n = x.shape
    rows, columns = height - kh + 1, (width - kw + 1) * n
    x = shifted_columns(x.reshape(channels, height, width * n), kw, n)
    x = x.reshape(kw, channels, height * columns)
    x = jnp.stack([x[:, :, i * columns : (i + rows) * columns] for i in range(kh)])
    return materialize(x).reshape(kh * kw * channels, rows * columns)


def _col2im(cols: jax.Array, kh: int, kw: int, shape: Sequence[int]) -> jax.Array:
    """The transpose of `_im2col`: sums [kh, kw, C, h·w·N] into [C, H, W, N]."""
    channels, height, width, n = shape
    rows, columns = height - kh + 1, (width - kw + 1) * n
    cols = cols.reshape(kh, kw, channels, rows, columns)
    summed = []
    for y in range(height):
        taps = range(max(0, y - rows + 1), min(kh, y + 1))
        row = materialize(cast(jax.Array, sum(cols[i, :, :, y - i] for i in taps)))
        shifted = (jnp.pad(row[j], ((0, 0), (j * n, (kw - 1 - j) * n))) for j in range(kw))
        summed.append(sum(shifted))
    return materialize(jnp.stack(summed, 1)).reshape(channels, height, width, n)
