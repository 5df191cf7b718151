"""What every transform of images is."""

from dataclasses import dataclass
from typing import Any

import jax

from mnist_jax.named import Named


@dataclass(frozen=True, kw_only=True)
class Transform(Named):
    """What is done to images in training, and to those that are evaluated.

    Images are float32 [28, 28] from 0 to 1 and stay so, and a change in training follows from the
    image's key alone. A transform that works on 8-bit numbers, as some authors' programs do,
    rounds to them first. A subclass says how in `draw` and `apply`.
    """

    def draw(self, key: jax.Array) -> Any:
        """What chance decides of one image's change: a tree of arrays."""
        raise NotImplementedError

    def apply(self, image: jax.Array, drawn: Any) -> jax.Array:
        """Changes one image as `draw` has decided."""
        raise NotImplementedError

    def training(self, image: jax.Array, key: jax.Array) -> jax.Array:
        """Changes one training image."""
        return self.apply(image, self.draw(key))

    def evaluation(self, image: jax.Array) -> jax.Array:
        """Changes one image that is evaluated, by default not at all."""
        return image
