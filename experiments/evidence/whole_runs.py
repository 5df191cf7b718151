"""The stored file of whole runs replayed in PyTorch: one line per (row, seed)."""

import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from experiments.evidence.records import digest
from experiments.references.replays import Distance, Replay, Side
from mnist_jax.errors import Failure
from mnist_jax.files import parse_json, unwritable, write_bytes
from mnist_jax.recipe import Recipe

FOLDER = Path(__file__).parents[2] / "docs"
# Significant digits of a stored column: enough for float32.
_DIGITS = 8
# Fields of a line beside those of its replay.
_ABOUT = ("seed", "epochs", "row", "recipe", "recipe_sha256", "date", "environment")


@dataclass(frozen=True, kw_only=True)
class WholeRun:
    """A run of ours, and the author's PyTorch network on the same batches.

    Attributes:
      row: its name, as `article/row`.
      recipe: with its seed.
      date: of the run, as 2026-01-31.
      environment: as in `RunDirectory`, with PyTorch among the packages; `onednn` is whether
        PyTorch used oneDNN, as it did where the key is missing.
      replay: the training curves of both, and their differences.
    """

    row: str
    recipe: Recipe
    date: str
    environment: Mapping[str, Any]
    replay: Replay

    @property
    def epochs(self) -> int:
        """The number of the recipe's epochs that were run."""
        return len(self.replay.distance.predictions)

    def to_json(self) -> str:
        """One line."""
        recipe = self.recipe.to_dict()
        replay = self.replay
        curves = {
            "ours": _columns(replay.ours),
            "theirs": _columns(replay.theirs),
            "distance": _columns(replay.distance),
            "perturbed": [_columns(one) for one in replay.perturbed],
        }
        about = {
            "seed": self.recipe.seed,
            "epochs": self.epochs,
            "row": self.row,
            "recipe": recipe,
            "recipe_sha256": digest(recipe),
            "date": self.date,
            "environment": dict(self.environment),
        }
        return json.dumps(about | replay._asdict() | curves)

    @classmethod
    def from_json(cls, line: str) -> Self:
        """Reads what `to_json` wrote.

        Raises:
          ValueError: it is damaged or contradicts itself.
        """
        values = parse_json(line)
        if not isinstance(values, dict) or values.keys() != {*_ABOUT, *Replay._fields}:
            raise ValueError("it has other fields")
        if digest(values["recipe"]) != values.pop("recipe_sha256"):
            raise ValueError("its recipe is not the one its recipe_sha256 is of")
        stated = values.pop("seed"), values.pop("epochs")
        about = {name: values.pop(name) for name in ("row", "recipe", "date", "environment")}
        curves = {
            "ours": Side(**values["ours"]),
            "theirs": Side(**values["theirs"]),
            "distance": Distance(**values["distance"]),
            "perturbed": [Distance(**one) for one in values["perturbed"]],
        }
        replay = Replay(**values | curves)
        run = cls(**about | {"recipe": Recipe.from_dict(about["recipe"]), "replay": replay})
        if not replay.perturbed:
            raise ValueError("it has no perturbed run")
        tables = (*replay.sides, replay.distance, *replay.perturbed)
        if {len(column) for table in tables for column in table} != {run.epochs}:
            raise ValueError("its columns have different lengths")
        if stated != (run.recipe.seed, run.epochs):
            raise ValueError("its seed or epochs are not those of its recipe and columns")
        return run


def load(folder: Path = FOLDER) -> list[WholeRun]:
    """Reads and validates the stored file, in order; only the longest run of each row and seed.

    Raises:
      Failure: a line is damaged.
    """
    path = _path(folder)
    runs: dict[tuple[str, int], WholeRun] = {}
    lines = path.read_bytes().splitlines() if path.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            run = WholeRun.from_json(line.decode())
        except (ValueError, KeyError, AttributeError, TypeError, Failure) as error:
            raise Failure(f"Line {number} of {path} is damaged: {error}.") from error
        name = run.row, run.recipe.seed
        if name not in runs or run.epochs > runs[name].epochs:
            runs[name] = run
    return list(runs.values())


def append(run: WholeRun, folder: Path = FOLDER) -> None:
    """Adds a run to the stored file.

    Raises:
      Failure: it can't be written.
    """
    path = _path(folder)
    try:
        lock = os.open(folder, os.O_RDONLY)  # Locks the folder, since the file is replaced.
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            lines = path.read_bytes().splitlines() if path.exists() else []
            write_bytes(path, b"\n".join([*lines, run.to_json().encode(), b""]))
        finally:
            os.close(lock)
    except OSError as error:
        raise unwritable(path, error, "--results") from error


def _path(folder: Path) -> Path:
    return folder / "whole_runs.jsonl"


def _columns(table: Side | Distance) -> dict[str, list[float]]:
    return {
        name: [v if isinstance(v, int) else float(f"{v:.{_DIGITS}g}") for v in column]
        for name, column in table._asdict().items()
    }
