"""This project's side of the comparisons: networks and images in float64, arrays by layer."""

import dataclasses
import os
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mnist_jax.data import Dataset, load_dataset
from mnist_jax.models import abstract_model, create_model, model_entry
from mnist_jax.models.layers import Layer, Network
from mnist_jax.recipe import Recipe
from mnist_jax.training.step import TrainState

ARRAYS = (nnx.Param, nnx.BatchStat)


def bare_recipe(name: str) -> Recipe:
    """A network's recipe for comparisons, without augmentation and learning-rate schedule.

    It holds out no images either, since these play no part in a step.
    """
    return dataclasses.replace(
        model_entry(name).recipe,
        augmentation=(),
        learning_rate_schedule=(),
        validation=0,
        selection="last",
    )


def make_network(name: str, dtype: type = np.float64, **model_args: Any) -> Network:
    """Makes a network with fixed, unremarkable values that do not depend on JAX.

    No value is 0 or 1, not even in BatchNorm's scales and statistics, so that confusing two of them
    shows. For float64, call this inside `jax.enable_x64(True)`.
    """
    network = abstract_model(name, **model_args)
    # The legacy generator's stream is the same in every version of NumPy.
    rng = np.random.RandomState(0)

    def value(path: tuple[Any, ...], like: jax.ShapeDtypeStruct) -> np.ndarray:
        uniform = rng.uniform(-1, 1, like.shape)
        if path[1].key in ("scale", "var"):
            uniform = 1 + uniform / 2
        elif len(like.shape) > 1:
            uniform *= np.sqrt(6 / np.prod(like.shape[:-1]))
        else:
            uniform /= 10
        return uniform.astype(dtype)

    nnx.update(network, jax.tree_util.tree_map_with_path(value, nnx.state(network, ARRAYS)))
    return network


def without_dropout(network: Network) -> Network:
    """Sets the rates of all dropout to 0, in place."""
    for layer in network.named_layers().values():
        if isinstance(layer, nnx.Dropout):
            layer.rate = 0.0
    return network


@jax.jit
def predict(state: TrainState, images: np.ndarray) -> jax.Array:
    """Computes logits [N, 10] of normalised images [N, 28, 28, 1] in evaluation mode."""
    return state.model()(jnp.asarray(images))


def initial_states(name: str, seeds: int, **model_args: Any) -> Iterator[nnx.State]:
    """The initial parameters and statistics of a network, for many seeds."""

    @jax.jit
    def initial(key: jax.Array) -> nnx.State:
        return nnx.state(create_model(name, rngs=nnx.Rngs(key), **model_args), ARRAYS)

    return (initial(jax.random.key(seed)) for seed in range(seeds))


def dataset_at_hand(recipe: Recipe) -> Dataset:
    """The recipe's dataset, or scikit-learn's digits without `MNIST_JAX_DATA_DIR`."""
    return load_dataset(recipe.dataset if "MNIST_JAX_DATA_DIR" in os.environ else "digits")


def training_images(recipe: Recipe, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first training images, repeated if there are too few: float64 [count, 28, 28, 1].

    Returns:
      Normalised images and labels [count].
    """
    split = dataset_at_hand(recipe).train
    chosen = np.arange(count) % len(split)
    return normalize(recipe, split.images[chosen]), split.labels[chosen]


def normalize(recipe: Recipe, images: np.ndarray) -> np.ndarray:
    """uint8 [N, 28, 28] to float64 [N, 28, 28, 1]."""
    return (images[..., None] / 255 - recipe.mean) / recipe.std


def evaluation_keys(state: TrainState, number: int, size: int) -> jax.Array:
    """The keys of an evaluated batch's images, as `training_mode_logits` derives them."""
    key = jax.random.fold_in(jax.random.fold_in(state.key, ~state.step), number)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(size))


@jax.jit
def dropout_masks(state: TrainState, images: np.ndarray, keys: jax.Array) -> list[jax.Array]:
    """The masks by which the network in training mode multiplies the inputs of dropout layers.

    Returns:
      For each dropout layer, in the reference programs' axis order, [N, C, H, W], or [N, C·H·W]
      after flattening.
    """
    network = nnx.merge(state.graphdef, state.params, state.batch_stats)
    shapes = {"": images.shape}
    outputs = jax.eval_shape(lambda x: dict(state.model().layer_outputs(x)), images)
    shapes |= {name: outputs[name].shape for name in network.layer_names}
    masks = []
    for (name, dropout), before in zip(network.named_layers().items(), shapes, strict=False):
        if not isinstance(dropout, nnx.Dropout):
            continue
        # The same layer in the same position, with identity layers around it.
        layers: dict[str, Layer] = dict.fromkeys(network.layer_names, lambda x: x)
        alone = Network(**layers | {name: dropout})
        mask = alone(jnp.ones(shapes[before]), keys=keys)
        if mask.ndim == 4:
            mask = mask.transpose(0, 3, 1, 2)
        elif before == "flatten":
            image = list(shapes.values())[list(shapes).index("flatten") - 1]
            mask = mask.reshape(image).transpose(0, 3, 1, 2).reshape(mask.shape)
        masks.append(mask)
    return masks
