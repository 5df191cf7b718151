"""Batch normalisation as a pure function, with the gradient written out.

Autodiff of mean and variance passes over the activations more often than needed, and XLA's CPU
backend adds up long rows one element at a time. Here sums are matrix products.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax


def batch_norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array, *, epsilon: float, axis_name: str | None = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalises every channel with the batch's own statistics.

    Args:
      x: images [N, H, W, C].
      scale: [C].
      bias: [C].
      epsilon: added to the variance.
      axis_name: the mapped axis that the batch is split over, in equal parts.

    Returns:
      [N, H, W, C], and the mean and the biased variance [C] of the whole batch, as constants.
    """
    n, height, width, channels = x.shape
    rows = x.transpose(3, 1, 2, 0).reshape(channels, -1)
    y, mean, var = _normalize(rows, scale, bias, epsilon, axis_name)
    y = y.reshape(channels, height, width, n).transpose(3, 1, 2, 0)
    return y, lax.stop_gradient(mean), lax.stop_gradient(var)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _normalize(x, scale, bias, epsilon, axis_name):
    """Normalises the rows of [C, P]."""
    return _normalize_forward(x, scale, bias, epsilon, axis_name)[0]


def _normalize_forward(x, scale, bias, epsilon, axis_name):
    mean = _mean_product(x, jnp.ones_like(x), axis_name)
    centred = x - mean[:, None]
    var = _mean_product(centred, centred, axis_name)
    inverse = lax.rsqrt(var + epsilon)
    y = centred * (scale * inverse)[:, None] + bias[:, None]
    return (y, mean, var), (centred, scale, inverse)


def _normalize_backward(_, axis_name, residuals, grads):
    centred, scale, inverse = residuals
    grad = grads[0]
    sums, products = _row_products(grad, jnp.ones_like(grad)), _row_products(grad, centred)
    x_grad = (scale * inverse)[:, None] * (
        grad
        - _mean(sums, grad, axis_name)[:, None]
        - centred * (inverse**2 * _mean(products, grad, axis_name))[:, None]
    )
    return x_grad, products * inverse, sums


_normalize.defvjp(_normalize_forward, _normalize_backward)


def _row_products(a: jax.Array, b: jax.Array) -> jax.Array:
    """The inner product of each row of [C, P] with its counterpart, [C]."""
    return jnp.einsum("cp,cp->c", a, b, precision=lax.Precision.HIGHEST)


def _mean_product(a: jax.Array, b: jax.Array, axis_name: str | None) -> jax.Array:
    return _mean(_row_products(a, b), a, axis_name)


def _mean(sums: jax.Array, like: jax.Array, axis_name: str | None) -> jax.Array:
    """The mean over a row and the mapped axis, of sums over this device's rows."""
    mean = sums / like.shape[1]
    return lax.pmean(mean, axis_name) if axis_name else mean
