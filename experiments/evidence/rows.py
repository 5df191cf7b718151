"""What an article is to the experiments: recipes with the figures published of them.

Every file of `experiments` that defines `ARTICLE` is an article, found by being here.
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

# The verdict on a row of which nothing was published, as of an exercise.
NO_FIGURE = "none"


@dataclass(frozen=True, kw_only=True)
class Curve:
    """What an article shows of a run's course.

    Attributes:
      column: what it is of: `train_loss`, `train_accuracy` or `test_accuracy`.
      printed: its values after each epoch, from the first on, as they are printed, in the article's
        unit; none where the article has only a picture.
      scale: ours is multiplied by it to get the article's unit.
    """

    column: str
    printed: Sequence[str] = ()
    scale: float = 1.0

    @property
    def values(self) -> list[float]:
        """What is printed, as numbers."""
        return [float(text) for text in self.printed]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A published figure.

    Attributes:
      printed: as it is printed.
      value: the same as a test accuracy in percent; None where it is something else.
      rounding: half a unit of the value's last digit, in percentage points; a whole unit where the
        article calls it approximate.
      framework: what it was measured with; empty where nothing was.
      runs: how many it is the mean of.
      best_of: of how many runs it is the one with the best validation accuracy.
      selection: how its author chose the epoch and run that it reports, of the training batches or
        epochs where it is about those.
      source: where it stands.
      untested: what is said of it instead of a verdict where it has no value and is not about
        batches or a curve; `NO_FIGURE` if it stands for there being no figure.
      batches_from: the accuracy in percent that training batches do not fall below after the first
        epoch; None where it does not speak of them.
      curve_epoch: the epoch after which it is the value of the row's first curve, whose verdict it
        has; None where it is not.
      exceeds: the accuracy in percent that it says is exceeded, where that gets no verdict.
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
    """A recipe and the published figures that are said to come from it.

    Attributes:
      id: its name within the article.
      recipe: the protocol, with the seed at 0.
      figures: at least one, the article's own first.
      epoch: the epoch the figures were printed after; None for the one the recipe selects.
      jumps: whether accuracies jump from epoch to epoch, so that they are not normal and those of
        the second half of all runs say where one more ends.
      curves: what is shown of the run's course.
      iterations: over how many iterations each value of the article's picture of training is a
        mean; 0 where it has none.
      seeds: how many it is to have.
      note: what a reader of the comparison must know besides.
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
    """Networks that vote, and the published figures of it.

    Attributes:
      id: its name within the article.
      members: the row whose networks vote.
      size: how many vote: the seeds from 0 on.
      figures: as of `Row`.
      vote: by their labels' majority, or by the mean of their probabilities.
    """

    id: str
    members: str
    size: int
    figures: Sequence[Figure]
    vote: Literal["majority", "mean"] = "majority"

    @property
    def description(self) -> str:
        """Who votes."""
        return f"{self.vote} of {self.size} `{self.members}`"


@dataclass(frozen=True)
class Ablation:
    """Two of our own variants, to be compared on the seeds they share.

    Attributes:
      question: what the difference answers.
      first: a row, as `article/row`.
      second: the row it is compared with.
      note: what explains the difference.
      measure: what of a run is compared: the test accuracy that counts; the one after the first
        epoch; or its fluctuation, the standard deviation of the test accuracies after every epoch
        of the second half.
    """

    question: str
    first: str
    second: str
    note: str = ""
    measure: Literal["accuracy", "first_epoch", "fluctuation"] = "accuracy"


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What an article says that its training took.

    Attributes:
      row: of the article, what was trained.
      what: time of an epoch, or memory of the device.
      printed: as it is printed.
      machine: where it was measured.
      source: where it stands.
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
      letter: what other files call it.
      title: with its author.
      rows: its recipes with their figures.
      ensembles: its votes.
      ablations: of its variants, compared.
      costs: what its training took.
      notes: what it shows that can't be compared in numbers.
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
        """The row of that name.

        Raises:
          UsageError: there is none.
        """
        for row in self.rows:
            if row.id == identifier:
                return row
        for ensemble in self.ensembles:
            if ensemble.id == identifier:
                raise UsageError(
                    f"{self.name}/{identifier} is a vote of trained networks; give the row that"
                    f" they are of, {self.name}/{ensemble.members}."
                )
        names = ", ".join(row.id for row in self.rows)
        raise UsageError(f"{self.name} has no row {identifier!r}; its rows are {names}.")

    def trained(self, identifier: str) -> Row:
        """The row to train for a row or an ensemble of that name: of an ensemble, its members'.

        Raises:
          UsageError: there is none.
        """
        members = {ensemble.id: ensemble.members for ensemble in self.ensembles}
        return self.row(members.get(identifier, identifier))


def no_figure(what: str, source: str) -> Sequence[Figure]:
    """The figures of a row of which none is published, with what there is instead."""
    return (unmeasured(f"{what}, no figure", source, NO_FIGURE),)


def unmeasured(printed: str, source: str, untested: str, exceeds: float | None = None) -> Figure:
    """What an article says of a row without having measured it there."""
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
    """The recipe with some values changed; `model_args` are added to its own."""
    if "model_args" in values:
        values["model_args"] = {**recipe.model_args, **values["model_args"]}  # type: ignore[dict-item]
    return dataclasses.replace(recipe, **values)  # type: ignore[arg-type]


def find(name: str) -> Row:
    """The row called `article/row`.

    Raises:
      UsageError: there is none.
    """
    articles = {article.name: article for article in all_articles()}
    article, _, row = name.partition("/")
    if article not in articles:
        raise UsageError(
            f"There is no article {article!r}; give ARTICLE/ROW, of one of {', '.join(articles)}."
        )
    return articles[article].row(row)


def all_articles() -> list[Article]:
    """Every article, by letter."""
    scripts = sorted(Path(__file__).parents[1].glob("*.py"))
    # Judged by its text, because importing every script would define every script's flags.
    names = [path.stem for path in scripts if re.search(r"^ARTICLE\b", path.read_text(), re.M)]
    articles = [import_module(f"experiments.{name}").ARTICLE for name in names]
    return sorted(articles, key=lambda article: article.letter)
