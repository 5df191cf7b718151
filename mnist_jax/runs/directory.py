"""The run directory: a run's configuration, environment, metrics and result as plain files."""

import contextlib
import dataclasses
import fcntl
import io
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from absl import logging

from mnist_jax.errors import Failure, UsageError
from mnist_jax.files import (
    make_folder,
    parse_json,
    synchronize,
    unwritable,
    write_bytes,
    write_text,
)
from mnist_jax.recipe import Recipe
from mnist_jax.runs.environment import as_begun, difference, gives_same_digits
from mnist_jax.runs.metrics import Evaluation

# Parts of the environment that may change while a run is interrupted.
_VARYING = ("packages", "device", "git")
# Fields of a result that other code reads.
_RESULT = ("epochs", "test_accuracy", "selected_step", "seconds")
# Folders and files beside the configuration and the result.
_FOLDERS = ("checkpoints", "tensorboard")
_FILES = ("metrics.jsonl", "steps.f32", "predictions.npy", "environment.json")
# Paths that Orbax would treat as glob patterns or as bucket addresses.
_UNFIT = re.compile(r"\\|\[[^/]*\]|/gs:/|^/(gs|s3|az|hf)/")
# A record of `steps.f32`: loss and accuracy of a step.
_STEP = np.dtype(("<f4", 2))


class Busy(Failure):
    """Another process is training in a run directory."""


class RunDirectory:
    """The files of one run, of one seed.

    Attributes:
      path: the directory, with
        `config.json`, the recipe, enough to run it again;
        `environment.json`, versions, device, git revision, dataset and its SHA-256, that of the
          initial weights if they were given, and in `before` the earlier versions, devices and
          revisions of a run that was resumed with others;
        `metrics.jsonl`, one object per evaluation;
        `steps.f32`, loss and accuracy of every step up to the last evaluation, as little-endian
          float32, which `numpy.fromfile` reads;
        `predictions.npy`, the selected evaluation's predicted label of every test image;
        `result.json`, written once, at the end;
        `checkpoints/`, the parameters and optimiser state.

    Raises:
      Failure: from every method that reads or writes, a file is missing, damaged, or can't be
        written.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Makes the directory and locks it; the lock is released when its process ends.

        Raises:
          UsageError: Orbax would treat its path as a pattern or a bucket address.
          Busy: another process is training here.
        """
        if unfit := _UNFIT.search(f"{self.path.absolute()}/"):
            raise UsageError(
                f"{self.path.absolute()} can't have checkpoints, because Orbax takes {unfit[0]!r}"
                " in it for a pattern or a bucket; give another --workdir."
            )
        with contextlib.ExitStack() as stack:
            with self._writing():
                make_folder(self.path)
                lock = stack.enter_context((self.path / ".lock").open("w"))
                if not _locks(lock):
                    raise Busy(
                        f"Another process is training in {self.path};"
                        " wait until it ends or give another --workdir."
                    )
            yield

    def busy(self) -> bool:
        """Whether a process is training here."""
        try:
            with (self.path / ".lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # There is no lock, or nobody could have locked it.
            return False
        return False

    def create(self, recipe: Recipe, environment: Mapping[str, Any]) -> None:
        """Writes what is known before the first step, or checks that an existing run can resume.

        Raises:
          UsageError: as `check`, or the existing run has weights imported from a file.
          Failure: the data is not the same.
        """
        self.check(recipe)
        last = self.environment() if (self.path / "environment.json").exists() else {}
        environment = as_begun(last, environment)
        before = self._before(environment)
        with self._writing():
            for left in self.path.glob(".*.tmp"):  # From a process that was killed.
                left.unlink()
            # A recipe with more epochs continues a finished run, which then has not ended.
            (self.path / "result.json").unlink(missing_ok=True)
            write_text(self.path / "config.json", recipe.to_json() + "\n")
            self._write_environment({**environment, **({"before": before} if before else {})})

    def check(self, recipe: Recipe) -> None:
        """Checks that the directory has no run of another recipe; more epochs are allowed.

        Raises:
          UsageError: it has one, and the message names the differences; or as `begun`.
        """
        if not self.begun():
            return
        before = dataclasses.asdict(self.recipe())
        now = dataclasses.asdict(Recipe.from_dict(recipe.to_dict()))
        if before["epochs"] < now["epochs"]:
            before["epochs"] = now["epochs"]
        if different := [
            f"{name} {before[name]!r}, not {now[name]!r}"
            for name in now
            if before[name] != now[name]
        ]:
            raise UsageError(
                f"The run in {self.path} has {', '.join(different)};"
                " give another --workdir, or delete the run to start again."
            )

    def finished(self, recipe: Recipe) -> dict[str, Any] | None:
        """The result, if the run has ended and was not shorter than `recipe`; otherwise None."""
        self.check(recipe)
        result = self.result()
        return result if result and result["epochs"] == recipe.epochs else None

    def clear(self) -> None:
        """Removes the run.

        Raises:
          UsageError: as `begun`; nothing is removed then.
        """
        if not self.begun():
            return
        with self._writing():
            # The result first: what remains is then an unfinished run. The configuration last:
            # without it the remaining files can't be identified. In this order on disk, too.
            (self.path / "result.json").unlink(missing_ok=True)
            synchronize(self.path)
            for name in _FOLDERS:
                if (self.path / name).is_dir():
                    shutil.rmtree(self.path / name)
                (self.path / name).unlink(missing_ok=True)
            synchronize(self.path)  # A checkpoint must not outlive the files that belong to it.
            for name in _FILES:
                (self.path / name).unlink(missing_ok=True)
            synchronize(self.path)
            (self.path / "config.json").unlink(missing_ok=True)
            synchronize(self.path)

    def begun(self) -> bool:
        """Whether there is a run, that is a configuration, which is written first and removed last.

        Raises:
          UsageError: there are other files of a run, but no configuration.
        """
        config = self.path / "config.json"
        if config.exists():
            return True
        for name in (*_FOLDERS, *_FILES, "result.json"):
            # Another process may have started a run in between.
            if (self.path / name).exists() and not config.exists():
                raise UsageError(
                    f"{self.path} has {name} but no config.json, so it may not be a run directory;"
                    " give another --workdir."
                )
        return config.exists()

    def recipe(self) -> Recipe:
        """Reads `config.json`."""
        values = self._read("config.json")
        try:
            return Recipe.from_dict(values)
        except (Failure, TypeError) as error:
            raise self._damaged("config.json", error) from error

    def environment(self) -> dict[str, Any]:
        """Reads `environment.json`."""
        found = self._read("environment.json")
        git, command = found.get("git"), found.get("command", [])
        if git is not None and not (isinstance(git, dict) and {"revision", "dirty"} <= git.keys()):
            raise self._damaged("environment.json", "git is no revision")
        if not isinstance(command, list) or not all(isinstance(one, str) for one in command):
            raise self._damaged("environment.json", "command is no list of arguments")
        return found

    def device(self) -> dict[str, Any]:
        """The devices that the run was trained on; empty before it begins."""
        if not (self.path / "environment.json").exists():
            return {}
        device = self.environment().get("device") or {}
        mesh = device.get("mesh", {}) if isinstance(device, dict) else None
        if not isinstance(mesh, dict):
            raise self._damaged("environment.json", "device is not described")
        for name, count in (("data", mesh.get("data", 1)), ("threads", device.get("threads", 1))):
            if not isinstance(count, int) or count < 1:
                raise self._damaged("environment.json", f"{name} is {count!r}")
        return device

    def parts(self) -> int | None:
        """The number of devices that the run's batches were split over; None before it begins."""
        parts: int | None = self.device().get("mesh", {}).get("data")
        return parts

    def result(self) -> dict[str, Any] | None:
        """Reads `result.json`; None while the run has not ended."""
        if not (self.path / "result.json").exists():
            return None
        result = self._read("result.json")
        if wrong := [name for name in _RESULT if not isinstance(result.get(name), int | float)]:
            raise self._damaged("result.json", f"{wrong[0]} is not a number")
        return result

    def metrics(self) -> list[Evaluation]:
        """Reads `metrics.jsonl`, in order of step."""
        rows = list[Evaluation]()
        try:
            lines = (self.path / "metrics.jsonl").read_bytes().splitlines(keepends=True)
            for line in lines:
                rows.append(Evaluation.from_json(line.decode()))
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            # In an unfinished run, the last line may be incomplete: its process was killed or the
            # power failed while it was written.
            unfinished = not (self.path / "result.json").exists()
            if isinstance(error, OSError) or not unfinished or len(rows) < len(lines) - 1:
                raise self._damaged("metrics.jsonl", error) from error
        return rows

    def append_metrics(self, row: Evaluation) -> None:
        """Adds a line to `metrics.jsonl`."""
        self._append("metrics.jsonl", f"{row.to_json()}\n".encode())

    def steps(self) -> np.ndarray | None:
        """Reads `steps.f32`: float32 [steps, 2], every step's loss and accuracy on its batch.

        Steps taken by an older version are NaN. None if there is no such file.
        """
        try:
            content = (self.path / "steps.f32").read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._damaged("steps.f32", error) from error
        # An incomplete record at the end was being written when its process was killed.
        whole = len(content) // _STEP.itemsize
        return np.frombuffer(content, _STEP.base, 2 * whole).reshape(-1, 2)

    def append_steps(self, log: np.ndarray) -> None:
        """Appends [steps, 2] to `steps.f32`, before the row of the next evaluation is written."""
        self._append("steps.f32", log.astype(_STEP.base).tobytes())

    def _append(self, name: str, content: bytes) -> None:
        with self._writing(), (self.path / name).open("ab") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # Later checkpoints are useless without it.

    def rewind(self, step: int) -> list[Evaluation]:
        """Drops everything after a step from the files; returns the evaluations up to it."""
        rows = [row for row in self.metrics() if row.step <= step]
        last = rows[-1].step if rows else 0
        steps = self.steps()
        if steps is None:
            steps = np.full((last, 2), np.nan, _STEP.base)
        with self._writing():
            text = "".join(row.to_json() + "\n" for row in rows)
            write_text(self.path / "metrics.jsonl", text)
            write_bytes(self.path / "steps.f32", steps[:last].tobytes())
            if not step:  # Nothing remains of the earlier environments' work.
                self._write_environment(
                    {name: v for name, v in self.environment().items() if name != "before"}
                )
        return rows

    def write_predictions(self, labels: np.ndarray) -> None:
        """Replaces `predictions.npy`: uint8 [N]."""
        content = io.BytesIO()  # Writing to a file, NumPy would hide the reason for a failure.
        np.save(content, labels.astype(np.uint8))
        with self._writing():
            write_bytes(self.path / "predictions.npy", content.getvalue())

    def predictions(self) -> np.ndarray:
        """Reads `predictions.npy`: uint8 [N]."""
        try:
            labels: np.ndarray = np.load(self.path / "predictions.npy")
        except (OSError, ValueError, EOFError) as error:
            raise self._damaged("predictions.npy", error) from error
        if labels.dtype != np.uint8 or labels.ndim != 1:
            raise self._damaged("predictions.npy", f"{labels.dtype}{list(labels.shape)}")
        return labels

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Writes `result.json`, whole or not at all."""
        with self._writing():
            write_text(self.path / "result.json", json.dumps(result, indent=2) + "\n")

    def _read(self, name: str) -> dict[str, Any]:
        path = self.path / name
        try:
            values = parse_json(path.read_text())
        except OSError as error:
            raise Failure(
                f"{path} can't be read ({error.strerror}); is {self.path} the workdir of a run?"
            ) from error
        except ValueError as error:
            raise self._damaged(name, error) from error
        if not isinstance(values, dict):
            raise self._damaged(name, "it is not an object")
        return values

    def _damaged(self, name: str, why: object) -> Failure:
        return Failure(
            f"{self.path / name} is damaged or of another version ({str(why).rstrip('.')});"
            " give another --workdir, or delete the run to start again."
        )

    def _before(self, environment: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The environments of the run so far that differ from the one it resumes in."""
        if not (self.path / "environment.json").exists():
            return []
        last = {"before": [], **self.environment()}
        if not isinstance(last["before"], list):
            raise self._damaged("environment.json", "before is not a list")
        if missing := sorted({"dataset", "dataset_sha256", *_VARYING} - last.keys()):
            raise self._damaged("environment.json", f"{missing[0]} is missing")
        if not last["dataset_sha256"]:
            raise UsageError(
                f"{self.path} has weights from a file, which were not trained here; give"
                f" --init_from={self.path} to start from them, and another --workdir."
            )
        if last["dataset_sha256"] != environment["dataset_sha256"]:
            raise Failure(
                f"The run in {self.path} began with other images of {last['dataset']};"
                " give another --workdir, or delete the run to start again."
            )
        if gives_same_digits(last["device"], environment["device"]):
            last["device"] = environment["device"]
        now = {name: environment[name] for name in _VARYING}
        for name in _VARYING:
            if last[name] != now[name]:
                logging.warning(
                    "%s ran with %s and resumes with %s: the last digits may differ.",
                    self.path,
                    f"{name} {difference(last[name], now[name])}",
                    f"{name} {difference(now[name], last[name])}",
                )
        before = [*last["before"], {name: last[name] for name in _VARYING}]
        return [one for i, one in enumerate(before) if one != now and one not in before[:i]]

    def note(self, **facts: Any) -> None:
        """Adds facts to `environment.json`."""
        with self._writing():
            self._write_environment(self.environment() | facts)

    def _write_environment(self, environment: Mapping[str, Any]) -> None:
        write_text(self.path / "environment.json", json.dumps(environment, indent=2) + "\n")

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turns an OSError into a Failure."""
        try:
            yield
        except OSError as error:
            raise unwritable(error.filename or self.path, error, "--workdir") from error


def _locks(file: IO[str]) -> bool:
    """Locks a file; False if another process holds a lock for longer than `busy` does."""
    for _ in range(10):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(0.01)
    return False
