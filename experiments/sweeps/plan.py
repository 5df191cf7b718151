"""The runs of a sweep, their expected duration, and the state of each."""

import contextlib
import dataclasses
import heapq
import itertools
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from experiments.evidence import records
from experiments.evidence.rows import Article, Row
from experiments.evidence.training import Places
from mnist_jax.errors import Failure, UsageError
from mnist_jax.files import make_folder, parse_json, write_text
from mnist_jax.recipe import Recipe
from mnist_jax.runs.directory import RunDirectory

# In the run directory, beside the run's own files.
_FAILURE = "failure.json"


@dataclass(frozen=True)
class Run:
    """A seed of a row, and its run directory."""

    article: Article
    row: Row
    seed: int
    directory: RunDirectory

    @property
    def name(self) -> str:
        """Its name in messages."""
        return f"{self.row_name} seed {self.seed}"

    @property
    def row_name(self) -> str:
        """Its row, as given on the command line."""
        return row_name(self.article, self.row)

    @property
    def recipe(self) -> Recipe:
        """The row's recipe with this seed."""
        return dataclasses.replace(self.row.recipe, seed=self.seed)


@dataclass(frozen=True)
class Seeds:
    """The seeds of every row in a sweep.

    Attributes:
      first: the smallest.
      count: how many; None for the row's own number.
      fill: whether any recorded seeds count towards that number.
    """

    first: int
    count: int | None
    fill: bool

    def missing(self, row: Row, recorded: Collection[int]) -> list[int]:
        """The seeds of a row that are still to be trained, in order."""
        count = self.count or row.seeds
        free = (seed for seed in itertools.count(self.first) if seed not in recorded)
        if self.fill:
            return list(itertools.islice(free, max(0, count - len(recorded))))
        end = self.first + count
        return list(itertools.takewhile(lambda seed: seed < end, free))


@dataclass(frozen=True)
class Sweep:
    """Rows, their seeds, and where everything is stored."""

    rows: Sequence[tuple[Article, Row]]
    seeds: Seeds
    places: Places

    def recorded(self) -> dict[str, set[int]]:
        """The seeds of each row that have a record, read from the files now.

        Raises:
          Failure: a record is damaged or of another recipe than its row.
        """
        names = {article.name for article, _ in self.rows}
        found = {name: records.load(name, self.places.results) for name in names}
        return {
            row_name(article, row): {
                record.seed
                for record in records.of_row(found[article.name], row.id, row.recipe, "jax")
            }
            for article, row in self.rows
        }

    def missing(self, recorded: Mapping[str, Collection[int]]) -> list[Run]:
        """The runs without a record, row by row."""
        return [
            Run(article, row, seed, self.places.run_directory(article.name, row.id, seed))
            for article, row in self.rows
            for seed in self.seeds.missing(row, recorded[row_name(article, row)])
        ]


def row_name(article: Article, row: Row) -> str:
    """A row as given on the command line."""
    return f"{article.name}/{row.id}"


def chosen(
    articles: Sequence[Article], names: Sequence[str], everything: bool
) -> list[tuple[Article, Row]]:
    """The rows with these names, each once; an ensemble's name stands for its members' row.

    Raises:
      UsageError: a row does not exist, or none is given.
    """
    if everything == bool(names):
        raise UsageError("Give rows as ARTICLE/ROW, or --all or --missing for every row.")
    if everything:
        return [(article, row) for article in articles for row in article.rows]
    by_name = {article.name: article for article in articles}
    found = {}
    for name in names:
        article, _, row = name.partition("/")
        if article not in by_name or not row:
            known = ", ".join(f"{one.name} ({one.letter})" for one in articles)
            raise UsageError(f"{name!r} is no row; give ARTICLE/ROW, of one of {known}.")
        pair = by_name[article], by_name[article].trained(row)
        found[row_name(*pair)] = pair
    return list(found.values())


State = Literal["running", "failed", "waiting"]


@dataclass(frozen=True)
class Standing:
    """The state of a run without a record.

    Attributes:
      run: the run.
      state: `running` if a process is training it, else `failed` if the last process that did left
        a reason, else `waiting`.
      done: the fraction of its epochs up to the last evaluation, from 0 to 1.
      seconds: time left on one worker; None if unknown.
      why: the reason for a failure.
    """

    run: Run
    state: State
    done: float
    seconds: float | None
    why: str = ""


def standing(run: Run, whole: float | None) -> Standing:
    """Reads the state from the run directory; `whole` is the run's expected duration in seconds."""
    failure = failure_of(run)
    done, left = 0.0, whole
    with contextlib.suppress(Failure):  # Whoever trains the run reports this.
        if rows := run.directory.metrics():
            done = min(1.0, rows[-1].epoch / run.recipe.epochs)
            left = rows[-1].seconds / done * (1 - done) if done else whole
    if run.directory.busy():
        return Standing(run, "running", done, left)
    if failure:
        return Standing(run, "failed", done, left, failure["why"])
    return Standing(run, "waiting", done, left)


def makespan(seconds: Sequence[float], workers: int) -> float:
    """How long `workers` take if each always takes the longest remaining run."""
    ends = [0.0] * workers
    for one in sorted(seconds, reverse=True):
        heapq.heapreplace(ends, ends[0] + one)
    return max(ends)


def failure_of(run: Run) -> Mapping[str, str]:
    """The `why` and `sweep` of the last process that gave up on a run; empty if none did."""
    try:
        found = parse_json((run.directory.path / _FAILURE).read_text())
    except (OSError, ValueError):
        return {}
    names = ("sweep", "why")
    whole = isinstance(found, dict) and all(isinstance(found.get(name), str) for name in names)
    return found if whole else {}


def note_failure(run: Run, sweep: str, why: str) -> None:
    """Stores a failure for other processes; if that is impossible, they find out themselves."""
    with contextlib.suppress(OSError):
        make_folder(run.directory.path)
        write_text(run.directory.path / _FAILURE, json.dumps({"sweep": sweep, "why": why}) + "\n")


def forget_failure(run: Run) -> None:
    """Removes what `note_failure` wrote."""
    with contextlib.suppress(OSError):
        (run.directory.path / _FAILURE).unlink()
