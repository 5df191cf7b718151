"""The command line of every article: trains and records the missing seeds of its rows."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import jax
from absl import flags
from rich.console import Console
from rich.table import Table

from experiments.evidence import durations, records, text, training
from experiments.evidence.records import Record
from experiments.evidence.results import Results
from experiments.evidence.rows import Article, Ensemble, Row, all_articles
from experiments.evidence.training import Places
from experiments.references import require_torch
from mnist_jax import cli
from mnist_jax.cli import display, streams
from mnist_jax.cli.signals import Stop, stopping
from mnist_jax.errors import UsageError
from mnist_jax.files import cache_folder
from mnist_jax.recipe import Recipe
from mnist_jax.runs.directory import RunDirectory
from mnist_jax.runs.environment import describe_environment
from mnist_jax.training import devices
from mnist_jax.training.session import groups

_EXPERIMENT = flags.DEFINE_list(
    "experiment", None, "Rows to train, or `all`; without it, the rows are listed."
)
_NUM_SEEDS = flags.DEFINE_integer(
    "num_seeds", None, "Seeds per row; by default as given in the article's file.", 1
)
_LIST = flags.DEFINE_bool("list", False, "List the rows with their recorded seeds and exit.")
_FIRST_SEED = flags.DEFINE_integer("first_seed", 0, "First of these seeds.", 0)
_TOGETHER = flags.DEFINE_integer(
    "seeds_together", None, "Seeds trained at a time; by default one per device.", 1
)
_FRAMEWORK = flags.DEFINE_enum(
    "framework",
    "jax",
    ("jax", "torch"),
    "What to train: this project's network or the author's in PyTorch.",
)
_DATA_DIR = cli.define_path("data_dir", None, "Where to look for the dataset first.")
_WORKDIR = cli.define_path("workdir", training.WORKDIR, "Directory of the run directories.")
_RESULTS = cli.define_path("results", records.RESULTS, "Directory of the records.")
# At most this many missing seeds are considered when choosing those to train together.
_CONSIDERED = 100

_Train = Callable[[Console, Article, Row, Sequence[Recipe]], Iterator[Record]]


def run(article: Article) -> None:
    """Runs an article's script: parses the flags and acts on them."""
    cli.run(partial(_main, article))


def _main(article: Article, argv: Sequence[str]) -> None:
    del argv
    out = display.console()
    names = _EXPERIMENT.value
    given = [f"--{flag.name}" for flag in (_NUM_SEEDS, _FIRST_SEED, _TOGETHER) if flag.present]
    if given and not names:
        raise UsageError(f"{given[0]} is for training; add --experiment=ROW, or all.")
    if _LIST.value or not names:
        _list_rows(out, article)
        streams.delivered()
        return
    rows = article.rows if names == ["all"] else [_row(out, article, name) for name in names]
    if _FRAMEWORK.value == "torch":
        rows = list(_known_to_torch(out, article, rows, named=names != ["all"]))
        _run_rows(out, article, rows, 1, _train_torch)
        return
    # The first row with something to train decides; resumed runs of others may differ in rounding.
    todo = next((r for row in rows if (r := _missing_runs(article, row))), [])
    begun = next((run.device() for run in todo if run.parts()), {})
    devices.configure_process(cache_folder() / "compiled", like=begun)
    with stopping() as stop:
        _run_rows(out, article, rows, _TOGETHER.value or len(jax.devices()), partial(_train, stop))


def _row(out: Console, article: Article, name: str) -> Row:
    """The row with this name; for an ensemble, which is not trained itself, its members' row."""
    row = article.trained(name)
    for ensemble in article.ensembles:
        if ensemble.id == name:
            seeds = f"seeds 0 to {ensemble.size - 1}"
            out.print(f"{article.name}/{name} is the {ensemble.description}, {seeds}.")
    return row


def _known_to_torch(
    out: Console, article: Article, rows: Iterable[Row], *, named: bool
) -> Iterator[Row]:
    """Yields the rows that PyTorch can train, and prints which others are left out.

    Raises:
      UsageError: a row given by name is not one of them.
    """
    require_torch()
    from experiments.references import torch_runs

    for row in rows:
        try:
            torch_runs.check(row.recipe)
        except UsageError as error:
            if named:
                raise
            out.print(f"{article.name}/{row.id} is left out. {error}")
        else:
            yield row


def _run_rows(
    out: Console, article: Article, rows: Sequence[Row], together: int, train_seeds: _Train
) -> None:
    """Trains and records the missing seeds of each row, `together` at a time."""
    for row in rows:
        if not _missing(article, row, 1):
            out.print(f"{article.name}/{row.id}: all of these seeds are recorded.")
        elif _FRAMEWORK.value == "jax":
            # Damaged records of another article do not matter here.
            known = Results.usable(all_articles(), _RESULTS.value)
            if seconds := durations.on_a_core(known, row):
                out.print(
                    f"{article.name}/{row.id}: a seed may take {text.duration(seconds)} on a CPU"
                    " core"
                )
        records.require_writable(_RESULTS.value)
        # Read again every time, because other processes append too.
        while missing := _missing(article, row, max(together, _CONSIDERED)):
            out.print(f"{article.name}/{row.id}: seeds to run {[r.seed for r in missing]}")
            places = _places()
            (first, *_) = groups(
                [places.run_directory(article.name, row.id, r.seed) for r in missing]
            )
            most = (
                1 if row.recipe.patience else together
            )  # With patience, seeds end at different epochs.
            for record in train_seeds(out, article, row, [missing[i] for i in first[:most]]):
                if records.append(record, _RESULTS.value):  # False if another process was faster.
                    out.print(f"{article.name}/{row.id} seed {record.seed}: {record.accuracy:.2f}%")


def _missing(article: Article, row: Row, most: int) -> list[Recipe]:
    """The row's recipe with each of the first `most` requested seeds that have no record."""
    done = {record.seed for record in _places().records(article, row, _FRAMEWORK.value)}
    seeds = range(_FIRST_SEED.value, _FIRST_SEED.value + (_NUM_SEEDS.value or row.seeds))
    missing = itertools.islice((seed for seed in seeds if seed not in done), most)
    return [dataclasses.replace(row.recipe, seed=seed) for seed in missing]


def _missing_runs(article: Article, row: Row) -> list[RunDirectory]:
    missing = _missing(article, row, _CONSIDERED)
    return [_places().run_directory(article.name, row.id, recipe.seed) for recipe in missing]


def _train(
    stop: Stop, out: Console, article: Article, row: Row, recipes: Sequence[Recipe]
) -> Iterator[Record]:
    listener = partial(display.training, out)
    return training.train(_places(), article, row, recipes, listeners=[listener], stop=stop)


def _train_torch(
    out: Console, article: Article, row: Row, recipes: Sequence[Recipe]
) -> Iterator[Record]:
    """Trains the author's network with each recipe and yields the records."""
    from experiments.references import torch_runs

    for recipe in recipes:
        dataset = _places().dataset(recipe.dataset)
        made = torch_runs.train(out, recipe, dataset)
        yield Record.of_run(
            recipe,
            made.metrics,
            made.selected_step,
            made.predictions,
            dataset.test.labels,
            describe_environment(dataset, {}) | torch_runs.environment(),
            article=article.name,
            row=row.id,
            framework="torch",
            seconds=made.seconds,
        )


def _places() -> Places:
    return Places(_WORKDIR.value, _RESULTS.value, _DATA_DIR.value)


def _list_rows(out: Console, article: Article) -> None:
    table = Table("row", "network", "published", "seeds: jax", "torch", box=None)
    for row in article.rows:
        seeds = [
            " ".join(str(record.seed) for record in _places().records(article, row, framework))
            for framework in ("jax", "torch")
        ]
        table.add_row(row.id, row.recipe.model, _published(row), *seeds)
    for one in article.ensembles:
        table.add_row(one.id, one.description, _published(one))
    out.print(table)


def _published(entry: Row | Ensemble) -> str:
    return "; ".join(figure.printed for figure in entry.figures)
