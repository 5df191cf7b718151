"""The run directory: a run's configuration, environment, metrics and result as plain files."""

import contextlib
import functools
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from mnist_jax.config import Recipe
from mnist_jax.data import Dataset
from mnist_jax.errors import Failure

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


class RunDirectory:
    """The files of one run, of one seed.

    Attributes:
      path: the directory, with
        `config.json`, the recipe, enough to run it again;
        `environment.json`, versions, device, git revision, dataset and its SHA-256;
        `metrics.jsonl`, one object per evaluation;
        `predictions.npy`, the selected evaluation's predicted label of every test image;
        `result.json`, written once, at the end;
        `checkpoints/`, the parameters and optimiser state.
    """

    def __init__(self, path: Path):
        self.path = path

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints are."""
        return self.path / "checkpoints"

    def create(self, recipe: Recipe, environment: Mapping[str, Any]) -> None:
        """Makes the directory and writes what is known before the first step.

        Raises:
          Failure: the directory can't be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            _write(self.path / "config.json", recipe.to_json())
            _write(self.path / "environment.json", json.dumps(environment, indent=2))
        except OSError as error:
            raise Failure(
                f"{self.path} can't be written ({error.strerror}); give another --workdir."
            ) from error

    def recipe(self) -> Recipe:
        """Reads `config.json`.

        Raises:
          Failure: it is missing or damaged.
        """
        return Recipe.from_dict(self._read("config.json"))

    def environment(self) -> dict[str, Any]:
        """Reads `environment.json`.

        Raises:
          Failure: it is missing or damaged.
        """
        return self._read("environment.json")

    def result(self) -> dict[str, Any] | None:
        """Reads `result.json`; None while the run has not ended.

        Raises:
          Failure: it is damaged.
        """
        return self._read("result.json") if (self.path / "result.json").exists() else None

    def metrics(self) -> list[dict[str, Any]]:
        """Reads `metrics.jsonl`, in order of step.

        Raises:
          Failure: a line is damaged.
        """
        path = self.path / "metrics.jsonl"
        try:
            return [json.loads(line) for line in path.read_text().splitlines()]
        except FileNotFoundError:
            return []
        except ValueError as error:
            raise Failure(
                f"{path} is damaged ({error}); start again in another --workdir."
            ) from error

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Adds a line to `metrics.jsonl`."""
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")

    def write_predictions(self, labels: np.ndarray) -> None:
        """Replaces `predictions.npy`: uint8 [N]."""
        with _replacing(self.path / "predictions.npy") as temporary, temporary.open("wb") as file:
            np.save(file, labels.astype(np.uint8))

    def predictions(self) -> np.ndarray:
        """Reads `predictions.npy`: uint8 [N]."""
        return np.load(self.path / "predictions.npy")

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Writes `result.json`, whole or not at all."""
        _write(self.path / "result.json", json.dumps(result, indent=2))

    def _read(self, name: str) -> dict[str, Any]:
        path = self.path / name
        try:
            values = json.loads(path.read_text())
        except OSError as error:
            raise Failure(
                f"{path} can't be read ({error.strerror}); is {self.path} the workdir of a run?"
            ) from error
        except ValueError as error:
            raise Failure(
                f"{path} is damaged ({error}); start again in another --workdir."
            ) from error
        if not isinstance(values, dict):
            raise Failure(f"{path} is damaged (no object); start again in another --workdir.")
        return values


def describe_environment(dataset: Dataset, device: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's numbers depend on besides its recipe."""
    return {
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in _PACKAGES},
        "machine": f"{platform.system()} {platform.machine()}",
        "device": dict(device),
        "git": _git_revision(),
        "dataset": dataset.name,
        "dataset_sha256": dataset.sha256,
        "dataset_source": dataset.source,
        "command": sys.argv,
    }


@functools.cache  # The code was loaded once; a later commit does not change what runs.
def _git_revision() -> dict[str, Any] | None:
    """Revision of the source, and whether code was changed since; None outside a checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        # Code alone: the records of finished runs are not part of what runs.
        changed = git("status", "--porcelain", "--", ":/*.py", ":/requirements.txt")
        return {"revision": git("rev-parse", "HEAD"), "dirty": bool(changed)}
    except (OSError, subprocess.CalledProcessError):
        return None


def _write(path: Path, text: str) -> None:
    with _replacing(path) as temporary:
        temporary.write_text(text + "\n")


@contextlib.contextmanager
def _replacing(path: Path):
    """Gives a temporary path that takes `path`'s place, at once and durably, on success."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
