"""The recipe: everything that decides a training run's result, as one frozen value."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from mnist_jax.errors import Failure, UsageError

CHOICES = {
    "shuffle": ("every_epoch", "once", "never"),
    "loss": ("cross_entropy", "mean_squared_error"),
    "optimizer": ("sgd", "adam", "adamw"),
    "weight_decay_sense": ("torch", "nielsen"),
    "selection": ("last", "best_validation"),
    "evaluation": ("exact", "training_mode"),
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A network, its data, its protocol and its seed.

    Attributes:
      model: name in the registry of `mnist_jax.models`.
      model_args: arguments of the network's constructor.
      dataset: `mnist`, `fashion_mnist` or `digits`.
      validation: images held out from the end of the training set.
      mean: subtracted from pixels in [0, 1].
      std: divides them after that.
      one_pixel_shifts: train on every image and its four one-pixel shifts.
      shuffle: `every_epoch`, `once` before training, or `never` (the order of the files).
      batch_size: images per step; the last batch of an epoch is what remains.
      epochs: passes over the training set.
      loss: `cross_entropy` of the logits or `mean_squared_error` against one-hot labels.
      optimizer: `sgd`, `adam` or `adamw`.
      learning_rate: constant step size.
      momentum: of SGD.
      weight_decay: of `adamw`, decoupled; otherwise in the sense of `weight_decay_sense`.
      weight_decay_sense: `torch`: added times the parameter to the gradient of every parameter;
        `nielsen`: the λ of λ/(2·batches per epoch)·Σw² over weights without biases.
      selection: the epoch that counts: the `last`, or the one of `best_validation` accuracy
        (of equals the latest).
      evaluation: `exact`, or article E's `training_mode`: dropout on, batch statistics, which
        also move the running ones.
      eval_every: steps between evaluations; 0 for once after every epoch.
      seed: of initial values, order and dropout masks.

    Raises:
      UsageError: a value is out of range, or two contradict each other.
    """

    model: str
    model_args: Mapping[str, Any] = field(default_factory=dict)
    dataset: str = "mnist"
    validation: int = 0
    mean: float = 0.0
    std: float = 1.0
    one_pixel_shifts: bool = False
    shuffle: str = "every_epoch"
    batch_size: int
    epochs: int
    loss: str = "cross_entropy"
    optimizer: str = "sgd"
    learning_rate: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    weight_decay_sense: str = "torch"
    selection: str = "last"
    evaluation: str = "exact"
    eval_every: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise UsageError(f"{name} is {getattr(self, name)!r}; give {_either(allowed)}.")
        for name, lowest in (
            ("batch_size", 1),
            ("epochs", 1),
            ("validation", 0),
            ("eval_every", 0),
        ):
            if getattr(self, name) < lowest:
                raise UsageError(f"{name} is {getattr(self, name)}; give {lowest} or more.")
        # Written so that NaN is out of range too.
        if not 0 < self.learning_rate < float("inf"):
            raise UsageError(f"learning_rate is {self.learning_rate}; give a positive number.")
        if not 0 <= self.momentum < 1:
            raise UsageError(f"momentum is {self.momentum}; give a number from 0 to below 1.")
        if not 0 <= self.weight_decay < float("inf"):
            raise UsageError(f"weight_decay is {self.weight_decay}; give 0 or more.")
        if not 0 < self.std < float("inf"):
            raise UsageError(f"std is {self.std}; give a positive number.")
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"seed is {self.seed}; give a number from 0 to {2**32 - 1}.")
        if self.momentum and self.optimizer != "sgd":
            raise UsageError(f"momentum is for sgd; the optimizer is {self.optimizer}.")
        if self.selection == "best_validation" and not self.validation:
            raise UsageError("selection is best_validation, but no validation images are held out.")

    def to_json(self) -> str:
        """Writes the recipe as indented JSON with every field."""
        return json.dumps(dataclasses.asdict(self), indent=2)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Reads what `to_json` wrote.

        Raises:
          Failure: a field is missing or unknown.
        """
        known = {f.name for f in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise Failure(f"The recipe has unknown fields: {', '.join(unknown)}.")
        if missing := sorted(known - set(values)):
            raise Failure(f"The recipe lacks fields: {', '.join(missing)}.")
        return cls(**values)


def _either(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
