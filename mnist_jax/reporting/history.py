"""What the files of runs tell: recipe, metrics, result and environment."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from mnist_jax import measures
from mnist_jax.errors import Failure, UsageError
from mnist_jax.measures import Course
from mnist_jax.recipe import Recipe
from mnist_jax.runs.checkpoints import Checkpoints
from mnist_jax.runs.directory import RunDirectory
from mnist_jax.runs.metrics import Evaluation


@dataclass(frozen=True)
class History:
    """A run so far.

    Attributes:
      directory: its files.
      recipe: with its seed.
      environment: what it ran in.
      rows: of `metrics.jsonl`.
      steps: of `steps.f32`; None where an older version kept none.
      result: None while it has not ended.
      has_network: whether there is a checkpoint.
    """

    directory: RunDirectory
    recipe: Recipe
    environment: Mapping[str, Any]
    rows: Sequence[Evaluation]
    steps: np.ndarray | None
    result: Mapping[str, Any] | None
    has_network: bool

    @classmethod
    def read(cls, directory: RunDirectory) -> Self:
        """Reads a run's files, though not its checkpoints.

        Raises:
          Failure: there is no run, or a file is damaged.
        """
        return cls(
            directory,
            directory.recipe(),
            directory.environment(),
            directory.metrics(),
            directory.steps(),
            directory.result(),
            bool(Checkpoints(directory.checkpoints).steps()),
        )

    @property
    def counted(self) -> Evaluation | None:
        """The evaluation that counts: the selected one, else the latest; None before the first."""
        if self.result is None:
            return self.rows[-1] if self.rows else None
        step = self.result["selected_step"]
        return next((row for row in self.rows if row.step == step), None)

    def every_step(self) -> tuple[Course, Course] | None:
        """Loss and accuracy on the batch of every step that is known; None if none is."""
        if self.steps is None:
            return None
        known = np.flatnonzero(~np.isnan(self.steps[:, 0]))
        if not known.size:
            return None
        loss, accuracy = self.steps[known].T
        return Course(known + 1, loss), Course(known + 1, accuracy)

    def by_step(self, column: str) -> Course:
        """A column of the metrics against the step."""
        return Course(
            np.asarray([row.step for row in self.rows]),
            np.asarray([getattr(row, column) for row in self.rows]),
        )

    def by_epoch(self, column: str) -> Course:
        """A column of the metrics after every epoch, means of the whole epoch for training."""
        last = self.rows[-1]
        return measures.by_epoch(
            [row.step for row in self.rows],
            [getattr(row, column) for row in self.rows],
            round(last.step / last.epoch),
            mean=column.startswith("train_"),
        )


def read_histories(folders: Sequence[Path]) -> list[History]:
    """Reads runs of one recipe from their directories, or from parents of `seed-N` directories.

    Returns:
      The runs that have an evaluation or a checkpoint, in order of seed.

    Raises:
      UsageError: they differ in more than their seed, or two have the same.
      Failure: a folder has no run, a file is damaged, or no run has anything to show yet.
    """
    once: dict[Path, RunDirectory] = {}  # However often, and by whichever names, one is given.
    for folder in folders:
        for directory in _directories(folder):
            once.setdefault(directory.path.resolve(), directory)
    runs = [*map(History.read, once.values())]
    first = runs[0]
    for run in runs[1:]:
        values, others = (dataclasses.asdict(one.recipe) for one in (first, run))
        different = [
            f"{name} {values[name]!r} and {others[name]!r}"
            for name in values
            if name != "seed" and values[name] != others[name]
        ]
        if different:
            raise UsageError(
                f"The runs in {first.directory.path} and {run.directory.path} have"
                f" {', '.join(different)}; give runs that differ in their seed alone."
            )
    by_seed = {run.recipe.seed: run.directory.path for run in runs}
    for run in runs:
        if (other := by_seed[run.recipe.seed]) != run.directory.path:
            raise UsageError(
                f"The runs in {run.directory.path} and {other} are both of seed"
                f" {run.recipe.seed}; give runs that differ in their seed."
            )
    if shown := [run for run in runs if run.rows or run.has_network]:
        return sorted(shown, key=lambda run: run.recipe.seed)
    raise Failure(
        f"The run in {first.directory.path} has no evaluation and no checkpoint yet;"
        " wait for the end of its first epoch."
    )


def _directories(folder: Path) -> list[RunDirectory]:
    if (folder / "config.json").exists():
        return [RunDirectory(folder)]
    if below := [path.parent for path in sorted(folder.glob("seed-*/config.json"))]:
        return [RunDirectory(path) for path in below]
    raise Failure(
        f"{folder} has neither a run nor seed-N folders with runs;"
        " give the --workdir of a training."
    )
