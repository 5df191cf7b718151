"""The same recipes trained with the authors' PyTorch networks, for the comparison with PyTorch.

Initial values, data order and dropout masks are PyTorch's own, so its runs share no randomness with
ours. An interrupted run starts from scratch.
"""

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from importlib import metadata
from typing import Any, NamedTuple

import jax
import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn, optim
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR

from experiments.references.torch_networks import (
    REFERENCES,
    THEANO_NETWORKS,
    VARIANTS,
    KerasAdam,
    Original,
    one_hot_mse,
)
from mnist_jax.data import Dataset, Split, hold_out
from mnist_jax.errors import Failure, UsageError
from mnist_jax.inputs import evaluation_inputs
from mnist_jax.recipe import Recipe
from mnist_jax.runs.metrics import Evaluation
from mnist_jax.training import devices
from mnist_jax.training.optimizers import learning_rate
from mnist_jax.training.schedule import Schedule

_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": F.cross_entropy,
    "mean_squared_error": one_hot_mse,
}
# Recipe fields supported only at their defaults, and those that `train` also lacks.
_LACKING = ("average_decay", "patience")
_LACKING_IN_TRAINING = ("augmentation", "one_pixel_shifts", "held_out", "last_batch")
# Batch size in evaluation mode, where it does not affect results.
_EVALUATION_BATCH = 1000


class Run(NamedTuple):
    """A finished run.

    Attributes:
      metrics: one for every evaluation.
      selected_step: step of the selected evaluation.
      predictions: [N], that evaluation's label of every test image.
      seconds: its duration.
    """

    metrics: list[Evaluation]
    selected_step: int
    predictions: np.ndarray
    seconds: float


def environment() -> dict[str, Any]:
    """The PyTorch-specific environment that a run's results depend on."""
    packages = {name: metadata.version(name) for name in ("torch", "numpy")}
    device = {
        **{"platform": "cpu", "kind": "cpu", "processor": devices.processor()},
        "mesh": {"threads": torch.get_num_threads()},
    }
    return {"packages": packages, "device": device, "seeds_together": 1}


def reference(recipe: Recipe, steps_per_epoch: int) -> Original:
    """The author's network under a recipe, which may differ from the author's.

    Raises:
      UsageError: the recipe needs a feature that the PyTorch side lacks; or, when the network is
        made, no such network exists.
    """
    _refuse(recipe, _LACKING)
    return Original(
        model=recipe.model,
        network=partial(_network, recipe),
        optimizer=partial(_optimizer, recipe, steps_per_epoch),
        batch_size=recipe.batch_size,
        loss=_LOSSES[recipe.loss],
    )


def check(recipe: Recipe) -> None:
    """Makes sure that `train` supports a recipe.

    Raises:
      UsageError: it needs a feature that the PyTorch side lacks.
    """
    _refuse(recipe, (*_LACKING, *_LACKING_IN_TRAINING))
    _network(recipe)


def _refuse(recipe: Recipe, names: Sequence[str]) -> None:
    defaults = {one.name: one.default for one in dataclasses.fields(recipe)}
    if lacking := [name for name in names if getattr(recipe, name) != defaults[name]]:
        raise UsageError(f"The PyTorch side has no {lacking[0]}; choose a row without it.")


def tensors(recipe: Recipe, split: Split) -> tuple[Tensor, Tensor]:
    """Images [N, 1, 28, 28] and labels [N] for evaluation of the network.

    With augmentation, our preprocessing crops and standardises them; otherwise they are normalised
    here.
    """
    labels = torch.from_numpy(split.labels.astype(np.int64))
    if recipe.augmentation:
        inputs = np.array(jax.jit(partial(evaluation_inputs, recipe))(split.images))
        return torch.from_numpy(inputs.transpose(0, 3, 1, 2)), labels
    images = torch.from_numpy(split.images.astype(np.float32))[:, None]
    return images.div_(255).sub_(recipe.mean).div_(recipe.std), labels


def train(out: Console, recipe: Recipe, dataset: Dataset) -> Run:
    """Trains the reference network of a recipe with its seed, on the CPU; prints every epoch.

    Raises:
      UsageError: as from `check`.
      Failure: the loss is no longer finite.
    """
    check(recipe)
    torch.manual_seed(recipe.seed)
    split, validation = dataset.train, None
    if recipe.validation:
        split, validation = hold_out(split, recipe.validation)
    images, labels = tensors(recipe, split)
    schedule = Schedule.of(recipe, len(labels))
    author = reference(recipe, schedule.steps_per_epoch)
    network = author.network()
    optimizer = author.optimizer(network.parameters())
    rows: list[Evaluation] = []
    best: tuple[float, Evaluation, np.ndarray] | None = None
    started = since = time.perf_counter()
    # Accumulated as tensors, so that steps do not synchronise: loss, correct images, images.
    totals = torch.zeros(3, dtype=torch.float64)
    of_epoch = np.zeros(3)  # Loss, images, seconds.
    for step, index in enumerate(_batches(recipe, len(labels)), start=1):
        network.train()
        loss, outputs = author.update(network, optimizer, images[index], labels[index])
        right = (outputs.argmax(1) == labels[index]).sum()
        size = len(index)
        totals += torch.stack([loss * size, right, torch.tensor(size)])
        if step != schedule.last_evaluation(step):
            continue
        busy, (sum_of_losses, count_right, count) = time.perf_counter() - since, totals.tolist()
        test_loss, predictions = evaluate(recipe, network, dataset.test)
        if not np.isfinite([sum_of_losses, test_loss]).all():
            raise Failure(f"Training diverged before step {step}: the loss is not a finite number.")
        validation_accuracy = None
        if validation is not None:
            _, of_validation = evaluate(recipe, network, validation)
            validation_accuracy = float((of_validation == validation.labels).mean())
        row = Evaluation(
            epoch=step / schedule.steps_per_epoch,
            step=step,
            train_loss=sum_of_losses / count,
            train_accuracy=count_right / count,
            test_loss=test_loss,
            test_accuracy=float((predictions == dataset.test.labels).mean()),
            validation_accuracy=validation_accuracy,
            images_per_second=count / busy,
            seconds=time.perf_counter() - started,
        )
        selecting = recipe.selection == "best_validation"
        merit = (validation_accuracy or 0.0) if selecting else 0.0
        if best is None or merit >= best[0]:
            best = merit, row, predictions
        rows.append(row)
        of_epoch += sum_of_losses, count, busy
        if row.epoch.is_integer():
            out.print(
                f"epoch {row.epoch:.0f}/{recipe.epochs}  train loss"
                f" {of_epoch[0] / of_epoch[1]:.4f}  test accuracy {row.test_accuracy:.2%}"
                f"  {of_epoch[1] / of_epoch[2]:,.0f} images/s"
            )
            of_epoch = np.zeros(3)
        totals, since = torch.zeros(3, dtype=torch.float64), time.perf_counter()
    assert best is not None  # The last step is always evaluated.
    return Run(rows, best[1].step, best[2], time.perf_counter() - started)


def _network(recipe: Recipe) -> nn.Module:
    arguments = dict(recipe.model_args)
    nielsen = arguments.get("init") == "nielsen"
    if nielsen:
        del arguments["init"]
    for reference in [*REFERENCES.values(), *VARIANTS.values()]:
        if (reference.model, dict(reference.model_args)) == (recipe.model, arguments):
            network = reference.network()
            break
    else:
        if recipe.model not in THEANO_NETWORKS or arguments:
            raise UsageError(f"There is no PyTorch reference of {recipe.model} with {arguments}.")
        network = THEANO_NETWORKS[recipe.model]()
    if nielsen:
        _initialize_like_nielsen(network)
    return network


@torch.no_grad()
def _initialize_like_nielsen(network: nn.Module) -> None:
    """Article A: N(0, 1/n_out) weights, N(0, 1) biases, zeros in the last layer."""
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    for layer in layers:
        # The area of a convolution's kernel over that of the pooling window that follows.
        scale = layer.weight[0, 0].numel() / 4 if isinstance(layer, nn.Conv2d) else 1
        nn.init.normal_(layer.weight, std=(len(layer.weight) * scale) ** -0.5)
        assert layer.bias is not None
        nn.init.normal_(layer.bias)
    for parameter in layers[-1].parameters():
        nn.init.zeros_(parameter)


def _optimizer(
    recipe: Recipe, steps_per_epoch: int, every: Iterable[nn.Parameter]
) -> optim.Optimizer:
    parameters = list(every)
    groups: list[dict[str, Any]] = [{"params": parameters, "weight_decay": recipe.weight_decay}]
    if recipe.weight_decay_sense == "nielsen":
        weights = [p for p in parameters if p.ndim > 1]
        biases = [p for p in parameters if p.ndim == 1]
        decay = recipe.weight_decay / steps_per_epoch
        groups = [{"params": weights, "weight_decay": decay}, {"params": biases}]
    if recipe.optimizer == "sgd":
        sgd = optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum)
        return _scheduled(recipe, steps_per_epoch, sgd)
    kinds = {"adam": optim.Adam, "adamw": optim.AdamW, "keras": KerasAdam}
    kind = kinds["keras" if recipe.eps_sense == "keras" else recipe.optimizer]
    betas = (recipe.b1, recipe.b2)
    adam = kind(groups, lr=recipe.learning_rate, betas=betas, eps=recipe.eps)
    return _scheduled(recipe, steps_per_epoch, adam)


def _scheduled(recipe: Recipe, steps_per_epoch: int, optimizer: optim.Optimizer) -> optim.Optimizer:
    """The optimiser with our learning-rate schedule attached."""
    schedule = learning_rate(recipe, steps_per_epoch)
    if callable(schedule):
        scheduler = LambdaLR(optimizer, lambda step: float(schedule(step)) / recipe.learning_rate)
        optimizer.register_step_post_hook(lambda *_: scheduler.step())
    return optimizer


def _batches(recipe: Recipe, count: int) -> Iterator[Tensor]:
    """The indices of every batch of all epochs."""
    order = torch.arange(count)
    for epoch in range(recipe.epochs):
        if recipe.shuffle == "every_epoch" or (recipe.shuffle == "once" and epoch == 0):
            order = torch.randperm(count)
        yield from order.split(recipe.batch_size)


@torch.no_grad()
def evaluate(recipe: Recipe, network: nn.Module, split: Split) -> tuple[float, np.ndarray]:
    """Mean loss and predicted labels [N]; in evaluation mode if the recipe says so."""
    size = _EVALUATION_BATCH
    if recipe.evaluation == "training_mode":
        size = recipe.batch_size
    else:
        network.eval()
    images, labels = tensors(recipe, split)
    outputs = torch.cat([network(part) for part in images.split(size)])
    return _LOSSES[recipe.loss](outputs, labels).item(), outputs.argmax(1).numpy()
