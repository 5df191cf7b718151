"""Two things that XLA's CPU backend has to be told."""

import jax
from jax import lax

# XLA fuses a copy into the reshape after it and then emits an integer division per element;
# a barrier keeps the copy a plain loop.
materialize = lax.optimization_barrier


def channel_sums(x: jax.Array) -> jax.Array:
    """Adds up all but the first axis: [C, H, ...] to [C]."""
    # In two steps, because XLA adds up the last axis one number at a time, and others a vector
    # at a time.
    return materialize(x.reshape(*x.shape[:2], -1).sum(1)).sum(1)
