"""What every transform of images is."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import jax

from mnist_jax.named import Named


@dataclass(frozen=True, kw_only=True)
class Transform(Named, ABC):
    """What is done to images in training, and to those that are evaluated.

    Images are float32 [28, 28] from 0 to 1, and stay so but for `Standardize`, which comes last. A
    change in training follows from the image's key alone. A transform that works on 8-bit numbers,
    as some authors' programs do, rounds to them first.
    """

    @property
    def in_training_only(self) -> bool:
        """Whether images that are evaluated stay as they are."""
        return type(self).evaluation is Transform.evaluation

    def draw(self, key: jax.Array) -> Any:  # noqa: ARG002
        """What chance decides of one image's change: a tree of arrays, by default nothing."""
        return ()

    @abstractmethod
    def apply(self, image: jax.Array, drawn: Any) -> jax.Array:
        """Changes one training image as `draw` has decided."""

    def evaluation(self, image: jax.Array) -> jax.Array:
        """Changes one image that is evaluated, by default not at all."""
        return image
