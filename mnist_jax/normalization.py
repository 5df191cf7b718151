"""Batch normalisation as a pure function, with gradients that pass over the images once.

Autodiff of mean and variance passes over the activations more often than needed, and XLA's CPU
backend adds up long rows one element at a time. Here sums are matrix products.
"""

import jax
import jax.numpy as jnp
from jax import lax


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
    n, height, width, channels = x.shape
    rows = x.transpose(3, 1, 2, 0).reshape(channels, -1)
    mean = _mean_over_axes(_row_sums(rows) / rows.shape[1], axis_name)
    var = _mean_over_axes(_variance(rows, mean), axis_name)
    y = _affine(rows, mean, scale * lax.rsqrt(var + epsilon), bias)
    y = y.reshape(channels, height, width, n).transpose(3, 1, 2, 0)
    return y, lax.stop_gradient(mean), lax.stop_gradient(var)


def _mean_over_axes(values: jax.Array, axis_name: tuple[str, ...] | None) -> jax.Array:
    return lax.pmean(values, axis_name) if axis_name else values


def _row_products(a: jax.Array, b: jax.Array) -> jax.Array:
    """The inner product of each row of [C, P] with its counterpart, [C]."""
    return jnp.einsum("cp,cp->c", a, b, precision=lax.Precision.HIGHEST)


def _row_sums(x: jax.Array) -> jax.Array:
    return _row_products(x, jnp.ones_like(x))


@jax.custom_vjp
def _variance(x: jax.Array, mean: jax.Array) -> jax.Array:
    """The mean square distance of each row of [C, P] from `mean` [C], that of the whole batch."""
    return _variance_forward(x, mean)[0]


def _variance_forward(x, mean):
    centred = x - mean[:, None]
    return _row_products(centred, centred) / x.shape[1], centred


def _variance_backward(centred, grad):
    # Distances from the mean add up to zero over the whole batch, so no gradient goes to it.
    return centred * (2 / centred.shape[1] * grad)[:, None], jnp.zeros_like(grad)


_variance.defvjp(_variance_forward, _variance_backward)


@jax.custom_vjp
def _affine(x: jax.Array, mean: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """(x - mean) · scale + bias, for rows [C, P]."""
    return _affine_forward(x, mean, scale, bias)[0]


def _affine_forward(x, mean, scale, bias):
    centred = x - mean[:, None]
    return centred * scale[:, None] + bias[:, None], (centred, scale)


def _affine_backward(residuals, grad):
    centred, scale = residuals
    sums = _row_sums(grad)
    return grad * scale[:, None], -scale * sums, _row_products(grad, centred), sums


_affine.defvjp(_affine_forward, _affine_backward)
