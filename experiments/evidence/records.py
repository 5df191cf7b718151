"""The committed records: one JSON line per finished (row, seed), validated when read."""

import base64
import dataclasses
import fcntl
import hashlib
import json
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

import numpy as np

from experiments.evidence.steps import Steps
from mnist_jax import measures
from mnist_jax.errors import Failure
from mnist_jax.files import parse_json, unwritable, write_bytes
from mnist_jax.recipe import Recipe
from mnist_jax.runs.metrics import Evaluation

RESULTS = Path(__file__).parents[1] / "results"
_SCHEMA = 1
# Columns of an evaluation; the optional one only if images are held out.
_COLUMNS = ("step", "train_loss", "train_accuracy", "test_loss", "test_accuracy")
_OPTIONAL = "validation_accuracy"
_FRAMEWORKS = ("jax", "torch")
# Optional fields.
_RARE = {"steps", "ended_after", "probabilities"}
# Probabilities are quantised to this many steps.
_PARTS = 65_535
# Fields of a run environment that are specific to one machine and do not affect results.
LOCAL = ("command", "dataset_source")


@dataclass(frozen=True, kw_only=True, eq=False)
class Record:
    """The complete record of a finished run.

    Attributes:
      article: the name of the article's file.
      row: the row's id.
      framework: `jax` or `torch`.
      recipe: the run's, with its seed.
      curve: a list for each of step, train_loss, train_accuracy, test_loss, test_accuracy and
        optionally validation_accuracy, with a value for every evaluation.
      selected_step: step of the selected evaluation.
      predictions: uint8 [N], that evaluation's label of every test image.
      correct: bool [N], whether the label is correct.
      seconds: duration of the run, together with the seeds trained beside it.
      images_per_second: training images of this seed, median over the evaluations.
      environment: as in `RunDirectory`, plus `seeds_together`, the number of seeds trained in the
        same process at the same time.
      steps: every step's loss and number of correct images; None for a long run, or if they were
        not stored.
      probabilities: [N, 10], of the selected evaluation; None if no vote uses them.
      ended_after: the number of epochs after which patience ended it; None if it ran all.
    """

    article: str
    row: str
    framework: str
    recipe: Recipe
    curve: Mapping[str, Sequence[float]]
    selected_step: int
    predictions: np.ndarray
    correct: np.ndarray
    seconds: float
    images_per_second: float
    environment: Mapping[str, Any]
    steps: Steps | None = None
    probabilities: np.ndarray | None = None
    ended_after: int | None = None

    @classmethod
    def of_run(
        cls,
        recipe: Recipe,
        rows: Sequence[Evaluation],
        selected_step: int,
        predictions: np.ndarray,
        labels: np.ndarray,
        environment: Mapping[str, Any],
        **values: Any,
    ) -> Self:
        """Makes the record of a run from its evaluations.

        Args:
          recipe: with its seed.
          rows: one per evaluation.
          selected_step: step of the selected evaluation.
          predictions: [N], its label of every test image.
          labels: [N], the true labels.
          environment: as from `describe_environment`, plus `seeds_together`.
          **values: the other attributes.
        """
        ran = round(rows[-1].epoch)
        return cls(
            recipe=recipe,
            # Enough digits for an accuracy on 60,000 images.
            curve={
                name: [_rounded(getattr(row, name)) for row in rows] for name in _columns(recipe)
            },
            selected_step=selected_step,
            predictions=predictions.astype(np.uint8),
            correct=predictions == labels,
            ended_after=ran if ran < recipe.epochs else None,
            images_per_second=float(np.median([row.images_per_second for row in rows])),
            environment={k: v for k, v in environment.items() if k not in LOCAL},
            **values,
        )

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.recipe.seed

    @property
    def epochs(self) -> int:
        """The number of epochs that were run."""
        return self.ended_after or self.recipe.epochs

    @property
    def seeds_together(self) -> int:
        """The number of seeds that share `seconds`."""
        return self.environment["seeds_together"]

    @property
    def committed(self) -> bool:
        """Whether all code that ran is known to be of committed revisions."""
        ran = [self.environment, *self.environment.get("before", [])]
        return all(one["git"] is not None and not one["git"]["dirty"] for one in ran)

    @property
    def accuracy(self) -> float:
        """The reported test accuracy, in percent."""
        return 100 * float(self.correct.mean())

    @property
    def stuck(self) -> bool:
        """Whether every test image is assigned the same class: nothing was learned."""
        return bool(np.ptp(self.predictions) == 0)

    def accuracy_at(self, epoch: int) -> float:
        """The test accuracy after an epoch, in percent."""
        return 100 * self.by_epoch("test_accuracy")[epoch - 1]

    def by_epoch(self, column: str) -> list[float]:
        """A column's values per epoch: the mean for training, the last evaluation for testing."""
        steps, mean = self.curve["step"], column.startswith("train_")
        steps_per_epoch = int(steps[-1]) // self.epochs
        course = measures.by_epoch(steps, self.curve[column], steps_per_epoch, mean=mean)
        return course.y.tolist()

    def second_half(self) -> list[float]:
        """The test accuracies after every epoch of the second half."""
        return self.by_epoch("test_accuracy")[self.epochs // 2 :]

    def to_json(self) -> str:
        """One line."""
        recipe = self.recipe.to_dict()
        shares = self.probabilities
        rare = {
            "steps": None if self.steps is None else self.steps.to_json(),
            "probabilities": None if shares is None else _pack(_bytes(shares)),
            "ended_after": self.ended_after,
        }
        return json.dumps(
            {
                "schema": _SCHEMA,
                "article": self.article,
                "row": self.row,
                "seed": self.seed,
                "framework": self.framework,
                "test_accuracy": round(self.accuracy / 100, 6),
                "last_test_accuracy": self.curve["test_accuracy"][-1],
                "selected_step": self.selected_step,
                "seconds": round(self.seconds, 1),
                "images_per_second": round(self.images_per_second),
                "environment": dict(self.environment),
                "recipe": recipe,
                "recipe_sha256": digest(recipe),
                "curve": dict(self.curve),
                "predictions": _pack(self.predictions),
                "correct": _pack(np.packbits(self.correct)),
            }
            | {name: value for name, value in rare.items() if value is not None}
        )

    @classmethod
    def from_json(cls, line: str) -> Self:
        """Reads what `to_json` wrote.

        Raises:
          ValueError: it is damaged or contradicts itself.
        """
        values = parse_json(line)
        if not isinstance(values, dict) or values.pop("schema", None) != _SCHEMA:
            raise ValueError(f"it is not of schema {_SCHEMA}")
        expected = {field.name for field in dataclasses.fields(cls)} | {
            *("seed", "test_accuracy", "last_test_accuracy", "recipe_sha256")
        }
        if differing := sorted((expected ^ set(values)) - _RARE):
            raise ValueError(f"the field {differing[0]} is missing or unknown")
        if digest(values["recipe"]) != values.pop("recipe_sha256"):
            raise ValueError("its recipe is not the one its recipe_sha256 is of")
        seed, accuracy = values.pop("seed"), values.pop("test_accuracy")
        last = values.pop("last_test_accuracy")
        values["recipe"] = Recipe.from_dict(values["recipe"])
        predictions = _unpack(values["predictions"])
        correct = np.unpackbits(_unpack(values["correct"]), count=len(predictions)).astype(bool)
        if "steps" in values:
            values["steps"] = Steps.from_json(values["steps"], values["recipe"])
        if "probabilities" in values:
            shares = _unpack(values["probabilities"]).view("<u2") / _PARTS
            values["probabilities"] = shares.reshape(len(predictions), -1)
        record = cls(**values | {"predictions": predictions, "correct": correct})
        record._check()
        at_selected = record.curve["step"].index(record.selected_step)
        stated = (seed, accuracy, accuracy, last)
        found = (
            record.seed,
            round(record.accuracy / 100, 6),
            round(record.curve["test_accuracy"][at_selected], 6),
            record.curve["test_accuracy"][-1],
        )
        agree = record.steps is None or record.steps.agree(record.curve)
        if stated != found or not agree:
            raise ValueError("its accuracies, predictions and curve contradict each other")
        return record

    def _check(self) -> None:
        """Raises a ValueError, LookupError or TypeError if a value that is read is impossible."""
        if self.framework not in _FRAMEWORKS:
            raise ValueError(f"its framework is {self.framework!r}")
        if list(self.curve) != _columns(self.recipe):
            raise ValueError("the columns of its curve are not those of its recipe")
        if len({len(column) for column in self.curve.values()}) != 1:
            raise ValueError("the columns of its curve have different lengths")
        if not 0 < self.seconds < math.inf or not 0 < self.images_per_second < math.inf:
            raise ValueError("its duration or speed is not a positive number")
        device = self.environment["device"]
        names, counts = (device["platform"], device["kind"]), [*device["mesh"].values()]
        counts.append(self.seeds_together)
        if not all(isinstance(name, str) for name in names) or min(counts) < 1:
            raise ValueError("its device is none")
        for one in (self.environment, *self.environment.get("before", [])):
            if one["git"] is not None and one["git"].keys() != {"revision", "dirty"}:
                raise ValueError("its code revision is none")


def load(article: str, directory: Path = RESULTS) -> list[Record]:
    """Reads and checks an article's records, in the order of the file.

    Raises:
      Failure: a line is damaged, of another article, or a duplicate; or `directory` is no folder.
    """
    if directory.exists() and not directory.is_dir():
        raise Failure(f"{directory} is no folder; give another --results.")
    path = _path(article, directory)
    return _parse(path, path.read_bytes() if path.exists() else b"")


def require_writable(directory: Path) -> None:
    """Makes the folder of the records, before a run that would be lost without it.

    Raises:
      Failure: it can't be written.
    """
    try:
        _lock(directory).close()
    except OSError as error:
        raise unwritable(directory, error, "--results") from error


def append(record: Record, directory: Path = RESULTS) -> bool:
    """Adds a record to its article's file, unless that has one for the row, framework and seed.

    Safe for concurrent processes, any of which may be killed.

    Returns:
      Whether it was added.

    Raises:
      Failure: the file is damaged or can't be written.
    """
    path = _path(record.article, directory)
    try:
        with _lock(directory) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            content = path.read_bytes() if path.exists() else b""
            if _key(record) in map(_key, _parse(path, content)):
                return False
            lines = [*content.splitlines(), record.to_json().encode(), b""]
            _parse(path, content := b"\n".join(lines))
            write_bytes(path, content)
    except OSError as error:
        raise unwritable(path, error, "--results") from error
    return True


def of_row(records: Iterable[Record], row: str, recipe: Recipe, framework: str) -> list[Record]:
    """A row's records in order of seed.

    Raises:
      Failure: one was made with a recipe that differs from the row's current one.
    """
    found = [r for r in records if (r.row, r.framework) == (row, framework)]
    for record in found:
        if record.recipe != dataclasses.replace(recipe, seed=record.seed):
            raise Failure(
                f"The record of {record.article}, row {row}, seed {record.seed} was made with"
                " another recipe than the row has now; remove its line and its run directory, and"
                " run it again."
            )
    return sorted(found, key=lambda record: record.seed)


def _lock(directory: Path) -> IO[str]:
    """Opens the lock file: not the file of records, since that one is replaced when it changes."""
    directory.mkdir(parents=True, exist_ok=True)
    return (directory / ".lock").open("w")


def _path(article: str, directory: Path) -> Path:
    return directory / f"{article}.jsonl"


def _parse(path: Path, content: bytes) -> list[Record]:
    records: list[Record] = []
    seen: dict[tuple[str, str, int], int] = {}
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            record = Record.from_json(line.decode())
            if record.article != path.stem:
                raise ValueError(f"it is a record of {record.article}")
        except (ValueError, LookupError, AttributeError, TypeError, zlib.error, Failure) as error:
            raise Failure(f"Line {number} of {path} is damaged: {error}.") from error
        key = _key(record)
        if key in seen:
            raise Failure(
                f"Lines {seen[key]} and {number} of {path} are both of row {record.row}, seed"
                f" {record.seed}, {record.framework}; remove one."
            )
        seen[key] = number
        records.append(record)
    return records


def _columns(recipe: Recipe) -> list[str]:
    return [*_COLUMNS, *([_OPTIONAL] if recipe.validation else [])]


def _key(record: Record) -> tuple[str, str, int]:
    return record.row, record.framework, record.seed


def _rounded(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.6g}")


def digest(recipe: Mapping[str, Any]) -> str:
    """The SHA-256 of a recipe as stored in a record."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()


def _bytes(probabilities: np.ndarray) -> np.ndarray:
    return np.rint(probabilities * _PARTS).astype("<u2").view(np.uint8)


def _pack(array: np.ndarray) -> str:
    return base64.b64encode(zlib.compress(array.astype(np.uint8).tobytes(), 9)).decode()


def _unpack(text: str) -> np.ndarray:
    return np.frombuffer(zlib.decompress(base64.b64decode(text, validate=True)), np.uint8)
