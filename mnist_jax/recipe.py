"""The recipe: everything that decides a training run's result, as one frozen value."""

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
from mnist_jax.rates import STRETCHES, Stretch
from mnist_jax.transforms import TRANSFORMS, Standardize, Transform

# Fields, what their values must be, and what is said to give instead.
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


def _younger(default: Any) -> Any:
    """A field that texts leave out at its default, so that those of before it stay the same."""
    return field(default=default, metadata={"younger": True})


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A network, its data, its protocol and its seed.

    A field is one line: what is said of it here is the help of its flag, and a `Literal` lists
    the values it may have. One with a default may be missing in files that are older than it.

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
        int, "Images of the training set that are held out; held_out says which."
    ] = 0
    mean: Annotated[float, "Subtracted from pixels in [0, 1]."] = 0.0
    std: Annotated[float, "Divides them after that."] = 1.0
    one_pixel_shifts: Annotated[bool, "Train on every image and its four one-pixel shifts."] = False
    shuffle: Annotated[
        Literal["every_epoch", "once", "never"],
        "The order of the images: never is that of the files.",
    ] = "every_epoch"
    batch_size: Annotated[int, "Images per step; the last batch of an epoch is what remains."]
    epochs: Annotated[int, "Passes over the training set."]
    loss: Annotated[
        Literal["cross_entropy", "mean_squared_error"],
        "Cross-entropy of the logits, or squared error against one-hot labels.",
    ] = "cross_entropy"
    optimizer: Annotated[Literal["sgd", "adam", "adamw"], "Optimiser."] = "sgd"
    learning_rate: Annotated[float, "Step size; constant without learning_rate_schedule."]
    momentum: Annotated[float, "Momentum of SGD."] = 0.0
    weight_decay: Annotated[float, "Decoupled with adamw, else by --weight_decay_sense."] = 0.0
    weight_decay_sense: Annotated[
        Literal["torch", "nielsen"],
        "torch: added times the parameter to the gradient of every parameter; nielsen: the λ of"
        " λ/(2·batches per epoch)·Σw² over weights without biases.",
    ] = "torch"
    selection: Annotated[
        Literal["last", "best_validation"],
        "The epoch that counts: the last, or the latest of best validation accuracy.",
    ] = "last"
    evaluation: Annotated[
        Literal["exact", "training_mode"],
        "training_mode is article E's: dropout on, batch statistics, which move the running ones.",
    ] = "exact"
    eval_every: Annotated[int, "Steps between evaluations; 0: once an epoch."] = 0
    seed: Annotated[int, "Seed of initial values, order, dropout masks and augmentation."] = 0
    init_from: Annotated[
        str, "Weights to start from instead: a run directory, or a .safetensors or .pt file."
    ] = _younger("")
    augmentation: Annotated[
        tuple[Transform, ...],
        'Changes of images, in order, as JSON: [{"name": "affine", "rotation": 15}, ...].',
    ] = _younger(())
    learning_rate_schedule: Annotated[
        tuple[Stretch, ...],
        "Stretches of multiples of learning_rate as JSON, such as"
        ' [{"name": "cosine", "epochs": 10, "end": 0.01}]; after the last its end holds.',
    ] = _younger(())
    b1: Annotated[float, "How much of the first moment Adam keeps at a step."] = _younger(0.9)
    b2: Annotated[float, "The same for the second moment."] = _younger(0.999)
    eps: Annotated[float, "Added by Adam to the root of the second moment."] = _younger(1e-8)
    eps_sense: Annotated[
        Literal["torch", "keras"],
        "torch: added after the moment's correction for its first steps; keras: before it.",
    ] = _younger("torch")
    average_decay: Annotated[
        float,
        "Evaluate a moving average of parameters and BatchNorm statistics that begins at their"
        " first values and keeps this much of itself at a step; 0: evaluate what is trained.",
    ] = _younger(0.0)
    held_out: Annotated[
        Literal["last", "random"],
        "Which images are held out: the last of the files, or a draw of each seed's own.",
    ] = _younger("last")
    last_batch: Annotated[
        Literal["kept", "dropped"],
        "What becomes of the images of an epoch that do not fill a batch.",
    ] = _younger("kept")
    patience: Annotated[
        int,
        "End after so many epochs in a row without a better validation accuracy; 0: after the last"
        " epoch alone.",
    ] = _younger(0)

    def __post_init__(self) -> None:
        changes = named.read(self.augmentation, TRANSFORMS, "augmentation")
        stretches = named.read(self.learning_rate_schedule, STRETCHES, "learning_rate_schedule")
        # JSON gives lists of objects.
        object.__setattr__(self, "augmentation", changes)
        object.__setattr__(self, "learning_rate_schedule", stretches)
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
                "held_out random is for evaluation exact; in training_mode one seed's images would"
                " move another's statistics."
            )
        if self.average_decay and self.evaluation == "training_mode":
            raise UsageError(
                "average_decay is for evaluation exact; in training_mode statistics move that are"
                " no average."
            )
        if Standardize() in self.augmentation and (
            self.augmentation.index(Standardize()) + 1 < len(self.augmentation)
            or (self.mean, self.std) != (0, 1)
        ):
            raise UsageError(
                "standardize gives images their final values; give it as the last of"
                " augmentation, with mean 0 and std 1."
            )

    def to_json(self) -> str:
        """Writes `to_dict` as indented JSON."""
        return json.dumps(self.to_dict(), indent=2)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON has them, without younger ones at their defaults."""
        values = dataclasses.asdict(self)
        for one in dataclasses.fields(self):
            if "younger" in one.metadata and values[one.name] == one.default:
                del values[one.name]
        lists: dict[str, Any] = json.loads(json.dumps(values))  # Where there were tuples.
        return lists

    def canonical(self) -> str:
        """The same text for equal recipes, in whichever order `model_args` were given."""
        arguments = json.loads(json.dumps(self.model_args, sort_keys=True))
        return dataclasses.replace(self, model_args=arguments).to_json()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Reads what `to_dict` gives; a later version's fields have their defaults.

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
        """Reads a file that has what `to_json` wrote, such as a run's `config.json`.

        Raises:
          UsageError: it can't be read, or has something else.
        """
        try:
            return cls.from_dict(dict(parse_json(Path(path).read_text())))
        except OSError as error:
            raise UsageError(f"{path} can't be read ({error.strerror}).") from error
        except (Failure, ValueError, TypeError) as error:
            reason = str(error).rstrip(".")
            raise UsageError(f"{path} is no recipe of this version ({reason}).") from error


class Option(NamedTuple):
    """A field of `Recipe`, for what lets a person change it.

    Attributes:
      name: of the field.
      type: of its values.
      choices: the values it may have; none where all of its type are allowed.
      what: it is.
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
