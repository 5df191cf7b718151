"""Reading the files of runs: recipe, metrics, result and environment."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from mnist_jax import measures
from mnist_jax.errors import Failure, UsageError
from mnist_jax.measures import Series
from mnist_jax.recipe import Recipe
from mnist_jax.runs.checkpoints import Checkpoints
from mnist_jax.runs.directory import RunDirectory
from mnist_jax.runs.metrics import Evaluation
from mnist_jax.training.schedule import Schedule


@dataclass(frozen=True)
class History:
    """A run so far.

    Attributes:
      directory: its files.
      recipe: its recipe, with the seed.
      environment: the content of `environment.json`.
      rows: the rows of `metrics.jsonl`.
      steps: the content of `steps.f32`; None if an older version wrote none.
      result: the content of `result.json`; None while the run has not ended.
      has_network: whether a checkpoint was written to its end.
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
        """Reads a run's files, except its checkpoints.

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
            bool(Checkpoints(directory.checkpoints).complete()),
        )

    @property
    def counted(self) -> Evaluation | None:
        """The selected evaluation, or else the latest; None before the first."""
        if self.result is None:
            return self.rows[-1] if self.rows else None
        step = self.result["selected_step"]
        return next((row for row in self.rows if row.step == step), None)

    def every_step(self) -> tuple[Series, Series] | None:
        """Loss and accuracy on the batch of every recorded step; None if there are none."""
        if self.steps is None:
            return None
        known = np.flatnonzero(~np.isnan(self.steps[:, 0]))
        if not known.size:
            return None
        loss, accuracy = self.steps[known].T
        return Series(known + 1, loss), Series(known + 1, accuracy)

    def by_step(self, column: str) -> Series:
        """A column of the metrics against the step."""
        return Series(
            np.asarray([row.step for row in self.rows]),
            np.asarray([getattr(row, column) for row in self.rows]),
        )

    def by_epoch(self, column: str) -> Series:
        """A column of the metrics per epoch; training metrics are means over the whole epoch."""
        last, last_batch = self.rows[-1], 1.0
        if images := self.environment.get("train_images"):  # Older versions did not record it.
            schedule = Schedule.of_images(self.recipe, images)
            last_batch = schedule.images(0, schedule.steps_per_epoch)[-1] / schedule.batch_size
        return measures.by_epoch(
            [row.step for row in self.rows],
            [getattr(row, column) for row in self.rows],
            round(last.step / last.epoch),
            mean=column.startswith("train_"),
            last_batch=last_batch,
        )


def read_histories(folders: Sequence[Path]) -> list[History]:
    """Reads runs of one recipe from their directories, or from parents of `seed-N` directories.

    Returns:
      The runs that have an evaluation or a checkpoint, in order of seed.

    Raises:
      UsageError: they differ in more than their seed, or two have the same seed.
      Failure: a folder has no run, a file is damaged, or no run has anything to show yet.
    """
    once: dict[Path, RunDirectory] = {}  # A directory may be given repeatedly, by several names.
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
                f" {', '.join(different)}; give runs that differ only in their seed."
            )
    by_seed = {run.recipe.seed: run.directory.path for run in runs}
    for run in runs:
        if (other := by_seed[run.recipe.seed]) != run.directory.path:
            raise UsageError(
                f"The runs in {run.directory.path} and {other} both have seed"
                f" {run.recipe.seed}; give runs that differ in their seed."
            )
    if shown := [run for run in runs if run.rows or run.has_network]:
        return sorted(shown, key=lambda run: run.recipe.seed)
    raise Failure(
        f"The run in {first.directory.path} has no evaluation and no checkpoint yet;"
        " wait until its first epoch has ended."
    )


def _directories(folder: Path) -> list[RunDirectory]:
    if (folder / "config.json").exists():
        return [RunDirectory(folder)]
    if below := [path.parent for path in sorted(folder.glob("seed-*/config.json"))]:
        return [RunDirectory(path) for path in below]
    raise Failure(
        f"{folder} has neither a run nor seed-N folders with runs;"
        " give the --workdir of a training run."
    )
