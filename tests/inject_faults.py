"""Trains two seeds over and over, with a fault each time.

A process to be run with the library of `file_operations` preloaded:
`python tests/inject_faults.py FOLDER WHAT SHARE OF SAMPLE` prints a line of JSON for every fault:
which it was and its error, how the run ended and how many seconds later (null: it never happened),
and in what the run that then goes on differs from one that was left alone. WHAT is
  errors: every operation fails once with each error number that it can have;
  commands: the same to a command line, for one of all operations that differ in seed and step only;
  kills: the process is killed after every operation;
  crashes: the power is lost after some operations.
It takes one fault of every SAMPLE, and of these one of every OF, from SHARE on.

But for `commands`, training is repeated within one process, which makes this affordable. What a
process leaves that is killed is what its operations before left: that is written as its files.
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

# Three steps, an evaluation and a checkpoint after each, so that old checkpoints are removed.
RECIPE = dataclasses.replace(
    model_entry("dense").recipe, dataset="digits", batch_size=1500, epochs=3
)
SEEDS = (0, 1)
CRASHES = 400  # Of each of the three histories.

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
    """Operations on the files of a run, and what was there before and is there after it."""

    operations: list[Operation]
    before: Path
    after: Path
    recipe: Recipe
    overwrite: bool


def main(folder: Path, what: str, share: int, of: int, sample: int) -> None:
    """Prints the outcome of every fault."""
    folder.mkdir(parents=True)
    devices.configure_process(commands.COMPILED)
    injector = Injector(folder, load_dataset("digits"))
    _trace_once()
    starting.end()  # As a command line, it passes over what Orbax's threads have to say.
    for number, fault in enumerate(getattr(injector, what)()):
        if number % sample == 0 and number // sample % of == share:
            sys.stdout.write(json.dumps(fault()) + "\n")
            sys.stdout.flush()


def _trace_once() -> None:
    """Has all trainers of a recipe share their functions; tracing them is most of the time."""
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
    """Makes the faults; each is a function that returns its outcome."""

    def __init__(self, folder: Path, dataset: Dataset):
        self._folder, self._dataset = folder, dataset
        self._run, self._log = folder / "run", folder / "log"
        self._library = ctypes.CDLL(None)

    def errors(self) -> Iterator[Any]:
        """Every operation of a fresh run, with every error."""
        fresh, *_ = self._histories()
        for operation in fresh.operations:
            for number in _ERRORS[operation.what]:
                yield partial(self._fail, fresh, operation, number)

    def commands(self) -> Iterator[Any]:
        """Every kind of operation of a fresh run of the command, with every error."""
        fresh, *_ = self._histories()
        kinds = {re.sub(r"\d+", "#", operation.name): operation for operation in fresh.operations}
        for operation in kinds.values():
            for number in _ERRORS[operation.what]:
                yield partial(self._fail, fresh, operation, number, command=True)

    def kills(self) -> Iterator[Any]:
        """After every operation of a fresh run."""
        fresh, *_ = self._histories()
        disk = Disk(fresh.operations, fresh.before)
        for after in range(len(fresh.operations) + 1):
            yield lambda after=after: self._replay(fresh, f"kill {after}", disk.kill(after))

    def crashes(self) -> Iterator[Any]:
        """At some moments of a fresh run, of one that goes on, and of one that starts again."""
        for seed, history in enumerate(self._histories()):
            disk = Disk(history.operations, history.before)
            for what, files in disk.crashes(CRASHES, seed):
                yield partial(self._replay, history, f"crash {seed}: {what}", files)

    def _histories(self) -> list[History]:
        longer = dataclasses.replace(RECIPE, epochs=4)
        other = dataclasses.replace(RECIPE, learning_rate=2 * RECIPE.learning_rate)
        empty, three = self._folder / "empty", self._folder / "three"
        empty.mkdir()
        self._train(empty, RECIPE)  # Compiles.
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
        with self._watched():
            self._train(self._run, recipe, overwrite=overwrite)
        operations = read_log(self._log, self._run)
        shutil.copytree(self._run, after)
        return History(operations, before, after, recipe, overwrite)

    def _fail(
        self, history: History, operation: Operation, number: int, *, command: bool = False
    ) -> dict[str, Any]:
        """Tries more than once: TensorStore does not write in as many steps every time."""
        for _ in range(_TRIES):
            outcome = self._try_to_fail(history, operation, number, command=command)
            if outcome["seconds"] is not None:
                break
        return outcome

    def _try_to_fail(
        self, history: History, operation: Operation, number: int, *, command: bool
    ) -> dict[str, Any]:
        self._start_from(history.before)
        fault = {"FILE_OPERATIONS_AT": operation.name, "FILE_OPERATIONS_ERROR": str(number)}
        ended = "trained"
        with self._watched(fault):
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
            "difference": self._difference_after_going_on(history),
        }

    def _replay(
        self, history: History, fault: str, files: dict[str, bytes | None]
    ) -> dict[str, Any]:
        shutil.rmtree(self._run)
        write_files(files, self._run)
        return {"fault": fault, "difference": self._difference_after_going_on(history)}

    def _difference_after_going_on(self, history: History) -> str:
        """In what a run that goes on ends otherwise than it should; empty if in nothing."""
        try:
            try:
                self._train(self._run, history.recipe)
            except UsageError:  # Here is still the run of another recipe, or what is left of it.
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
    def _watched(self, fault: dict[str, str] | None = None) -> Iterator[None]:
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
        """What a command line says last that fails; nothing if it does not."""
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
        """What the command does: those together that can be."""
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
            pairs = [todo[place] for place in group]
            train(pairs, self._dataset, save_every=0, overwrite=overwrite)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:]))
