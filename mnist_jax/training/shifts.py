"""Gathering training images by index, with one-pixel shifts."""

import jax
import jax.numpy as jnp
from jax import lax

# Rows and columns that an image is shifted by: article A's identity, down, up, right, left.
SHIFTS = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))


def pad_for_shifts(images: jax.Array) -> jax.Array:
    """Pads images with the zeros that a shift moves in: [N, H, W] to [N, H + 2, W + 2]."""
    return jnp.pad(images, ((0, 0), (1, 1), (1, 1)))


def take_shifted(padded: jax.Array, index: jax.Array) -> jax.Array:
    """Gathers images [B, H, W] from the expanded dataset without storing its five copies.

    Args:
      padded: [N, H + 2, W + 2], from `pad_for_shifts`.
      index: [B], from 0 to 5·N - 1: index i is image i % N moved by SHIFTS[i // N].
    """
    count, height, width = padded.shape
    moves = 1 - jnp.asarray(SHIFTS, index.dtype)[index // count]
    starts = jnp.concatenate([(index % count)[:, None], moves], axis=1)
    size = (1, height - 2, width - 2)
    return jax.vmap(lambda start: lax.dynamic_slice(padded, start, size))(starts)[:, 0]
