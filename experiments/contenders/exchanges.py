"""The all-reduces between devices that share a batch, per training step."""

import jax
from flax import nnx

from mnist_jax.models import abstract_model
from mnist_jax.models.layers import BatchNorm, Network
from mnist_jax.recipe import Recipe
from mnist_jax.training.step import LARGE


def statistics(network: Network) -> list[int]:
    """The number of elements in each all-reduce of batch normalisation in a step.

    Mean and variance, and the gradients of both.
    """
    modules = (module for _, module in nnx.iter_modules(network))
    return 4 * [module.scale.size for module in modules if isinstance(module, BatchNorm)]


def exchanges(recipe: Recipe) -> tuple[int, int]:
    """The number of all-reduces in a step, and their total bytes."""
    network = abstract_model(recipe.model, **recipe.model_args)
    sizes = [leaf.size for leaf in jax.tree.leaves(nnx.state(network, nnx.Param))]
    others = statistics(network)
    count = 1 + sum(size >= LARGE for size in sizes) + len(others)
    return count, 4 * (sum(sizes) + sum(others))
