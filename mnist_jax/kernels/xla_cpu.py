"""Operations that keep XLA's CPU backend from generating slow loops."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from mnist_jax.kernels.differentiation import fast_gradients

Arrays = TypeVar("Arrays", jax.Array, tuple[jax.Array, jax.Array])


def materialize(x: Arrays) -> Arrays:
    """Forces values to be computed before anything that reads them.

    XLA fuses a copy into the reshape after it and then emits an integer division per element; the
    barrier keeps the copy a plain loop.
    """
    return lax.optimization_barrier(x)  # type: ignore[no-any-return]


def lower_for_cpu() -> bool:
    """Whether the current trace is for a CPU, and needs first derivatives at most."""
    return jax.default_backend() == "cpu" and fast_gradients()


def channel_sums(x: jax.Array) -> jax.Array:
    """Sums over all axes but the first: [C, H, ...] to [C]."""
    # In two steps, because XLA sums the last axis one element at a time, but others vectorised. The
    # second is a product, because XLA 0.10.1 fuses two float32 sums into a program that leaves out
    # part of the elements (tests/test_canary.py).
    rows = materialize(x.reshape(*x.shape[:2], -1).sum(1))
    return rows @ jnp.ones(rows.shape[1], rows.dtype)


def unfused(function: Callable[..., jax.Array], *args: jax.Array) -> jax.Array:
    """Computes function(*args) in its own loop, not fused with what reads the result.

    Fused into a consumer of another shape, a loop divides indices for every element.
    """

    def never(*args: jax.Array) -> jax.Array:
        result = jax.eval_shape(function, *args)
        return jnp.zeros(result.shape, result.dtype)

    # XLA does not fuse across a branch, and the barrier hides from it which one is taken.
    result: jax.Array = lax.cond(materialize(jnp.array(True)), function, never, *args)
    return result
