"""The data model of an article: recipes with their published figures.

Every file in `experiments` that defines `ARTICLE` is discovered as an article.
"""

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Literal

from mnist_jax.errors import UsageError
from mnist_jax.recipe import Recipe

# The verdict on a row without a published figure, such as an exercise.
NO_FIGURE = "none"


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A training curve that an article shows.

    Attributes:
      column: the quantity: `train_loss`, `train_accuracy` or `test_accuracy`.
      printed: its values after each epoch, from the first on, as printed, in the article's unit;
        empty if the article has only a plot.
      scale: factor from our unit to the article's.
    """

    column: str
    printed: Sequence[str] = ()
    scale: float = 1.0

    @property
    def values(self) -> list[float]:
        """The printed values as numbers."""
        return [float(text) for text in self.printed]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A published figure.

    Attributes:
      printed: as printed in the source.
      value: as a test accuracy in percent; None if it is something else.
      rounding: half a unit of the value's last digit, in percentage points; a whole unit if the
        article calls it approximate.
      framework: the framework it was measured with; empty if it was not measured.
      runs: the number of runs it is the mean of.
      best_of: the number of runs among which it has the best validation accuracy.
      selection: how its author selected the epoch and run that it reports, or the training batches
        or epochs that it is about.
      source: where in the article it is found.
      untested: shown instead of a verdict if it has no value and is not about batches or a curve;
        `NO_FIGURE` if it stands for the absence of a figure.
      batches_from: the accuracy in percent below which training batches do not fall after the first
        epoch; None if it is not about batches.
      curve_epoch: the epoch at which it is a point of the row's first curve, whose verdict it gets;
        None otherwise.
      exceeds: the accuracy in percent that it claims is exceeded, if that gets no verdict.
    """

    printed: str
    value: float | None
    rounding: float = 0.005
    framework: str = "PyTorch"
    runs: int = 1
    best_of: int = 1
    selection: str
    source: str
    untested: str = ""
    batches_from: float | None = None
    curve_epoch: int | None = None
    exceeds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """A recipe and the published figures that are attributed to it.

    Attributes:
      id: its name within the article.
      recipe: the protocol, with seed 0.
      figures: at least one, the article's own first.
      epoch: the epoch after which the figures were printed; None for the one the recipe selects.
      jumps: whether accuracies jump from epoch to epoch; they are then not normal, and the interval
        comes from those of the second half of all runs.
      curves: the training curves that the article shows.
      iterations: the number of iterations over which each point of the article's training plot is
        averaged; 0 without such a plot.
      seeds: the number of seeds it is to have.
      note: additional information for readers of the comparison.
    """

    id: str
    recipe: Recipe
    figures: Sequence[Figure]
    epoch: int | None = None
    jumps: bool = False
    curves: Sequence[Curve] = ()
    iterations: int = 0
    seeds: int = 5
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """An ensemble of networks that vote, and its published figures.

    Attributes:
      id: its name within the article.
      members: the row whose networks vote.
      size: the number of voters: the seeds from 0 on.
      figures: as in `Row`.
      vote: by majority of their labels, or by the mean of their probabilities.
    """

    id: str
    members: str
    size: int
    figures: Sequence[Figure]
    vote: Literal["majority", "mean"] = "majority"

    @property
    def description(self) -> str:
        """The kind of vote and its members."""
        return f"{self.vote} of {self.size} `{self.members}`"


@dataclass(frozen=True)
class Ablation:
    """Two of our own variants, compared on the seeds they share.

    Attributes:
      question: the question that the difference answers.
      first: a row, as `article/row`.
      second: the row it is compared with.
      note: an explanation of the difference.
      measure: the quantity compared: the selected test accuracy, the test accuracy after the first
        epoch, or the fluctuation, i.e. the standard deviation of the test accuracies after every
        epoch of the second half.
    """

    question: str
    first: str
    second: str
    note: str = ""
    measure: Literal["accuracy", "first_epoch", "fluctuation"] = "accuracy"


@dataclass(frozen=True, kw_only=True)
class Cost:
    """A training cost that an article reports.

    Attributes:
      row: the row of the article that was trained.
      what: time per epoch, or device memory.
      printed: as printed in the source.
      machine: the machine it was measured on.
      source: where in the article it is found.
    """

    row: str
    what: Literal["time", "memory"]
    printed: str
    machine: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Article:
    """An article's rows.

    Attributes:
      name: the file that defines it, without `.py`.
      letter: the letter by which other files refer to it.
      title: its title, with the author.
      rows: its recipes with their figures.
      ensembles: its votes.
      ablations: comparisons of its variants.
      costs: the training costs it reports.
      notes: what it shows that can't be compared numerically.
    """

    name: str
    letter: str
    title: str
    rows: Sequence[Row]
    ensembles: Sequence[Ensemble] = ()
    ablations: Sequence[Ablation] = ()
    costs: Sequence[Cost] = ()
    notes: Sequence[str] = ()

    @property
    def entries(self) -> list[Row | Ensemble]:
        """Rows and ensembles."""
        return [*self.rows, *self.ensembles]

    def averaged(self, row: Row) -> bool:
        """Whether an ensemble takes the mean of this row's probabilities."""
        return any(one.members == row.id and one.vote == "mean" for one in self.ensembles)

    def row(self, identifier: str) -> Row:
        """The row with this name.

        Raises:
          UsageError: it does not exist.
        """
        for row in self.rows:
            if row.id == identifier:
                return row
        for ensemble in self.ensembles:
            if ensemble.id == identifier:
                raise UsageError(
                    f"{self.name}/{identifier} is a vote of trained networks; give the row that"
                    f" they belong to, {self.name}/{ensemble.members}."
                )
        names = ", ".join(row.id for row in self.rows)
        raise UsageError(f"{self.name} has no row {identifier!r}; its rows are {names}.")

    def trained(self, identifier: str) -> Row:
        """The row to train for a row's or an ensemble's name; for an ensemble, its members'.

        Raises:
          UsageError: it does not exist.
        """
        members = {ensemble.id: ensemble.members for ensemble in self.ensembles}
        return self.row(members.get(identifier, identifier))


def no_figure(what: str, source: str) -> Sequence[Figure]:
    """The figures of a row without a published one: a description of the row instead."""
    return (unmeasured(f"{what}, no figure", source, NO_FIGURE),)


def unmeasured(printed: str, source: str, untested: str, exceeds: float | None = None) -> Figure:
    """A figure that an article mentions without having measured it for this row."""
    return Figure(
        printed=printed,
        value=None,
        framework="",
        selection="",
        source=source,
        untested=untested,
        exceeds=exceeds,
    )


def changed(recipe: Recipe, **values: object) -> Recipe:
    """The recipe with some values changed; `model_args` are merged into its own."""
    if "model_args" in values:
        values["model_args"] = {**recipe.model_args, **values["model_args"]}  # type: ignore[dict-item]
    return dataclasses.replace(recipe, **values)  # type: ignore[arg-type]


def find(name: str) -> Row:
    """The row called `article/row`.

    Raises:
      UsageError: it does not exist.
    """
    articles = {article.name: article for article in all_articles()}
    article, _, row = name.partition("/")
    if article not in articles:
        raise UsageError(
            f"There is no article {article!r}; give ARTICLE/ROW, of one of {', '.join(articles)}."
        )
    return articles[article].row(row)


def all_articles() -> list[Article]:
    """All articles, in order of letter."""
    scripts = sorted(Path(__file__).parents[1].glob("*.py"))
    # Found in the source text, because importing every script would define its flags.
    names = [path.stem for path in scripts if re.search(r"^ARTICLE\b", path.read_text(), re.M)]
    articles = [import_module(f"experiments.{name}").ARTICLE for name in names]
    return sorted(articles, key=lambda article: article.letter)
