"""From a dataset's pixels to what networks see."""

import jax
import jax.numpy as jnp


def normalize(images: jax.Array, mean: float, std: float) -> jax.Array:
    """Turns uint8 images [..., H, W] into float32 [..., H, W, 1]: (pixel / 255 - mean) / std."""
    return (images[..., None].astype(jnp.float32) / 255 - mean) / std
