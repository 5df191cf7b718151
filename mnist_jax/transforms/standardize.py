"""Per-image standardisation."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from mnist_jax.transforms.transform import Transform


@dataclass(frozen=True, kw_only=True)
class Standardize(Transform):
    """Subtracts an image's own mean and divides by its own population standard deviation.

    Applied in training and in evaluation, as in ttdoucet/mnist. Nothing is added to the deviation;
    a constant image, whose deviation is 0, becomes zeros.
    """

    name: str = field(default="standardize", init=False, repr=False)

    def apply(self, image: jax.Array, drawn: Any) -> jax.Array:
        """Standardises."""
        del drawn
        return self.evaluation(image)

    def evaluation(self, image: jax.Array) -> jax.Array:
        """Standardises."""
        varied = image.max() > image.min()
        centred = jnp.where(varied, image - image.mean(), 0)
        return centred / jnp.where(varied, jnp.sqrt(jnp.mean(centred**2)), 1)
