"""Differences between this project's networks and training and the PyTorch articles'.

Both sides get the same weights, images and, with dropout, the same masks, in float64 unless stated
otherwise.
"""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from flax import nnx
from torch import nn

from experiments.references.distributions import pooled
from experiments.references.ours import (
    ARRAYS,
    bare_recipe,
    dataset_at_hand,
    dropout_masks,
    evaluation_keys,
    initial_states,
    make_network,
    normalize,
    predict,
    training_images,
    without_dropout,
)
from experiments.references.torch_networks import Original
from mnist_jax.data import Split
from mnist_jax.interchange import pytorch
from mnist_jax.models import model_entry
from mnist_jax.training.optimizers import make_optimizer
from mnist_jax.training.step import LOSSES, TrainState, step_keys, train_step, training_mode_logits
from mnist_jax.training.trainer import Trainer

Tensors = Mapping[str, np.ndarray]

# Batch sizes for comparing the training of wide networks: larger ones take long, and with smaller
# ones BatchNorm divides by the spread of a few values, which amplifies rounding.
WIDE = {"residual_cnn": 4, "strided_cnn": 32}


@dataclasses.dataclass(frozen=True)
class TorchDifferences:
    """The largest differences after training.

    Attributes:
      losses: of the loss of any step.
      values: of a parameter or a BatchNorm statistic at the end.
      moments: of the optimiser's moments, relative to the tensor's largest value; 0 without them.
    """

    losses: float
    values: float
    moments: float


class FixedMask(nn.Module):
    """Replaces dropout: the units it drops in training are set from outside.

    Args:
      rate: the dropout rate, by which it scales the units that are kept.
    """

    mask: torch.Tensor

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def drop(self, mask: jax.Array) -> None:
        """Sets the units to drop: those where a mask of ours is 0."""
        ours = torch.tensor(np.asarray(mask))
        self.mask = (ours != 0).to(ours.dtype) / (1 - self.rate)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any shape, that of the mask."""
        return x * self.mask if self.training else x


class Pair:
    """One network in both frameworks, with the same values.

    Args:
      reference: the PyTorch side, with the name of its counterpart.
      dtype: of both sides; float64 needs `jax.enable_x64(True)`.
    """

    def __init__(self, reference: Original, dtype: type = np.float64):
        self.reference = reference
        self.recipe = bare_recipe(reference.model)
        self.ours = make_network(reference.model, dtype, **reference.model_args)
        # A variant may lack some of the author's layers.
        torch_names = {
            prefix: name
            for prefix, name in model_entry(reference.model).torch_names.items()
            if name.split(".")[0] in self.ours.layer_names
        }
        self.prefixes = pytorch.torch_layers(self.ours, torch_names)
        self.theirs = reference.network().to(torch.tensor(np.zeros(0, dtype)).dtype)
        values = self.tensors(nnx.state(self.ours, ARRAYS))
        self.theirs.load_state_dict({name: torch.tensor(v) for name, v in values.items()})

    def tensors(self, *states: nnx.State, steps: int = 0) -> dict[str, np.ndarray]:
        """Copies our arrays (parameters, gradients, statistics) under PyTorch's names."""
        return pytorch.to_torch(pytorch.by_layer(*states), self.prefixes, batches=steps)

    def state(self, optimizer: optax.GradientTransformation) -> TrainState:
        """The initial training state of our network with the recipe's loss."""
        loss = LOSSES[self.recipe.loss]
        return TrainState.create(self.ours, optimizer, loss, key=jax.random.key(0))

    def without_dropout(self) -> "Pair":
        """Sets the rates of both sides' dropout to 0."""
        for layer in self.theirs.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = 0.0
        without_dropout(self.ours)
        return self


def logits(reference: Original, images: np.ndarray, dtype: type = np.float64) -> float:
    """Compares the outputs for images [N, 28, 28, 1] in evaluation mode, as `gradients` does."""
    with jax.enable_x64(dtype is np.float64):
        pair = Pair(reference, dtype)
        images = images.astype(dtype)
        ours = predict(pair.state(optax.identity()), images)
        with torch.no_grad():
            theirs = pair.theirs.eval()(to_torch(images))
        return _relative(np.asarray(ours), _numpy(theirs))


def gradients(
    reference: Original, images: np.ndarray, labels: np.ndarray, *, dropout: bool
) -> float:
    """Compares the gradients of the article's loss for one batch of normalised images.

    A difference is relative to the tensor's largest value.

    With `dropout`, both sides drop the same units.
    """
    with jax.enable_x64(True):
        pair = Pair(reference)
        # With this "optimiser" the state's only moment is the last gradient.
        gradient = optax.trace(0.0)
        if dropout:
            state = pair.state(gradient)
            masks = dropout_masks(state, images, step_keys(state, len(images), None))
            for layer, mask in zip(fix_masks(pair.theirs), masks, strict=True):
                layer.drop(mask)
        else:
            state = pair.without_dropout().state(gradient)
        state, _ = _step(state, images, labels)
        reference.loss(pair.theirs(to_torch(images)), to_labels(labels)).backward()
        ours = pair.tensors(state.opt_state.trace)
        return largest(_relative, ours, gradients_of(pair.theirs))


def training(reference: Original, steps: int = 50) -> TorchDifferences:
    """Compares two epochs of training by the article's protocol, without dropout.

    The last batch of each epoch holds half as many images as the others.
    """
    size = reference.batch_size
    ends = np.cumsum([size] * (steps // 2 - 1) + [size // 2])
    with jax.enable_x64(True):
        pair = Pair(reference).without_dropout()
        images, labels = training_images(pair.recipe, ends[-1])
        batches = list(zip(np.split(images, ends[:-1]), np.split(labels, ends[:-1]), strict=True))
        state = pair.state(make_optimizer(pair.recipe, len(batches)))
        optimizer = reference.optimizer(pair.theirs.parameters())
        losses = []
        for batch in batches * 2:
            state, metrics = _step(state, *batch)
            loss = reference.step(pair.theirs, optimizer, to_torch(batch[0]), to_labels(batch[1]))
            # Not read yet, so that JAX and PyTorch compute in parallel.
            losses.append((metrics.loss, loss))
        parameters = dict(pair.theirs.named_parameters(remove_duplicate=False))
        of_moments = [0.0]
        for ours_name, theirs_name in (("mu", "exp_avg"), ("nu", "exp_avg_sq")):
            for _, ours in optax.tree.get_all_with_path(state.opt_state, ours_name):
                theirs = {n: _numpy(optimizer.state[p][theirs_name]) for n, p in parameters.items()}
                of_moments.append(largest(_relative, pair.tensors(ours), theirs))
        return TorchDifferences(
            losses=max(abs(float(a) - float(b)) for a, b in losses),
            values=largest(
                absolute,
                pair.tensors(state.params, state.batch_stats, steps=len(losses)),
                values_of(pair.theirs),
            ),
            moments=max(of_moments),
        )


def evaluation(reference: Original) -> tuple[tuple[float, float], tuple[float, float]]:
    """Evaluates 1,000 test images in float32: loss and accuracy, ours and theirs."""
    pair = Pair(reference, np.float32)
    dataset = dataset_at_hand(pair.recipe)
    test = Split(dataset.test.images[:1000], dataset.test.labels[:1000])
    trainer = Trainer(pair.recipe, dataset, seeds=[0], num_devices=1)
    state = pair.state(optax.identity())
    values = jax.tree.map(lambda a: a[None], (state.params, state.batch_stats))
    trainer.states = trainer.states.replace(params=values[0], batch_stats=values[1])
    logits = trainer.logits(test.images)[0]
    loss = jnp.mean(LOSSES[pair.recipe.loss](jnp.asarray(logits), jnp.asarray(test.labels)))
    with torch.no_grad():
        images = normalize(pair.recipe, test.images).astype(np.float32)
        outputs = pair.theirs.eval()(to_torch(images))
        labels = to_labels(test.labels)
        theirs = reference.loss(outputs, labels), (outputs.argmax(1) == labels).double().mean()
    accuracy = np.mean(logits.argmax(-1) == test.labels)
    return (float(loss), float(accuracy)), (float(theirs[0]), float(theirs[1]))


def training_mode_evaluation(reference: Original) -> tuple[float, float]:
    """Compares evaluation of three batches without leaving training mode.

    Returns:
      The differences of the logits, relative to the largest, and of the updated statistics.
    """
    size, batches = reference.batch_size, 3
    with jax.enable_x64(True):
        pair = Pair(reference)
        state = pair.state(optax.identity())
        images, _ = training_images(pair.recipe, batches * size)
        parts = np.split(images, batches)
        after, ours = jax.jit(training_mode_logits)(state, np.stack(parts))
        layers, theirs = fix_masks(pair.theirs), []
        for number, part in enumerate(parts):
            masks = dropout_masks(state, part, evaluation_keys(state, number, size))
            for layer, mask in zip(layers, masks, strict=True):
                layer.drop(mask)
            with torch.no_grad():
                theirs.append(_numpy(pair.theirs(to_torch(part))))
        moved = pair.tensors(after.params, after.batch_stats, steps=batches)
        statistics = largest(absolute, moved, values_of(pair.theirs))
        return _relative(np.asarray(ours), np.stack(theirs)), statistics


def initial_values(
    reference: Original, seeds: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Our initial values and the author's over many seeds, by PyTorch's names."""
    pair = Pair(reference, np.float32)
    states = initial_states(reference.model, seeds, **reference.model_args)
    ours = (pair.tensors(state) for state in states)
    theirs = []
    for seed in range(seeds):
        torch.manual_seed(seed)
        theirs.append(values_of(reference.network()))
    return pooled(ours), pooled(theirs)


def values_of(network: nn.Module) -> dict[str, np.ndarray]:
    """The `state_dict` as arrays."""
    return {name: _numpy(value) for name, value in network.state_dict().items()}


def gradients_of(network: nn.Module) -> dict[str, np.ndarray]:
    """The last gradients by the names of the `state_dict`."""
    parameters = network.named_parameters(remove_duplicate=False)
    return {name: _numpy(p.grad) for name, p in parameters if p.grad is not None}


def fix_masks(module: nn.Module) -> list[FixedMask]:
    """Replaces every dropout inside a module, in place; returns the replacements in order."""
    masks = []
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Dropout):
            masks.append(FixedMask(child.p))
            setattr(module, name, masks[-1])
        else:
            masks += fix_masks(child)
    return masks


_step = jax.jit(train_step)


def to_torch(images: np.ndarray) -> torch.Tensor:
    """Images [N, 28, 28, 1] as PyTorch takes them, [N, 1, 28, 28]."""
    return torch.tensor(images.transpose(0, 3, 1, 2))


def to_labels(labels: np.ndarray) -> torch.Tensor:
    """Labels [N] as PyTorch's losses take them."""
    return torch.tensor(labels, dtype=torch.long)


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().numpy()


def largest(
    difference: Callable[[np.ndarray, np.ndarray], float], ours: Tensors, theirs: Tensors
) -> float:
    """The largest difference between tensors of the same name.

    Raises:
      ValueError: the names differ.
    """
    if ours.keys() != theirs.keys():
        raise ValueError(f"only one side has {sorted(ours.keys() ^ theirs.keys())}")
    return max(difference(ours[name], theirs[name]) for name in ours)


def absolute(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference of two arrays of one shape."""
    return float(np.abs(ours - theirs).max())


def _relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference relative to the tensor's largest value."""
    largest = np.abs(theirs).max()
    return float(np.abs(ours - theirs).max() / (largest if largest > 0 else 1))
