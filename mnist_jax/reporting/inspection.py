"""Filters and activations of a trained network, and augmented images."""

import dataclasses
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mnist_jax.inputs import evaluation_inputs, training_inputs
from mnist_jax.models.layers import Network
from mnist_jax.recipe import Recipe
from mnist_jax.reporting.images import LayerOutput
from mnist_jax.transforms import Standardize


def augmented(recipe: Recipe, images: np.ndarray) -> np.ndarray:
    """Applies a recipe's augmentation once to training images, without normalisation.

    Args:
      recipe: the recipe with the augmentation.
      images: uint8 [N, 28, 28].

    Returns:
      uint8 [N, 28, 28].
    """
    visible = tuple(one for one in recipe.augmentation if not isinstance(one, Standardize))
    recipe = dataclasses.replace(recipe, augmentation=visible, mean=0.0, std=1.0)
    keys = jax.random.split(jax.random.key(recipe.seed), len(images))
    changed = jax.jit(partial(training_inputs, recipe))(jnp.asarray(images), keys)
    return np.asarray(jnp.rint(255 * changed[..., 0]), np.uint8)


def kernels(network: Network, prefix: str = "") -> dict[str, np.ndarray]:
    """The weights [h, w, inputs, outputs] of every convolution, in order, by the layer's name.

    Args:
      network: a network, which may have networks among its layers.
      prefix: the prefix of the names, if the network itself is a layer.
    """
    found: dict[str, np.ndarray] = {}
    for name, layer in network.named_layers().items():
        path = prefix + name
        if isinstance(layer, Network):
            found |= kernels(layer, f"{path}.")
        elif isinstance(layer, nnx.Conv):
            found[path] = np.asarray(layer.kernel[...])
    return found


def activations(
    network: Network, recipe: Recipe, images: np.ndarray
) -> Sequence[list[LayerOutput]]:
    """The output of every layer for each of the images uint8 [N, 28, 28].

    Layers that do not change the values, such as flattening, are omitted.
    """
    before = evaluation_inputs(recipe, jnp.asarray(images))
    found: list[list[LayerOutput]] = [[] for _ in images]
    for name, output in network.layer_outputs(before):
        if output.size != before.size or not jnp.array_equal(output.ravel(), before.ravel()):
            limit = float(jnp.abs(output).max())
            for layers, one in zip(found, np.asarray(output), strict=True):
                layers.append(LayerOutput(name, one, limit))
        before = output
    return found
