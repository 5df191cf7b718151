"""Conversion of a dataset's pixels to network inputs."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from mnist_jax.recipe import Recipe
from mnist_jax.transforms import Transform

# Folded into an image's key for its augmentation. A network folds in the indices of its layers.
_AUGMENTATION = 2**32 - 1


def training_inputs(recipe: Recipe, images: jax.Array, keys: jax.Array) -> jax.Array:
    """Augments and normalises images for training.

    Args:
      recipe: gives the augmentation and normalisation.
      images: uint8 [N, H, W].
      keys: [N], one random key per image, which determines its augmentation.

    Returns:
      float32 [N, H, W, 1].
    """

    def change(number: int, transform: Transform, images: jax.Array) -> jax.Array:
        def one(image: jax.Array, key: jax.Array) -> jax.Array:
            own = jax.random.fold_in(jax.random.fold_in(key, _AUGMENTATION), number)
            return transform.apply(image, transform.draw(own))

        return jax.vmap(one)(images, keys)

    return _inputs(recipe, images, change)


def evaluation_inputs(recipe: Recipe, images: jax.Array) -> jax.Array:
    """Prepares images for evaluation: uint8 [..., H, W] to float32 [..., H, W, 1]."""

    def change(_: int, transform: Transform, images: jax.Array) -> jax.Array:
        single = images.reshape(-1, *images.shape[-2:])
        return jax.vmap(transform.evaluation)(single).reshape(images.shape)

    return _inputs(recipe, images, change)


def evaluation_formula(recipe: Recipe) -> str:
    """`evaluation_inputs` as a readable formula: `(crop_resize(pixel / 255) - 0.1) / 0.3`."""
    pixels = "pixel / 255"
    for transform in recipe.augmentation:
        if not transform.in_training_only:
            pixels = f"{transform.name}({pixels})"
    return f"({pixels} - {recipe.mean}) / {recipe.std}"


def _inputs(
    recipe: Recipe,
    images: jax.Array,
    change: Callable[[int, Transform, jax.Array], jax.Array],
) -> jax.Array:
    if not recipe.augmentation:
        return normalize(images, recipe.mean, recipe.std)
    pixels = normalize(images, 0, 1)[..., 0]
    for number, transform in enumerate(recipe.augmentation):
        pixels = change(number, transform, pixels)
    return (pixels[..., None] - recipe.mean) / recipe.std


def normalize(images: jax.Array, mean: float, std: float) -> jax.Array:
    """Turns uint8 images [..., H, W] into float32 [..., H, W, 1]: (pixel / 255 - mean) / std.

    Example:
      >>> normalize(jnp.array([[0, 255]], jnp.uint8), mean=0.5, std=0.5)[..., 0].tolist()
      [[-1.0, 1.0]]
    """
    return (images[..., None].astype(jnp.float32) / 255 - mean) / std
