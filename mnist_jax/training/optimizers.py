"""Optimisers of recipes as Optax transformations, with each article's kind of weight decay."""

import jax
import jax.numpy as jnp
import optax

from mnist_jax.recipe import Recipe
from mnist_jax.schedules import steps_of


def make_optimizer(recipe: Recipe, steps_per_epoch: int) -> optax.GradientTransformation:
    """Makes the recipe's optimiser.

    PyTorch's SGD and Adam add `weight_decay · parameter` to the gradient of every parameter, so
    that with Adam it passes through the moments. Nielsen's cost adds λ/(2·batches)·Σw² for
    weights only (article A, `network3.py`), where batches are those of an epoch. AdamW's decay is
    decoupled from the gradient.
    """
    rate = learning_rate(recipe, steps_per_epoch)
    moments = {"b1": recipe.b1, "b2": recipe.b2, "eps": recipe.eps}
    if recipe.optimizer == "adamw":
        return optax.adamw(rate, **moments, weight_decay=recipe.weight_decay)
    if recipe.optimizer == "sgd":
        optimizer = optax.sgd(rate, momentum=recipe.momentum or None)
    elif recipe.eps_sense == "keras":
        optimizer = optax.chain(_scale_by_keras_adam(**moments), optax.scale_by_learning_rate(rate))
    else:
        optimizer = optax.adam(rate, **moments)
    if not recipe.weight_decay:
        return optimizer
    if recipe.weight_decay_sense == "nielsen":
        decay = optax.add_decayed_weights(recipe.weight_decay / steps_per_epoch, mask=_weights)
    else:
        decay = optax.add_decayed_weights(recipe.weight_decay)
    return optax.chain(decay, optimizer)


def learning_rate(recipe: Recipe, steps_per_epoch: int) -> float | optax.Schedule:
    """The recipe's learning rate: a number, or a function of the steps taken so far.

    Raises:
      UsageError: its schedule has more steps, or reaches larger rates, than can be computed with.
    """
    if not recipe.learning_rate_schedule:
        return recipe.learning_rate
    schedules, boundaries = list[optax.Schedule](), list[int]()
    multiple, epochs = 1.0, 0.0
    for segment in recipe.learning_rate_schedule:
        start = multiple if segment.start is None else segment.start
        first = steps_of(epochs, steps_per_epoch)
        epochs += segment.epochs
        last = max(steps_of(epochs, steps_per_epoch), first + 1)
        boundaries.append(last)
        schedules.append(segment.schedule(start, last - first, steps_per_epoch))
        multiple = segment.end_from(start, last - first, steps_per_epoch)
    schedules.append(optax.constant_schedule(multiple))
    joined = optax.join_schedules(schedules, boundaries)
    return lambda count: recipe.learning_rate * joined(count)


def _scale_by_keras_adam(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """Adam whose ε is added to the root of the second moment before bias correction.

    Keras' step is √(1-β2ᵗ)/(1-β1ᵗ) · m/(√v + ε): Optax's with ε/√(1-β2ᵗ).
    """

    def update(
        updates: optax.Updates, state: optax.ScaleByAdamState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        corrected = eps / jnp.sqrt(1 - b2 ** (state.count + 1))
        updates, state = optax.scale_by_adam(b1, b2, corrected).update(updates, state, params)
        return updates, state

    return optax.GradientTransformation(optax.scale_by_adam(b1, b2).init, update)


def _weights(params: optax.Params) -> optax.Params:
    """Marks the kernels: the parameters with more than one dimension."""
    return jax.tree.map(lambda p: p.ndim > 1, params)
