"""Replays a run of ours with the author's network in PyTorch, step by step, in float32.

It starts from our initial values and takes our batches, shifted, warped and rotated as ours are,
with our dropout masks and learning-rate schedule. Everything else is PyTorch's and the author's:
normalisation, layers, gradients, optimiser, evaluation. Any difference thus lies in what the two
compute from the same values. How much of it is rounding, which training amplifies, is measured by
perturbed runs of ours: they start with every parameter moved by one unit in the last place, up or
down at random, and are otherwise identical.
"""

from collections.abc import Callable, Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from rich.console import Console
from torch import Tensor, nn, optim

from experiments.references import torch_runs
from experiments.references.compare_torch import (
    absolute,
    fix_masks,
    largest,
    to_labels,
    to_torch,
    values_of,
)
from experiments.references.ours import dropout_masks
from experiments.references.replays import Distance, Replay, Side
from experiments.references.torch_networks import Original
from mnist_jax.data import Dataset, Split
from mnist_jax.errors import Failure, UsageError
from mnist_jax.inputs import training_inputs
from mnist_jax.interchange import pytorch
from mnist_jax.models import abstract_model, model_entry
from mnist_jax.recipe import Recipe
from mnist_jax.training import evaluation, shifts
from mnist_jax.training.step import TrainState, step_keys
from mnist_jax.training.trainer import Trainer

# One is a single draw: their distances from ours vary by a factor of two or more.
_PERTURBED = 4


def replay(
    out: Console, recipe: Recipe, dataset: Dataset, epochs: int, author: Original | None = None
) -> Replay:
    """Trains both with the recipe's seed, ours on one device; prints every epoch.

    Args:
      out: where to print.
      recipe: what to train.
      dataset: the source of its images.
      epochs: how many of the recipe's epochs to run.
      author: the replaying network; by default the author's under the recipe.

    Raises:
      UsageError: there is no such network, or the recipe evaluates in training mode.
      Failure: a loss is no longer a finite number.
    """
    if recipe.evaluation == "training_mode":
        raise UsageError(
            "Evaluation in training mode updates running statistics, with dropout masks of its own;"
            " choose a row with exact evaluation."
        )
    # All but the first are to be perturbed.
    trainer = Trainer(recipe, dataset, seeds=[recipe.seed] * (1 + _PERTURBED), num_devices=1)
    schedule = trainer.schedule
    author = author or torch_runs.reference(recipe, schedule.steps_per_epoch)
    replayer = _Replayer(author, trainer)
    perturb_others(trainer)
    ours, theirs = Side([], [], [], []), Side([], [], [], [])
    distance, *perturbed = (Distance([], []) for _ in range(1 + _PERTURBED))
    logs: list[np.ndarray] = []
    for epoch in range(1, epochs + 1):
        start, end = trainer.step, trainer.step + schedule.steps_per_epoch
        parts = []
        while trainer.step < end:
            parts.append(trainer.advance(end - trainer.step)[0])
        log = np.stack([np.concatenate(parts), replayer.epoch()])
        logits = trainer.logits(dataset.test.images)
        (loss, *_), (accuracy, *_) = evaluation.score(recipe, logits, dataset.test.labels)
        labels, *perturbed_labels = logits.argmax(-1)
        their_loss, their_labels = torch_runs.evaluate(recipe, replayer.network, dataset.test)
        their_accuracy = float(np.mean(their_labels == dataset.test.labels))
        if not np.isfinite([log[..., 0].sum(), loss, their_loss]).all():
            raise Failure(f"Training diverged in epoch {epoch}: a loss is not a finite number.")
        sizes = schedule.images(start, end)
        means = np.average(log.astype(np.float64), axis=1, weights=sizes)
        for side, mean, test in (
            (ours, means[0], (loss, accuracy)),
            (theirs, means[1], (their_loss, their_accuracy)),
        ):
            for column, value in zip(side, (*mean, *test), strict=True):
                column.append(float(value))
        values, *others = (
            replayer.tensors(trainer.state(i), end) for i in range(len(trainer.seeds))
        )
        for one, other_labels, other_values in zip(
            [distance, *perturbed],
            [their_labels, *perturbed_labels],
            [values_of(replayer.network), *others],
            strict=True,
        ):
            one.predictions.append(int(np.sum(labels != other_labels)))
            one.values.append(largest(absolute, values, other_values))
        log[..., 1] = np.rint(log[..., 1] * sizes)
        logs.append(log)
        out.print(
            f"epoch {epoch}/{recipe.epochs}  test accuracy: ours {accuracy:.2%},"
            f" PyTorch {their_accuracy:.2%}  different predictions:"
            f" {distance.predictions[-1]}, perturbed runs"
            f" {', '.join(str(one.predictions[-1]) for one in perturbed)}"
        )
    first_step, losses = divergence(np.concatenate(logs, axis=1))
    return Replay(ours, theirs, distance, perturbed, first_step, losses, trainer.step)


def perturb_others(trainer: Trainer) -> None:
    """Moves the parameters of all seeds but the first by one unit in the last place."""

    def perturb(values: jax.Array, signs: jax.Array) -> jax.Array:
        return jnp.nextafter(values, signs * jnp.inf).at[0].set(values[0])

    params, key = trainer.states.params, jax.random.key(trainer.recipe.seed)
    signs = optax.tree.random_like(key, params, jax.random.rademacher)
    trainer.states = trainer.states.replace(params=jax.tree.map(perturb, params, signs))


def divergence(log: np.ndarray) -> tuple[int | None, float]:
    """`first_step` and `losses` from each side's losses and correct counts, [2, steps, 2]."""
    (other,) = np.nonzero(log[0, :, 1] != log[1, :, 1])
    first = int(other[0]) if other.size else None
    apart = np.abs(log[0, :first, 0] - log[1, :first, 0])
    return None if first is None else first + 1, float(apart.max(initial=0.0))


class _Replayer:
    """The author's network and optimiser, starting from a trainer's initial state.

    Attributes:
      network: the author's network.
    """

    network: nn.Module

    def __init__(self, author: Original, trainer: Trainer):
        self._author, self._trainer, self._epoch = author, trainer, 0
        self._state = trainer.state(0)
        recipe = trainer.recipe
        ours = abstract_model(recipe.model, **recipe.model_args)
        self._layers = pytorch.torch_layers(ours, model_entry(recipe.model).torch_names)
        self.network = author.network()
        values = self.tensors(self._state, 0)
        self.network.load_state_dict({name: torch.tensor(v) for name, v in values.items()})
        self._optimizer: optim.Optimizer = author.optimizer(self.network.parameters())
        self._inputs = _inputs(trainer)
        drops = bool(_masks(self._state, 1))
        self._dropout = fix_masks(self.network) if drops else []

    def epoch(self) -> np.ndarray:
        """Trains for one epoch; returns every step's loss and batch accuracy."""
        trainer, recipe = self._trainer, self._trainer.recipe
        order = trainer.order(recipe.seed, self._epoch)
        first = self._epoch * trainer.schedule.steps_per_epoch
        self.network.train()
        log = []
        for step, index in enumerate(_batches(order, recipe.batch_size), start=first):
            state = self._state.replace(step=jnp.int32(step))
            if self._dropout:
                for layer, mask in zip(self._dropout, _masks(state, len(index)), strict=True):
                    layer.drop(mask)
            images, targets = self._inputs(state, index)
            loss, outputs = self._author.update(self.network, self._optimizer, images, targets)
            log.append((loss.item(), _accuracy(outputs, targets)))
        self._epoch += 1
        return np.array(log)

    def tensors(self, state: TrainState, steps: int) -> dict[str, np.ndarray]:
        """The arrays of our state after `steps` steps, under the network's names."""
        arrays = pytorch.by_layer(state.params, state.batch_stats)
        return pytorch.to_torch(arrays, self._layers, batches=steps)


def _inputs(trainer: Trainer) -> Callable[[TrainState, np.ndarray], tuple[Tensor, Tensor]]:
    """A function from a state and its next batch's indices to the network's inputs and targets."""
    recipe, pixels = trainer.recipe, jnp.asarray(trainer.train.images)
    take = jax.jit(lambda images, index: images[index])
    if recipe.one_pixel_shifts:
        pixels, take = shifts.pad_for_shifts(pixels), jax.jit(shifts.take_shifted)

    @jax.jit
    def augmented(state: TrainState, images: jax.Array) -> jax.Array:
        return training_inputs(recipe, images, step_keys(state, len(images), None))

    def inputs(state: TrainState, index: np.ndarray) -> tuple[Tensor, Tensor]:
        images, labels = take(pixels, index), trainer.train.labels[index % len(trainer.train)]
        if recipe.augmentation:
            return to_torch(np.asarray(augmented(state, images))), to_labels(labels)
        return torch_runs.tensors(recipe, Split(np.asarray(images), labels))

    return inputs


def _batches(order: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (order[start : start + size] for start in range(0, len(order), size))


@partial(jax.jit, static_argnames="size")
def _masks(state: TrainState, size: int) -> list[jax.Array]:
    """The dropout masks of a state's next step, on a batch of `size` images."""
    return dropout_masks(state, jnp.zeros((size, 28, 28, 1)), step_keys(state, size, None))


def _accuracy(outputs: Tensor, labels: Tensor) -> float:
    return (outputs.argmax(1) == labels).double().mean().item()
