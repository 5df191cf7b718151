"""Horizontal flips."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from mnist_jax.transforms.transform import Transform


@dataclass(frozen=True, kw_only=True)
class HorizontalFlip(Transform):
    """Flips an image from left to right with probability 1/2: for garments, not digits."""

    name: str = field(default="horizontal_flip", init=False, repr=False)

    def draw(self, key: jax.Array) -> jax.Array:
        """Draws whether to flip."""
        return jax.random.bernoulli(key)

    def apply(self, image: jax.Array, drawn: jax.Array) -> jax.Array:
        """Flips an image, or returns it unchanged."""
        return jnp.where(drawn, image[:, ::-1], image)
