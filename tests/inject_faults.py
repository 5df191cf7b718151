"""Trains two seeds again and again, injecting one fault each time.

Run with the library of `file_operations` preloaded, the script
`python tests/inject_faults.py FOLDER KIND SHARD SHARDS STRIDE` prints a line of JSON per fault: its
name and error, how the run ended, how many seconds later (null if the fault did not occur), and how
the run, once resumed, differs from an undisturbed one. KIND is
  errors: every operation fails once with each error that it can have;
  commands: likewise in a command, for one of the operations that differ only in seed and step;
  kills: the process is killed after every operation;
  crashes: the power fails after some operations.
Of every STRIDE faults it takes one, and of these, shard SHARD of SHARDS.

Except for `commands`, training is repeated within one process, which makes this affordable. No
process is actually killed: the files are written that its operations until then would have left.
"""

import contextlib
import ctypes
import dataclasses
import errno
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import commands
from file_operations import Disk, Operation, read_log, write_files
from runs_compared import assert_same_run

from mnist_jax.cli import starting
from mnist_jax.data import Dataset, load_dataset
from mnist_jax.errors import Failure, UsageError
from mnist_jax.models import model_entry
from mnist_jax.recipe import Recipe
from mnist_jax.runs.directory import RunDirectory
from mnist_jax.training import devices, evaluation, trainer
from mnist_jax.training.session import groups, train

# Three steps, with an evaluation and a checkpoint after each, so that old checkpoints are removed.
RECIPE = dataclasses.replace(
    model_entry("dense").recipe, dataset="digits", batch_size=1500, epochs=3
)
SEEDS = (0, 1)
CRASHES = 400  # For each of the three histories.

_SHORT_WRITE = -1
_TRIES = 5
_ERRORS = {
    "open": (errno.EIO, errno.EACCES, errno.EMFILE),
    "create": (errno.EIO, errno.ENOSPC, errno.EACCES, errno.EMFILE),
    "truncate": (errno.EIO, errno.ENOSPC, errno.EACCES, errno.EMFILE),
    "read": (errno.EIO,),
    "write": (errno.EIO, errno.ENOSPC, _SHORT_WRITE),
    "fsync": (errno.EIO, errno.ENOSPC),
    "rename": (errno.EIO, errno.ENOSPC, errno.EACCES),
    "mkdir": (errno.EIO, errno.ENOSPC, errno.EACCES),
    "unlink": (errno.EIO, errno.EACCES),
    "rmdir": (errno.EIO, errno.EACCES),
    "flock": (errno.EIO,),
    "list": (errno.EIO, errno.EACCES, errno.EMFILE),
}


@dataclass(frozen=True)
class History:
    """The file operations of a training run, and the files before and after it."""

    operations: list[Operation]
    before: Path
    after: Path
    recipe: Recipe
    overwrite: bool


def main(folder: Path, kind: str, shard: int, shards: int, stride: int) -> None:
    """Injects the faults of a shard and prints their outcomes."""
    folder.mkdir(parents=True)
    devices.configure_process(commands.COMPILED)
    injector = Injector(folder, load_dataset("digits"))
    _trace_once()
    starting.end()  # As in a command, errors in Orbax's threads are suppressed.
    for number, fault in enumerate(getattr(injector, kind)()):
        if number % stride == 0 and number // stride % shards == shard:
            sys.stdout.write(json.dumps(fault()) + "\n")
            sys.stdout.flush()


def _trace_once() -> None:
    """Makes all trainers of a recipe share traced functions; tracing takes most of the time."""
    for module, name in (
        (trainer, "_compile_run"),
        (trainer, "_initial_state"),
        (trainer, "abstract_model"),
        (evaluation, "exact"),
    ):
        make, made = getattr(module, name), dict[str, Any]()

        def once(*arguments: Any, make: Any = make, made: Any = made, **named: Any) -> Any:
            key = repr((arguments, named))
            if key not in made:
                made[key] = make(*arguments, **named)
            return made[key]

        setattr(module, name, once)


class Injector:
    """Yields faults, each as a function that injects it and returns the outcome."""

    def __init__(self, folder: Path, dataset: Dataset):
        self._folder, self._dataset = folder, dataset
        self._run, self._log = folder / "run", folder / "log"
        self._library = ctypes.CDLL(None)

    def errors(self) -> Iterator[Any]:
        """Every operation of a new run, with every error."""
        fresh, *_ = self._histories()
        for operation in fresh.operations:
            for number in _ERRORS[operation.what]:
                yield partial(self._fail, fresh, operation, number)

    def commands(self) -> Iterator[Any]:
        """Every kind of operation of a new run of the command, with every error."""
        fresh, *_ = self._histories()
        kinds = {re.sub(r"\d+", "#", operation.name): operation for operation in fresh.operations}
        for operation in kinds.values():
            for number in _ERRORS[operation.what]:
                yield partial(self._fail, fresh, operation, number, command=True)

    def kills(self) -> Iterator[Any]:
        """After every operation of a new run."""
        fresh, *_ = self._histories()
        disk = Disk(fresh.operations, fresh.before)
        for after in range(len(fresh.operations) + 1):
            yield lambda after=after: self._replay(fresh, f"kill {after}", disk.kill(after))

    def crashes(self) -> Iterator[Any]:
        """At random moments of a new run, of a resumed run, and of one that starts again."""
        for seed, history in enumerate(self._histories()):
            disk = Disk(history.operations, history.before)
            for what, files in disk.crashes(CRASHES, seed):
                yield partial(self._replay, history, f"crash {seed}: {what}", files)

    def _histories(self) -> list[History]:
        longer = dataclasses.replace(RECIPE, epochs=4)
        other = dataclasses.replace(RECIPE, learning_rate=2 * RECIPE.learning_rate)
        empty, three = self._folder / "empty", self._folder / "three"
        empty.mkdir()
        self._train(empty, RECIPE)  # So that the programs have been compiled.
        shutil.rmtree(empty)
        empty.mkdir()
        return [
            self._history(empty, three, RECIPE),
            self._history(three, self._folder / "four", longer),
            self._history(three, self._folder / "other", other, overwrite=True),
        ]

    def _history(
        self, before: Path, after: Path, recipe: Recipe, *, overwrite: bool = False
    ) -> History:
        self._start_from(before)
        with self._intercepting():
            self._train(self._run, recipe, overwrite=overwrite)
        operations = read_log(self._log, self._run)
        shutil.copytree(self._run, after)
        return History(operations, before, after, recipe, overwrite)

    def _fail(
        self, history: History, operation: Operation, number: int, *, command: bool = False
    ) -> dict[str, Any]:
        """Makes an operation fail, with retries: TensorStore's operations vary between runs."""
        for _ in range(_TRIES):
            outcome = self._fail_once(history, operation, number, command=command)
            if outcome["seconds"] is not None:
                break
        return outcome

    def _fail_once(
        self, history: History, operation: Operation, number: int, *, command: bool
    ) -> dict[str, Any]:
        self._start_from(history.before)
        fault = {"FILE_OPERATIONS_AT": operation.name, "FILE_OPERATIONS_ERROR": str(number)}
        ended = "trained"
        with self._intercepting(fault):
            if command:
                ended = self._train_by_command() or ended
            else:
                try:
                    self._train(self._run, history.recipe, overwrite=history.overwrite)
                except Failure as failure:
                    ended = str(failure)
        now = time.time()
        faults = [one.offset for one in read_log(self._log, self._run) if one.what == "fault"]
        return {
            "error": errno.errorcode.get(number, "short writes"),
            "fault": operation.name,
            "ended": ended,
            "seconds": now - faults[0] / 1000 if faults else None,
            "difference": self._difference_after_resuming(history),
        }

    def _replay(
        self, history: History, fault: str, files: dict[str, bytes | None]
    ) -> dict[str, Any]:
        shutil.rmtree(self._run)
        write_files(files, self._run)
        return {"fault": fault, "difference": self._difference_after_resuming(history)}

    def _difference_after_resuming(self, history: History) -> str:
        """How the resumed run differs from what it should be; empty if it does not."""
        try:
            try:
                self._train(self._run, history.recipe)
            except UsageError:  # The run of the other recipe is still there, at least in part.
                self._train(self._run, history.recipe, overwrite=True)
            for seed in SEEDS:
                assert_same_run(self._run / f"seed-{seed}", history.after / f"seed-{seed}")
        except (Failure, AssertionError) as error:
            return f"{type(error).__name__}: {error}"
        return ""

    def _start_from(self, before: Path) -> None:
        if self._run.exists():
            shutil.rmtree(self._run)
        shutil.copytree(before, self._run)

    @contextlib.contextmanager
    def _intercepting(self, fault: dict[str, str] | None = None) -> Iterator[None]:
        """Logs the file operations in the run directory, and lets one of them fail."""
        self._log.unlink(missing_ok=True)
        self._log.touch()
        self._library.begin_run()
        settings = {
            "FILE_OPERATIONS_ROOT": str(self._run),
            "FILE_OPERATIONS_LOG": str(self._log),
            **(fault or {}),
        }
        os.environ.update(settings)
        try:
            yield
        finally:
            for name in settings:
                del os.environ[name]

    def _train_by_command(self) -> str:
        """The last line of a command's error output if it fails, else nothing."""
        (self._folder / "recipe.json").write_text(RECIPE.to_json())
        done = commands.run(
            self._folder,
            "mnist_jax.train",
            f"--config={self._folder / 'recipe.json'}",
            f"--dataset={RECIPE.dataset}",
            f"--workdir={self._run}",
            f"--num_seeds={len(SEEDS)}",
            "--save_every=0",
        )
        assert done.returncode in (0, 1), done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        return done.stderr.splitlines()[-1] if done.returncode else ""

    def _train(self, folder: Path, recipe: Recipe, *, overwrite: bool = False) -> None:
        """Trains as the command does, seeds together if possible."""
        runs = [RunDirectory(folder / f"seed-{seed}") for seed in SEEDS]
        recipes = [dataclasses.replace(recipe, seed=seed) for seed in SEEDS]
        todo = [
            (one, run)
            for one, run in zip(recipes, runs, strict=True)
            if overwrite or not run.finished(one)
        ]
        together: Iterable[list[int]] = [list(range(len(todo)))]
        if not overwrite:
            together = groups([run for _, run in todo])
        for group in together:
            pairs = [todo[index] for index in group]
            train(pairs, self._dataset, save_every=0, overwrite=overwrite)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:]))
