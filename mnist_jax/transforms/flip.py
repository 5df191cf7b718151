"""Mirror images."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from mnist_jax.transforms.transform import Transform


@dataclass(frozen=True, kw_only=True)
class HorizontalFlip(Transform):
    """Left and right change places in every other image, by chance: for garments, not digits."""

    name: str = field(default="horizontal_flip", init=False, repr=False)

    def draw(self, key: jax.Array) -> jax.Array:
        """Whether it is flipped."""
        return jax.random.bernoulli(key)

    def apply(self, image: jax.Array, drawn: jax.Array) -> jax.Array:
        """Flips an image or leaves it."""
        return jnp.where(drawn, image[:, ::-1], image)
