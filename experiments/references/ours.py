"""This project's side of a comparison: networks and images in float64, arrays by layer."""

import os
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mnist_jax.config import Recipe
from mnist_jax.data import load_dataset
from mnist_jax.layers import Layer, Network
from mnist_jax.models import create_model
from mnist_jax.training import TrainState

Layers = dict[str, dict[str, np.ndarray]]
ARRAYS = (nnx.Param, nnx.BatchStat)


def make_network(name: str, dtype: type = np.float64, **model_args: Any) -> Network:
    """Makes a network whose values are all of one dtype and none of them special.

    BatchNorm's scales, biases and statistics are moved away from 0 and 1, so that mixing two of
    them up would show. For float64, call this inside `jax.enable_x64(True)`.
    """
    network = create_model(name, rngs=nnx.Rngs(params=0), **model_args)
    rng = np.random.default_rng(0)

    def cast(path: tuple[Any, ...], value: jax.Array) -> np.ndarray:
        is_norm = isinstance(getattr(network, path[0].key), nnx.BatchNorm)
        moved = value + rng.uniform(0, 0.5, value.shape) if is_norm else value
        return np.asarray(moved, dtype)

    nnx.update(network, jax.tree_util.tree_map_with_path(cast, nnx.state(network, ARRAYS)))
    return network


@jax.jit
def predict(state: TrainState, images: np.ndarray) -> jax.Array:
    """Computes logits [N, 10] of normalised images [N, 28, 28, 1] in evaluation mode."""
    return state.model()(images)


def initial_states(name: str, seeds: int, **model_args: Any) -> Iterator[nnx.State]:
    """The parameters and statistics that a network starts from, for many seeds."""

    @jax.jit
    def initial(key: jax.Array) -> nnx.State:
        return nnx.state(create_model(name, rngs=nnx.Rngs(key), **model_args), ARRAYS)

    return (initial(jax.random.key(seed)) for seed in range(seeds))


def by_layer(*states: nnx.State) -> Layers:
    """The arrays of states (parameters, gradients, moments, statistics) by layer and name."""
    layers: Layers = {}
    for state in states:
        for layer, arrays in nnx.to_pure_dict(state).items():
            named = {name: np.asarray(value) for name, value in arrays.items()}
            layers.setdefault(layer, {}).update(named)
    return layers


def training_images(recipe: Recipe, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first images of the recipe's training set, normalised: float64 [count, 28, 28, 1].

    Without `MNIST_JAX_DATA_DIR` they are scikit-learn's digits, repeated as needed.

    Returns:
      Images and labels [count].
    """
    name = recipe.dataset if "MNIST_JAX_DATA_DIR" in os.environ else "digits"
    split = load_dataset(name).train
    chosen = np.arange(count) % len(split)
    pixels = split.images[chosen, :, :, None] / 255
    return (pixels - recipe.mean) / recipe.std, split.labels[chosen]


def dropout_masks(state: TrainState, images: np.ndarray) -> list[np.ndarray]:
    """What the next training step multiplies the input of each dropout layer by.

    Args:
      state: of a network with dropout.
      images: of the step, [N, 28, 28, 1].

    Returns:
      For each dropout layer, in the other programs' order of axes, [N, C, H, W], or [N, C·H·W]
      after flattening.
    """
    network = nnx.merge(state.graphdef, state.params, state.batch_stats)
    shapes = {"": images.shape}
    outputs = jax.eval_shape(lambda x: dict(state.model().layer_outputs(x)), images)
    shapes |= {name: outputs[name].shape for name in network.layer_names}
    # As in `train_step`.
    step_key = jax.random.fold_in(state.key, state.step)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(step_key, jnp.arange(len(images)))
    masks = []
    for name, before in zip(network.layer_names, shapes, strict=False):
        if not isinstance(dropout := getattr(network, name), nnx.Dropout):
            continue
        # The same layer in the same place, among layers that change nothing.
        layers: dict[str, Layer] = dict.fromkeys(network.layer_names, lambda x: x)
        alone = Network(**layers | {name: dropout})
        mask = np.asarray(alone(jnp.ones(shapes[before]), keys=keys))
        if mask.ndim == 4:
            mask = mask.transpose(0, 3, 1, 2)
        elif before == "flatten":
            image = list(shapes.values())[list(shapes).index("flatten") - 1]
            mask = mask.reshape(image).transpose(0, 3, 1, 2).reshape(mask.shape)
        masks.append(mask)
    return masks
