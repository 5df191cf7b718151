"""The recipe: everything that determines a training run's result, as one frozen value."""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    Self,
    get_args,
    get_origin,
    get_type_hints,
)

from mnist_jax import named
from mnist_jax.errors import Failure, UsageError
from mnist_jax.files import parse_json
from mnist_jax.schedules import SEGMENTS, Segment
from mnist_jax.transforms import TRANSFORMS, Standardize, Transform

# Fields, the condition on their values, and what the error message says to give instead.
_RANGES: tuple[tuple[tuple[str, ...], Callable[[Any], bool], str], ...] = (
    (("batch_size", "epochs"), lambda value: value >= 1, "1 or more"),
    (
        ("validation", "eval_every", "patience", "weight_decay"),
        lambda value: value >= 0,
        "0 or more",
    ),
    (("learning_rate", "std", "eps"), lambda value: value > 0, "a positive number"),
    (
        ("momentum", "b1", "b2", "average_decay"),
        lambda value: 0 <= value < 1,
        "a number from 0 to below 1",
    ),
    (("seed",), lambda value: 0 <= value < 2**32, f"a number from 0 to {2**32 - 1}"),
)


def _newer(default: Any) -> Any:
    """A field that JSON omits at its default, so that older recipes keep their JSON text."""
    return field(default=default, metadata={"newer": True})


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A network, its data, its protocol and its seed.

    A field's annotation is also the help of its flag, and a `Literal` lists the values it may
    have. A field with a default may be missing from older files.

    Raises:
      UsageError: a value is out of range, or two contradict each other.

    Example:
      >>> recipe = Recipe(model="lenet", batch_size=256, epochs=5, learning_rate=0.9)
      >>> Recipe.from_dict(recipe.to_dict()) == recipe
      True
      >>> dataclasses.replace(recipe, momentum=1.5)
      Traceback (most recent call last):
      ...
      mnist_jax.errors.UsageError: momentum is 1.5; give a number from 0 to below 1.
    """

    model: Annotated[str, "Name in the registry of `mnist_jax.models`."]
    model_args: Annotated[Mapping[str, Any], "Arguments of the network's constructor."] = field(
        default_factory=dict
    )
    dataset: Annotated[str, "`mnist`, `fashion_mnist` or `digits`."] = "mnist"
    validation: Annotated[
        int, "Number of training images to hold out for validation; held_out says which."
    ] = 0
    mean: Annotated[float, "Subtracted from pixels in [0, 1]."] = 0.0
    std: Annotated[float, "Divides the pixels after mean is subtracted."] = 1.0
    one_pixel_shifts: Annotated[bool, "Train on every image and its four one-pixel shifts."] = False
    shuffle: Annotated[
        Literal["every_epoch", "once", "never"],
        "When to shuffle the training images; never: keep the order of the files.",
    ] = "every_epoch"
    batch_size: Annotated[int, "Images per step; an epoch's last batch may be smaller."]
    epochs: Annotated[int, "Passes over the training set."]
    loss: Annotated[
        Literal["cross_entropy", "mean_squared_error"],
        "Cross-entropy of the logits, or squared error against one-hot labels.",
    ] = "cross_entropy"
    optimizer: Annotated[Literal["sgd", "adam", "adamw"], "Optimiser."] = "sgd"
    learning_rate: Annotated[float, "Step size; constant without learning_rate_schedule."]
    momentum: Annotated[float, "Momentum of SGD."] = 0.0
    weight_decay: Annotated[
        float, "Weight decay: decoupled with adamw, otherwise as weight_decay_sense says."
    ] = 0.0
    weight_decay_sense: Annotated[
        Literal["torch", "nielsen"],
        "torch: weight_decay times the parameter is added to every gradient; nielsen: the λ of"
        " λ/(2·batches per epoch)·Σw² over weights, without biases.",
    ] = "torch"
    selection: Annotated[
        Literal["last", "best_validation"],
        "The epoch to report: the last, or the latest with the best validation accuracy.",
    ] = "last"
    evaluation: Annotated[
        Literal["exact", "training_mode"],
        "training_mode, as in article E: dropout is on, and batch statistics are used and update"
        " the running ones.",
    ] = "exact"
    eval_every: Annotated[int, "Steps between evaluations; 0: once an epoch."] = 0
    seed: Annotated[
        int, "Random seed of initial weights, image order, dropout masks and augmentation."
    ] = 0
    init_from: Annotated[
        str, "Initial weights from a run directory, or from a .safetensors or .pt file."
    ] = _newer("")
    augmentation: Annotated[
        tuple[Transform, ...],
        'Transforms of the images, in order, as JSON: [{"name": "affine", "rotation": 15}, ...].',
    ] = _newer(())
    learning_rate_schedule: Annotated[
        tuple[Segment, ...],
        "Consecutive segments, in multiples of learning_rate, as JSON, such as"
        ' [{"name": "cosine", "epochs": 10, "end": 0.01}]; the last multiple is then kept.',
    ] = _newer(())
    b1: Annotated[float, "Decay rate of Adam's first moment."] = _newer(0.9)
    b2: Annotated[float, "Decay rate of Adam's second moment."] = _newer(0.999)
    eps: Annotated[float, "Added by Adam to the root of the second moment."] = _newer(1e-8)
    eps_sense: Annotated[
        Literal["torch", "keras"],
        "torch: eps is added after the bias correction of the second moment; keras: before it.",
    ] = _newer("torch")
    average_decay: Annotated[
        float,
        "Decay of an exponential moving average of parameters and BatchNorm statistics, which"
        " starts at their initial values and is evaluated in their place; 0: no average.",
    ] = _newer(0.0)
    held_out: Annotated[
        Literal["last", "random"],
        "Which training images are held out: the last of the files, or a random draw per seed.",
    ] = _newer("last")
    last_batch: Annotated[
        Literal["kept", "dropped"],
        "Whether an epoch's last batch is kept or dropped if it is not full.",
    ] = _newer("kept")
    patience: Annotated[
        int,
        "Stop early after this many epochs in a row without a better validation accuracy; 0: never"
        " stop early.",
    ] = _newer(0)

    def __post_init__(self) -> None:
        transforms = named.read(self.augmentation, TRANSFORMS, "augmentation")
        segments = named.read(self.learning_rate_schedule, SEGMENTS, "learning_rate_schedule")
        # JSON gives lists of objects.
        object.__setattr__(self, "augmentation", transforms)
        object.__setattr__(self, "learning_rate_schedule", segments)
        for name, hint in get_type_hints(Recipe).items():
            value = getattr(self, name)
            try:
                object.__setattr__(self, name, named.checked(value, hint))
            except ValueError as error:
                raise UsageError(f"{name} is {value!r}; give {error}.") from error
        for names, allowed, what in _RANGES:
            for name in names:
                if not allowed(getattr(self, name)):
                    raise UsageError(f"{name} is {getattr(self, name)}; give {what}.")
        if self.momentum and self.optimizer != "sgd":
            raise UsageError(f"momentum is for sgd; the optimizer is {self.optimizer}.")
        if self.eps_sense == "keras" and self.optimizer != "adam":
            raise UsageError(f"eps_sense keras is for adam; the optimizer is {self.optimizer}.")
        if self.optimizer == "sgd" and (self.b1, self.b2, self.eps) != (0.9, 0.999, 1e-8):
            raise UsageError("b1, b2 and eps are for adam and adamw; the optimizer is sgd.")
        for name, needs in (
            ("selection", self.selection == "best_validation"),
            ("patience", self.patience > 0),
        ):
            if needs and not self.validation:
                raise UsageError(
                    f"{name} is {getattr(self, name)}, but no validation images are held out."
                )
        if self.held_out == "random" and self.evaluation == "training_mode":
            raise UsageError(
                "held_out random needs evaluation exact; in training_mode one seed's images would"
                " change another seed's statistics."
            )
        if self.average_decay and self.evaluation == "training_mode":
            raise UsageError(
                "average_decay needs evaluation exact; training_mode updates statistics that are"
                " not averaged."
            )
        if Standardize() in self.augmentation and (
            self.augmentation.index(Standardize()) + 1 < len(self.augmentation)
            or (self.mean, self.std) != (0, 1)
        ):
            raise UsageError(
                "standardize replaces other normalisation; make it the last of augmentation,"
                " with mean 0 and std 1."
            )

    def to_json(self) -> str:
        """Writes `to_dict` as indented JSON."""
        return json.dumps(self.to_dict(), indent=2)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON types, without newer fields at their defaults."""
        values = dataclasses.asdict(self)
        for one in dataclasses.fields(self):
            if "newer" in one.metadata and values[one.name] == one.default:
                del values[one.name]
        lists: dict[str, Any] = json.loads(json.dumps(values))  # Where there were tuples.
        return lists

    def canonical(self) -> str:
        """The same text for equal recipes, in whichever order `model_args` were given."""
        arguments = json.loads(json.dumps(self.model_args, sort_keys=True))
        return dataclasses.replace(self, model_args=arguments).to_json()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Reads the result of `to_dict`; fields that are newer than it take their defaults.

        Raises:
          Failure: a field is unknown, or one without a default is missing.
        """
        fields = dataclasses.fields(cls)
        needed = {f.name for f in fields if f.default is f.default_factory is dataclasses.MISSING}
        if unknown := sorted(set(values) - {f.name for f in fields}):
            raise Failure(f"The recipe has unknown fields: {', '.join(unknown)}.")
        if missing := sorted(needed - set(values)):
            raise Failure(f"The recipe lacks fields: {', '.join(missing)}.")
        return cls(**values)

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Reads a file that `to_json` wrote, such as a run's `config.json`.

        Raises:
          UsageError: it can't be read, or is not such a file.
        """
        try:
            return cls.from_dict(dict(parse_json(Path(path).read_text())))
        except OSError as error:
            raise UsageError(f"{path} can't be read ({error.strerror}).") from error
        except (Failure, ValueError, TypeError) as error:
            reason = str(error).rstrip(".")
            raise UsageError(f"{path} is not a recipe of this version ({reason}).") from error


class Option(NamedTuple):
    """A field of `Recipe`, for command-line flags and tables.

    Attributes:
      name: the field's name.
      type: the type of its values.
      choices: the allowed values; empty if all values of its type are allowed.
      what: its description.
    """

    name: str
    type: type
    choices: tuple[str, ...]
    what: str


@functools.cache
def options() -> tuple[Option, ...]:
    """All fields of `Recipe`, in order."""
    found = []
    for name, hint in get_type_hints(Recipe, include_extras=True).items():
        kind, what = get_args(hint)
        choices = get_args(kind) if get_origin(kind) is Literal else ()
        found.append(Option(name, str if choices else get_origin(kind) or kind, choices, what))
    return tuple(found)
