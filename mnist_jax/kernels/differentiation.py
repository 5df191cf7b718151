"""The choice between fast first derivatives and derivatives of every order."""

import contextlib

import jax

# Part of `jax.jit`'s cache key, so that a function compiled outside is traced again inside.
_all_orders = jax.make_user_context(False)


def differentiable() -> contextlib.AbstractContextManager[None]:
    """Within this context, networks have derivatives of every order and mode.

    Outside it they only have first derivatives in reverse mode (`jax.grad`), by fast custom rules:
    for batch normalisation on every device, and on a CPU for convolution and pooling. Inside it,
    XLA's own operations are differentiated, for `jax.jvp`, `jax.hessian` and Hessian-vector
    products. Values and gradients are the same up to rounding. Functions compiled inside must be
    called inside.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from mnist_jax.models import create_model
      >>> network = create_model("dense", rngs=nnx.Rngs(0))
      >>> images = jnp.ones((1, 28, 28, 1))
      >>> along = jax.jit(lambda images: jax.jvp(network, (images,), (images,))[1])
      >>> with differentiable():
      ...     along(images).shape
      (1, 10)
    """
    context: contextlib.AbstractContextManager[None] = _all_orders(True)
    return context


def fast_gradients() -> bool:
    """Whether the current trace may use custom gradient rules."""
    return not _all_orders.value
