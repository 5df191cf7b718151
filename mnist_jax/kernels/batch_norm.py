"""Batch normalisation as a pure function, with gradients that pass over the images once.

Autodiff of mean and variance passes over the activations more often than needed. On a CPU they are
[C, H, W·N] here, because XLA's CPU backend sums long rows one element at a time; accelerators get
[N, H, W, C] unchanged.
"""

import jax
import jax.numpy as jnp
from jax import lax

from mnist_jax.kernels.differentiation import fast_gradients
from mnist_jax.kernels.xla_cpu import channel_sums, lower_for_cpu


def batch_norm(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    *,
    epsilon: float,
    axis_name: tuple[str, ...] | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalises every channel with the batch's own statistics.

    Args:
      x: images [N, H, W, C].
      scale: [C].
      bias: [C].
      epsilon: added to the variance.
      axis_name: the mapped axes that the batch is split over, in equal parts.

    Returns:
      [N, H, W, C], and the mean and the biased variance [C] of the whole batch, as constants.
    """
    # The gradients below would mix types.
    dtype = jnp.result_type(x, scale, bias)
    x, scale, bias = (one.astype(dtype) for one in (x, scale, bias))
    n, height, width, channels = x.shape
    if cpu := lower_for_cpu():
        x = x.transpose(3, 1, 2, 0).reshape(channels, height, -1)
    variance, affine = (_variance, _affine) if fast_gradients() else (_variance_of, _affine_of)
    mean = _mean_over_axes(_sums(x) / (n * height * width), axis_name)
    var = _mean_over_axes(variance(x, mean), axis_name)
    y = affine(x, mean, scale * lax.rsqrt(var + epsilon), bias)
    if cpu:
        y = y.reshape(channels, height, width, n).transpose(3, 1, 2, 0)
    return y, lax.stop_gradient(mean), lax.stop_gradient(var)


def _mean_over_axes(values: jax.Array, axis_name: tuple[str, ...] | None) -> jax.Array:
    return lax.pmean(values, axis_name) if axis_name else values


def _sums(x: jax.Array) -> jax.Array:
    """Sums over all axes but the channels."""
    return channel_sums(x) if lower_for_cpu() else x.sum((0, 1, 2))


def _of_channels(values: jax.Array) -> jax.Array:
    """Reshapes [C] to broadcast against the activations."""
    return values[:, None, None] if lower_for_cpu() else values[None, None, None]


def _variance_of(x: jax.Array, mean: jax.Array) -> jax.Array:
    """The variance of every channel about `mean` [C], which is that of the whole batch."""
    return _variance_forward(x, mean)[0]


def _variance_forward(x: jax.Array, mean: jax.Array) -> tuple[jax.Array, jax.Array]:
    centred = x - _of_channels(mean)
    return _sums(centred * centred) / (x.size // mean.size), centred


def _variance_backward(centred: jax.Array, grad: jax.Array) -> tuple[jax.Array, jax.Array]:
    # Deviations from the mean sum to zero over the whole batch, so its gradient is zero.
    return centred * _of_channels(2 * grad.size / centred.size * grad), jnp.zeros_like(grad)


_variance = jax.custom_vjp(_variance_of)
_variance.defvjp(_variance_forward, _variance_backward)


def _affine_of(x: jax.Array, mean: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """(x - mean) · scale + bias, per channel."""
    return _affine_forward(x, mean, scale, bias)[0]


def _affine_forward(
    x: jax.Array, mean: jax.Array, scale: jax.Array, bias: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    centred = x - _of_channels(mean)
    return centred * _of_channels(scale) + _of_channels(bias), (centred, scale)


def _affine_backward(
    residuals: tuple[jax.Array, jax.Array], grad: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    centred, scale = residuals
    sums = _sums(grad)
    return grad * _of_channels(scale), -scale * sums, _sums(grad * centred), sums


_affine = jax.custom_vjp(_affine_of)
_affine.defvjp(_affine_forward, _affine_backward)
