"""Training of a row's seeds to the end, which yields their records; and where their files are."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from experiments.evidence import records
from experiments.evidence.records import Record
from experiments.evidence.rows import Article, Row
from experiments.evidence.steps import Steps
from mnist_jax.cli.signals import Stop, in_thread
from mnist_jax.data import Dataset, load_dataset
from mnist_jax.recipe import Recipe
from mnist_jax.runs.directory import RunDirectory
from mnist_jax.runs.network import load_run
from mnist_jax.training.schedule import Schedule
from mnist_jax.training.session import OpenListener
from mnist_jax.training.session import train as train_runs

WORKDIR = Path("runs/experiments")


@dataclass(frozen=True)
class Places:
    """Locations of files.

    Attributes:
      workdir: folder of the run directories, `ARTICLE/ROW/seed-N`.
      results: folder of the records.
      data_dir: where to look for a dataset first; None for the default places only.
    """

    workdir: Path = WORKDIR
    results: Path = records.RESULTS
    data_dir: Path | None = None

    def run_directory(self, article: str, row: str, seed: int) -> RunDirectory:
        """The run directory of a row's seed, by their names."""
        return RunDirectory(self.workdir / article / row / f"seed-{seed}")

    def records(self, article: Article, row: Row, framework: str = "jax") -> list[Record]:
        """A row's records, read from disk every time, since other processes append.

        Raises:
          Failure: one is damaged, or was made with another recipe than the row's.
        """
        found = records.load(article.name, self.results)
        return records.of_row(found, row.id, row.recipe, framework)

    def dataset(self, name: str) -> Dataset:
        """A dataset, read only once."""
        return _dataset(name, self.data_dir)


_dataset = cache(load_dataset)


def train(
    places: Places,
    article: Article,
    row: Row,
    recipes: Sequence[Recipe],
    *,
    listeners: Iterable[OpenListener],
    stop: Stop,
    num_devices: int | None = None,
) -> Iterator[Record]:
    """Trains or resumes several seeds of one row together.

    Args:
      places: locations of files.
      article: the article of the row.
      row: the row.
      recipes: the row's recipe with each of the seeds.
      listeners: open listeners for progress and evaluations.
      stop: whether to save and stop early.
      num_devices: number of devices; by default as many as divide the work.

    Yields:
      The runs' records, not yet stored.

    Raises:
      Stopped, UsageError, Busy, Failure: as `mnist_jax.training.session.train`.
    """
    dataset = places.dataset(row.recipe.dataset)
    pairs = [
        (recipe, places.run_directory(article.name, row.id, recipe.seed)) for recipe in recipes
    ]
    # A finished run without a record was interrupted in between.
    if unfinished := [pair for pair in pairs if not pair[1].finished(pair[0])]:
        in_thread(
            train_runs, unfinished, dataset, listeners=listeners, num_devices=num_devices, stop=stop
        )
    schedule = Schedule.of_images(row.recipe, len(dataset.train))
    for recipe, run in pairs:
        result, environment = run.result(), run.environment()
        assert result is not None
        shares = None
        if article.averaged(row):
            shares = load_run(run.path).probabilities(dataset.test.images)
        yield Record.of_run(
            recipe,
            run.metrics(),
            result["selected_step"],
            run.predictions(),
            dataset.test.labels,
            environment,
            article=article.name,
            row=row.id,
            framework="jax",
            seconds=result["seconds"],
            steps=Steps.of_log(run.steps(), schedule),
            probabilities=shares,
        )
