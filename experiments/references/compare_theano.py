"""Differences between this project's training by article A's protocol and `network3.py`."""

import dataclasses
from typing import Any

import jax
import numpy as np
from flax import nnx

from experiments.references import theano_numpy
from experiments.references.distributions import pooled
from experiments.references.ours import (
    dropout_masks,
    initial_states,
    make_network,
    predict,
    training_images,
)
from mnist_jax.interchange import pytorch
from mnist_jax.models import model_entry
from mnist_jax.models.layers import Network
from mnist_jax.training.optimizers import make_optimizer
from mnist_jax.training.step import TrainState, step_keys, train_step


@dataclasses.dataclass(frozen=True)
class Case:
    """A network of ours, its learning rate and λ, and units per dense layer (0 for `omit_FC`)."""

    model: str
    eta: float
    lmbda: float = 0.0
    units: int = 100

    @property
    def model_args(self) -> dict[str, Any]:
        """The arguments that make our network article A's."""
        args: dict[str, Any] = {"init": "nielsen"}
        if self.model == "double_fc_dropout":
            args["dropout"] = "classic"
        elif not self.units:
            args["fully_connected"] = False
        elif self.units != 100:
            args["hidden"] = self.units
        return args


CASES = [
    Case("shallow", 0.1),
    Case("basic_conv", 0.1),
    # At its own 0.1 the first losses reach 40, and rounding grows with them.
    Case("basic_conv", 0.01, units=0),
    Case("dbl_conv", 0.1),
    *(Case("dbl_conv_relu", 0.03, 0.1, units) for units in (100, 300, 1000)),
    *(Case("expanded_double_fc", 0.03, 0.1, units) for units in (100, 300, 1000)),
    Case("double_fc_dropout", 0.03, units=1000),
]
# For 50,000 images in batches of 10; λ is divided by it.
_BATCHES = 5000


@dataclasses.dataclass(frozen=True)
class TheanoDifferences:
    """The largest absolute differences: of the losses of any step, and at the end."""

    losses: float
    values: float
    logits: float


def training(case: Case, steps: int = 20, *, all_maxima: bool = False) -> TheanoDifferences:
    """Trains both from the same initial values on the first images, in file order.

    Args:
      case: what to train.
      steps: number of steps, of 10 images each.
      all_maxima: whether the reference treats equal maxima as Theano does; ours takes the first.
    """
    with jax.enable_x64(True):
        ours = make_network(case.model, **case.model_args)
        recipe = dataclasses.replace(
            model_entry(case.model).recipe,
            learning_rate=case.eta,
            weight_decay=case.lmbda,
            weight_decay_sense="nielsen",
        )
        state = TrainState.create(ours, make_optimizer(recipe, _BATCHES), key=jax.random.key(0))
        theirs = theano_numpy.create(case.model, np.random.default_rng(0), case.units)
        for layer, arrays in zip(theirs.layers, _arrays(ours, state.params), strict=True):
            layer.w, layer.b = arrays
            if isinstance(layer, theano_numpy.ConvPoolLayer):
                layer.all_maxima = all_maxima
        images, labels = training_images(recipe, 10 * steps)
        losses = []
        step = jax.jit(train_step)
        for batch in np.split(np.arange(len(images)), steps):
            drops = case.model == "double_fc_dropout"
            keys = step_keys(state, 10, None)
            masks = dropout_masks(state, images[batch], keys) if drops else []
            state, metrics = step(state, images[batch], labels[batch])
            cost = -theirs.penalty(case.lmbda, _BATCHES) + theirs.step(
                _channels_first(images[batch]),
                labels[batch],
                eta=case.eta,
                lmbda=case.lmbda,
                batches=_BATCHES,
                masks=[np.asarray(mask) for mask in masks],
            )
            losses.append(abs(float(metrics.loss) - float(cost)))
        values = [
            max(np.abs(layer.w - w).max(), np.abs(layer.b - b).max())
            for layer, (w, b) in zip(theirs.layers, _arrays(ours, state.params), strict=True)
        ]
        logits = np.asarray(predict(state, images[:10]))
        of_logits = np.abs(theirs.logits(_channels_first(images[:10])) - logits).max()
        return TheanoDifferences(max(losses), float(max(values)), float(of_logits))


def initial_values(case: Case, seeds: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Our initial values and network3's over many seeds, by layer and array."""
    network = make_network(case.model, np.float32, **case.model_args)

    def named(arrays: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, np.ndarray]:
        return {
            f"{i}.{n}": a for i, pair in enumerate(arrays) for n, a in zip("wb", pair, strict=True)
        }

    ours = (
        named(_arrays(network, state))
        for state in initial_states(case.model, seeds, **case.model_args)
    )
    rng = np.random.default_rng(0)
    theirs = (theano_numpy.create(case.model, rng, case.units).layers for _ in range(seeds))
    return pooled(ours), pooled(named([(layer.w, layer.b) for layer in n]) for n in theirs)


def _arrays(network: Network, params: nnx.State) -> list[tuple[np.ndarray, np.ndarray]]:
    """Our weights and biases in network3's layout: dense [in, out], flipped convolutions."""
    prefixes = pytorch.torch_layers(network, {})
    tensors = pytorch.to_torch(pytorch.by_layer(params), prefixes)
    weights = [tensors[f"{prefix}.weight"] for prefix in prefixes]
    return [
        (w[:, :, ::-1, ::-1] if w.ndim == 4 else w.T, tensors[f"{prefix}.bias"])
        for w, prefix in zip(weights, prefixes, strict=True)
    ]


def _channels_first(images: np.ndarray) -> np.ndarray:
    return images.transpose(0, 3, 1, 2)
