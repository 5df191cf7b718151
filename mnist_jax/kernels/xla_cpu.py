"""What XLA's CPU backend has to be told about loops, so that it computes them fast."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from mnist_jax.kernels.differentiation import fast_gradients

Arrays = TypeVar("Arrays", jax.Array, tuple[jax.Array, jax.Array])


def materialize(x: Arrays) -> Arrays:
    """The same values, computed before anything that reads them.

    XLA fuses a copy into the reshape after it and then emits an integer division per element;
    a barrier keeps the copy a plain loop.
    """
    return lax.optimization_barrier(x)  # type: ignore[no-any-return]


def lower_for_cpu() -> bool:
    """Whether what is traced now is for a CPU, and needs first derivatives at most."""
    return jax.default_backend() == "cpu" and fast_gradients()


def channel_sums(x: jax.Array) -> jax.Array:
    """Adds up all but the first axis: [C, H, ...] to [C]."""
    # In two steps, because XLA adds up the last axis one number at a time, and others a vector
    # at a time.
    return materialize(x.reshape(*x.shape[:2], -1).sum(1)).sum(1)


def unfused(function: Callable[..., jax.Array], *args: jax.Array) -> jax.Array:
    """Computes function(*args) in a loop over its own indices, whatever reads the result.

    Fused into a reader of another shape, a loop divides indices for every element.
    """

    def never(*args: jax.Array) -> jax.Array:
        result = jax.eval_shape(function, *args)
        return jnp.zeros(result.shape, result.dtype)

    # XLA fuses nothing across a branch, and does not see through the barrier which one is taken.
    result: jax.Array = lax.cond(materialize(jnp.array(True)), function, never, *args)
    return result
