"""The command line of every article: trains the missing seeds of its rows and records them."""

import dataclasses
from collections.abc import Iterator, Sequence
from functools import cache, partial
from pathlib import Path

import jax
from absl import flags
from rich.console import Console
from rich.table import Table

from experiments import records
from experiments.articles import Article, Row
from experiments.records import Record
from mnist_jax import cli, devices, display
from mnist_jax.config import Recipe
from mnist_jax.data import Dataset, load_dataset
from mnist_jax.data.cache import folder as cache_folder
from mnist_jax.fit import fit
from mnist_jax.runs import RunDirectory, describe_environment
from mnist_jax.trainer import Trainer

_EXPERIMENT = flags.DEFINE_list(
    "experiment", None, "Which rows; by default all. --list shows them."
)
_NUM_SEEDS = flags.DEFINE_integer("num_seeds", 5, "How many seeds of each row there shall be.", 1)
_FIRST_SEED = flags.DEFINE_integer("first_seed", 0, "The first of them.", 0)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where to look for the dataset first.")
_WORKDIR = flags.DEFINE_string("workdir", "runs/experiments", "Where the run directories live.")
_RESULTS = flags.DEFINE_string("results", str(records.RESULTS), "Where the records live.")
_LIST = flags.DEFINE_bool("list", False, "List the rows with the seeds there are, and end.")


def run(article: Article) -> None:
    """Runs an article's script: parses the flags and does what they say."""
    cli.run(partial(_main, article))


def _main(article: Article, argv: Sequence[str]) -> None:
    del argv
    out = display.console()
    results = Path(_RESULTS.value)
    if _LIST.value:
        _list_rows(out, article, records.load(article.name, results))
        return
    rows = [article.row(name) for name in _EXPERIMENT.value or [row.id for row in article.rows]]
    devices.configure_process(cache_folder() / "compiled")
    seeds = range(_FIRST_SEED.value, _FIRST_SEED.value + _NUM_SEEDS.value)
    for row in rows:
        # Read again for every row: other processes append too.
        found = records.of_row(records.load(article.name, results), row.id, row.recipe, "jax")
        done = {record.seed for record in found}
        recipes = [dataclasses.replace(row.recipe, seed=s) for s in seeds if s not in done]
        out.print(f"{article.name}/{row.id}: {len(recipes)} of {len(seeds)} seeds to run")
        for record in _train(out, article, row, recipes):
            records.append(record, results)
            out.print(f"{article.name}/{row.id} seed {record.seed}: {record.accuracy:.2f}%")


def _train(out: Console, article: Article, row: Row, recipes: Sequence[Recipe]) -> Iterator[Record]:
    """Trains one recipe's seeds, a device for each as far as that goes; yields their records."""
    together = len(jax.devices())
    while recipes:
        count = together if len(recipes) >= together else 1
        group, recipes = recipes[:count], recipes[count:]
        parent = Path(_WORKDIR.value) / article.name / row.id
        runs = [RunDirectory(parent / f"seed-{recipe.seed}") for recipe in group]
        dataset = _dataset(row.recipe.dataset)
        trainer = Trainer(row.recipe, dataset, seeds=[recipe.seed for recipe in group])
        environment = describe_environment(dataset, devices.describe(trainer.mesh))
        for directory, recipe in zip(runs, group, strict=True):
            directory.create(recipe, environment)
        with display.training(out, trainer) as report:
            results = fit(trainer, runs, report)
        for directory, recipe, result in zip(runs, group, results, strict=True):
            yield Record.of_run(
                recipe,
                directory.metrics(),
                result["selected_step"],
                directory.predictions(),
                dataset.test.labels,
                directory.environment(),
                article=article.name,
                row=row.id,
                framework="jax",
                seconds=result["seconds"],
                seeds_together=len(group),
            )


@cache
def _dataset(name: str) -> Dataset:
    return load_dataset(name, _DATA_DIR.value)


def _list_rows(out: Console, article: Article, found: Sequence[Record]) -> None:
    table = Table("row", "network", "published", "seeds: jax", "torch", box=None)
    for row in article.rows:
        seeds = [
            " ".join(str(r.seed) for r in records.of_row(found, row.id, row.recipe, framework))
            for framework in ("jax", "torch")
        ]
        table.add_row(row.id, row.recipe.model, row.published, *seeds)
    out.print(table)
