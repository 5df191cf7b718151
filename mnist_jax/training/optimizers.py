"""From a recipe to an Optax transformation, with each article's sense of weight decay."""

import jax
import optax

from mnist_jax.recipe import Recipe


def make_optimizer(recipe: Recipe, steps_per_epoch: int) -> optax.GradientTransformation:
    """Makes the recipe's optimiser.

    PyTorch's SGD and Adam add `weight_decay · parameter` to the gradient of every parameter, so
    that with Adam it passes through the moments. Nielsen's cost adds λ/(2·batches)·Σw² for
    weights only (article A, `network3.py`), with the batches that an epoch has. AdamW's decay is
    decoupled from the gradient.
    """
    if recipe.optimizer == "adamw":
        return optax.adamw(recipe.learning_rate, weight_decay=recipe.weight_decay)
    if recipe.optimizer == "adam":
        optimizer = optax.adam(recipe.learning_rate)
    else:
        optimizer = optax.sgd(recipe.learning_rate, momentum=recipe.momentum or None)
    if not recipe.weight_decay:
        return optimizer
    if recipe.weight_decay_sense == "nielsen":
        decay = optax.add_decayed_weights(recipe.weight_decay / steps_per_epoch, mask=_weights)
    else:
        decay = optax.add_decayed_weights(recipe.weight_decay)
    return optax.chain(decay, optimizer)


def _weights(params: optax.Params) -> optax.Params:
    """Marks the kernels, which are the parameters of more than one dimension."""
    return jax.tree.map(lambda p: p.ndim > 1, params)
