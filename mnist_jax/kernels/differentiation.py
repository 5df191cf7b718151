"""Which derivatives there are: the first alone, or all of them."""

import contextlib

import jax

# Part of the key of `jax.jit`'s caches, so that a function compiled outside is traced anew inside.
_all_orders = jax.make_user_context(False)


def differentiable() -> contextlib.AbstractContextManager[None]:
    """Within this context, networks have derivatives of every order and mode.

    Without it they have first derivatives in reverse mode alone (`jax.grad`), by rules of our own
    that are fast: batch normalisation on every device, and on a CPU convolution and pooling. With
    it XLA's operations are differentiated as they are, for `jax.jvp`, `jax.hessian` and
    Hessian-vector products. Values and gradients are the same up to rounding. What is compiled
    inside must be called inside.

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
    """Whether what is traced now may have rules of our own for its gradients."""
    return not _all_orders.value
