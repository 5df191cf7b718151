"""The base class of image transforms."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import jax

from mnist_jax.named import Named


@dataclass(frozen=True, kw_only=True)
class Transform(Named, ABC):
    """A transform of images in training, and possibly in evaluation.

    Images are float32 [28, 28] from 0 to 1, and remain so except for `Standardize`, which comes
    last. In training, an image's random key alone determines its transform. A transform that works
    on 8-bit values, as some authors' programs do, rounds to them first.
    """

    @property
    def in_training_only(self) -> bool:
        """Whether the transform leaves images unchanged in evaluation."""
        return type(self).evaluation is Transform.evaluation

    def draw(self, key: jax.Array) -> Any:  # noqa: ARG002
        """Draws the random parameters for one image: a tree of arrays, empty by default."""
        return ()

    @abstractmethod
    def apply(self, image: jax.Array, drawn: Any) -> jax.Array:
        """Transforms one training image, with the parameters from `draw`."""

    def evaluation(self, image: jax.Array) -> jax.Array:
        """Transforms one image in evaluation; by default returns it unchanged."""
        return image
