"""From articles and records to the numbers of the comparison."""

import functools
import inspect
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from experiments.evidence import records, statistics
from experiments.evidence.records import Record
from experiments.evidence.rows import Ablation, Article, Curve, Ensemble, Figure, Row
from experiments.evidence.statistics import Difference, Spread, Summary
from mnist_jax.errors import Failure
from mnist_jax.models import abstract_model, model_entry
from mnist_jax.models.summary import summarize
from mnist_jax.recipe import Recipe

# Images in the training set of MNIST and of Fashion-MNIST.
_TRAINING_IMAGES = 60_000
_PERCENT = (0.0, 100.0)
# Fewer runs than this say too little about a spread.
ENOUGH_SEEDS = 3
# Fewer runs than this are put beside the spread of their family, too.
MANY_SEEDS = 10
# The share of a run's batches, in percent, that a figure about batches has to be true of.
MOST_BATCHES = 95.0
# Frameworks whose means are less than so many points apart are as good as equal.
MARGIN = 0.1


@dataclass(frozen=True)
class Results:
    """All articles with the records of each of their rows.

    Attributes:
      articles: in order.
      runs: records by (article, row, framework), in order of seed.
    """

    articles: Sequence[Article]
    runs: Mapping[tuple[str, str, str], Sequence[Record]]

    @classmethod
    def load(cls, articles: Sequence[Article], directory: Path) -> Self:
        """Reads and checks the records.

        Raises:
          Failure: one is damaged, of another recipe than its row, or of no row.
        """
        runs = {}
        for article in articles:
            found = records.load(article.name, directory)
            if strangers := {r.row for r in found} - {row.id for row in article.rows}:
                raise Failure(
                    f"There are records of {article.name}, row {min(strangers)}, which it does not"
                    " have; remove their lines or restore the row."
                )
            for row in article.rows:
                for framework in ("jax", "torch"):
                    key = (article.name, row.id, framework)
                    runs[key] = records.of_row(found, row.id, row.recipe, framework)
        return cls(articles, runs)

    @property
    def rows(self) -> list[tuple[Article, Row]]:
        """Every row with its article."""
        return [(article, row) for article in self.articles for row in article.rows]

    @property
    def entries(self) -> list[tuple[Article, Row | Ensemble]]:
        """The rows, then the ensembles."""
        return [*self.rows, *((a, one) for a in self.articles for one in a.ensembles)]


@dataclass(frozen=True)
class Family:
    """An article's rows on one dataset, but for those that jump: what they say of their spread.

    Attributes:
      rows: those with at least two runs; two or more of them.
      runs: of all.
      spread: pooled.
      p: Levene's, of their having one spread.
    """

    rows: Sequence[str]
    runs: int
    spread: Spread
    p: float


@dataclass(frozen=True)
class Limits:
    """Where a figure would be inside, by one estimate of the spread.

    Attributes:
      interval: where a run (for a figure that is a mean, the mean of as many) falls with 95%
        probability.
      beyond: how many points from our mean a figure has to be to lie outside below, and above: to
        the end of the interval, and its rounding besides.
      verdict: as of `Comparison`.
      p: of a figure so far or farther from our mean; NaN where the interval is one of quantiles.
    """

    interval: tuple[float, float]
    beyond: tuple[float, float]
    verdict: str
    p: float


@dataclass(frozen=True)
class Comparison:
    """A published figure beside ours.

    Attributes:
      figure: what was published.
      verdict: `inside`, `above` or `below` our interval is where it lies; `not testable` if it is
        inside, but rounded more coarsely than our runs are spread; `provisional` with too few runs
        to say; what the figure says itself where it has no value; empty without runs. Of a figure
        about training batches `inside` where it is true of most in every run, else `above`.
      own: by the row's own runs; None where nothing is tested.
      pooled: by the spread of its family, for a row of few runs; None besides.
    """

    figure: Figure
    verdict: str
    own: Limits | None = None
    pooled: Limits | None = None


@dataclass(frozen=True)
class Outcome:
    """What a recipe's runs, or a vote, reached.

    Attributes:
      summary: of the test accuracies in percent; None without runs. A vote counts as one run.
      comparisons: with each of the row's figures.
      seconds: the shortest of the runs' shares of the time, evaluations included, since the machine
        did other things too; without runs from the fastest of the same network; None without those.
      device: where most of the runs were, whose times these are.
    """

    summary: Summary | None
    comparisons: Sequence[Comparison]
    seconds: float | None
    device: str


@dataclass(frozen=True)
class Point:
    """A published value of a curve beside ours.

    Attributes:
      epoch: after which.
      published: in the article's unit; None where it has only a picture.
      ours: in the same unit.
      verdict: as of `Comparison`.
    """

    epoch: int
    published: float | None
    ours: Summary
    verdict: str


@dataclass(frozen=True)
class Variants:
    """Two rows on the seeds they share.

    Attributes:
      first: what the ablation measures of the first row's runs, in percent, by shared seed.
      second: the second one's.
      difference: with the paired test; None under two shared seeds.
      changed: the fields of the recipes that differ, with the first's and the second's value.
      mcnemar: McNemar's p of the two runs of every shared seed; none on different test images, and
        where something else than the accuracy that counts is measured.
    """

    first: Sequence[float]
    second: Sequence[float]
    difference: Difference | None
    changed: Sequence[str]
    mcnemar: Sequence[float]


@dataclass(frozen=True)
class Frameworks:
    """Ours beside PyTorch, measured here.

    Attributes:
      difference: ours minus PyTorch's, with Welch's test.
      equivalence: p of the means lying `MARGIN` or farther apart, by two one-sided Welch tests.
    """

    difference: Difference
    equivalence: float


@dataclass(frozen=True)
class Selection:
    """What choosing the epoch by the test set would have bought.

    Attributes:
      n: runs.
      last: mean test accuracy in percent after the last epoch.
      validation: at the epoch of the best validation accuracy; None where there is no validation.
      test: after the epoch of the best test accuracy.
      bought: `test` of each run, above `validation` or else `last`, in points.
    """

    n: int
    last: float
    validation: float | None
    test: float
    bought: Summary


def outcome(
    results: Results, article: Article, row: Row | Ensemble, framework: str = "jax"
) -> Outcome:
    """Compares a row's runs, or an ensemble's vote, with its published figures."""
    nothing = [Comparison(figure, "") for figure in row.figures]
    if isinstance(row, Ensemble):
        reached = ensemble(results, article, row) if framework == "jax" else None
        if reached is None:
            return Outcome(None, nothing, None, "")
        vote = percentages([reached])
        compared = [Comparison(f, verdict(vote, f.value, f.rounding)) for f in row.figures]
        return Outcome(vote, compared, None, "")
    runs = results.runs[article.name, row.id, framework]
    if not runs:
        estimate = _estimate(results, row) if framework == "jax" else None
        return Outcome(None, nothing, estimate, "")
    summary = percentages([_accuracy(run, row) for run in runs])
    compared = [_compare(results, article, row, framework, summary, f) for f in row.figures]
    device = Counter(_device(run) for run in runs).most_common(1)[0][0]
    seconds = min(run.seconds / run.seeds_together for run in runs if _device(run) == device)
    return Outcome(summary, compared, seconds, device)


def percentages(accuracies: Sequence[float]) -> Summary:
    """Summarises test accuracies in percent."""
    return statistics.summarize(accuracies, _PERCENT)


def verdict(
    summary: Summary,
    value: float | None,
    rounding: float,
    interval: tuple[float, float] | None = None,
) -> str:
    """Where a published value lies, as `Comparison.verdict` says; the interval is for one run."""
    if value is None:
        return "not a claim"
    if summary.n < ENOUGH_SEEDS:
        return "provisional"
    low, high = summary.interval if interval is None else interval
    if value + rounding < low:
        return "below"
    if value - rounding > high:
        return "above"
    return "not testable" if rounding > summary.sd else "inside"


def family(results: Results, article: Article, row: Row, framework: str = "jax") -> Family | None:
    """The family of a row; None where it has none."""
    if row.jumps:
        return None
    samples = {}
    for other in article.rows:
        runs = results.runs[article.name, other.id, framework]
        if len(runs) > 1 and not other.jumps and other.recipe.dataset == row.recipe.dataset:
            samples[other.id] = [_accuracy(run, other) for run in runs]
    if len(samples) < 2:
        return None
    values = list(samples.values())
    spread, p = statistics.pooled(values), statistics.equally_spread(values)
    return Family(list(samples), sum(map(len, values)), spread, p)


def later_epochs(results: Results, article: Article, row: Row, framework: str) -> list[float]:
    """The test accuracies in percent after every epoch of the second half of all runs.

    Where they jump from epoch to epoch, which epoch is the last decides more than the seed does.
    """
    runs = results.runs[article.name, row.id, framework]
    return [100 * accuracy for run in runs for accuracy in _second_half(run)]


def points(results: Results, article: Article, row: Row, curve: Curve) -> list[Point]:
    """Compares a curve epoch by epoch; empty without runs."""
    runs = results.runs[article.name, row.id, "jax"]
    if not runs:
        return []
    ours = curve.scale * np.asarray([run.by_epoch(curve.column) for run in runs])
    published: dict[int, float] = dict(enumerate(curve.values, start=1))
    epochs = list(published) or _round_epochs(row.recipe.epochs)
    bounds = (0.0, 1.0 if curve.column.endswith("accuracy") else math.inf)
    found = []
    for epoch in epochs:
        summary = statistics.summarize(ours[:, epoch - 1].tolist(), bounds)
        value = published.get(epoch)
        found.append(Point(epoch, value, summary, verdict(summary, value, curve.rounding)))
    return found


def batches(
    results: Results, article: Article, row: Row, figure: Figure, framework: str = "jax"
) -> Summary | None:
    """In how many of a run's batches a figure about them is true, in percent.

    The first epoch is left out, since accuracy only rises to what the figure is about. None where
    the figure is of something else, or no run's steps are recorded.
    """
    if figure.batches_from is None:
        return None
    runs = results.runs[article.name, row.id, framework]
    later = [
        run.steps.accuracy[len(run.steps.right) // row.recipe.epochs :]
        for run in runs
        if run.steps is not None
    ]
    shares = [100 * float((one >= figure.batches_from).mean()) for one in later]
    return percentages(shares) if shares else None


def variants(results: Results, ablation: Ablation) -> Variants:
    """Compares two rows on the seeds they share."""
    first, second = (_runs_by_seed(results, name) for name in (ablation.first, ablation.second))
    shared = sorted(first.keys() & second.keys())
    ours, others = ([_measured(runs[s], ablation) for s in shared] for runs in (first, second))
    difference = statistics.paired(ours, others) if len(shared) > 1 else None
    recipes = [_find(results, name).recipe for name in (ablation.first, ablation.second)]
    same = recipes[0].dataset == recipes[1].dataset and ablation.measure == "accuracy"
    ps = [statistics.mcnemar(first[s].correct, second[s].correct) for s in shared if same]
    return Variants(ours, others, difference, list(_changed(*recipes)), ps)


def selection(results: Results, article: Article, row: Row) -> Selection | None:
    """What choosing by the test set would have bought; None without runs."""
    if not (runs := results.runs[article.name, row.id, "jax"]):
        return None
    courses = [100 * np.asarray(run.by_epoch("test_accuracy")) for run in runs]
    last, best = np.asarray([(one[-1], one.max()) for one in courses]).T
    chosen = last if row.recipe.selection == "last" else [run.accuracy for run in runs]
    return Selection(
        n=len(runs),
        last=float(last.mean()),
        validation=None if chosen is last else float(np.mean(chosen)),
        test=float(best.mean()),
        bought=statistics.summarize(np.subtract(best, chosen).tolist(), (-100.0, 100.0)),
    )


def cross_framework(results: Results, article: Article, row: Row) -> Frameworks | None:
    """Ours beside PyTorch's, measured here; None if either has fewer than two runs."""
    ours, theirs = (
        [_accuracy(run, row) for run in results.runs[article.name, row.id, framework]]
        for framework in ("jax", "torch")
    )
    if min(len(ours), len(theirs)) < 2:
        return None
    equivalence = statistics.equivalence(ours, theirs, MARGIN)
    return Frameworks(statistics.welch(ours, theirs), equivalence)


def ensemble_voters(
    results: Results, article: Article, members: Ensemble
) -> Sequence[Record] | None:
    """The runs that vote; None while one is missing."""
    runs = {run.seed: run for run in results.runs[article.name, members.members, "jax"]}
    if not runs.keys() >= set(range(members.size)):
        return None
    return [runs[seed] for seed in range(members.size)]


def ensemble(results: Results, article: Article, members: Ensemble) -> float | None:
    """The test accuracy of the vote in percent; None while a member is missing."""
    if (voters := ensemble_voters(results, article, members)) is None:
        return None
    predictions = np.stack([run.predictions for run in voters])
    correct = np.stack([run.correct for run in voters])
    # A vote is right if it is for what a voter has that is right.
    agreed = predictions == statistics.vote(predictions)
    return 100 * float((agreed & correct).any(0).mean())


def _compare(
    results: Results,
    article: Article,
    row: Row,
    framework: str,
    summary: Summary,
    figure: Figure,
) -> Comparison:
    if figure.batches_from is not None:
        shares = batches(results, article, row, figure, framework)
        if shares is None or shares.n < ENOUGH_SEEDS:
            return Comparison(figure, "provisional")
        return Comparison(figure, "inside" if shares.low >= MOST_BATCHES else "above")
    if figure.value is None:
        return Comparison(figure, figure.untested)
    if summary.n < ENOUGH_SEEDS:
        return Comparison(figure, "provisional")
    if row.jumps:
        quantiles = np.quantile(later_epochs(results, article, row, framework), (0.025, 0.975))
        interval = (float(quantiles[0]), float(quantiles[1]))
        own = _limits(summary, figure, interval, interval, math.nan)
        return Comparison(figure, own.verdict, own)
    own = _by_spread(summary, figure, summary.spread)
    relatives = family(results, article, row, framework) if summary.n < MANY_SEEDS else None
    pooled = _by_spread(summary, figure, relatives.spread) if relatives else None
    return Comparison(figure, own.verdict, own, pooled)


def _by_spread(summary: Summary, figure: Figure, spread: Spread) -> Limits:
    assert figure.value is not None
    reach = spread.reach(summary.n, figure.runs)
    distance = max(0.0, abs(figure.value - summary.mean) - figure.rounding)
    p = spread.p(distance, summary.n, figure.runs)
    ends = (summary.mean - reach, summary.mean + reach)
    return _limits(summary, figure, summary.within(reach), ends, p)


def _limits(
    summary: Summary,
    figure: Figure,
    interval: tuple[float, float],
    ends: tuple[float, float],
    p: float,
) -> Limits:
    beyond = (
        summary.mean - ends[0] + figure.rounding,
        ends[1] - summary.mean + figure.rounding,
    )
    return Limits(interval, beyond, verdict(summary, figure.value, figure.rounding, interval), p)


def _measured(run: Record, ablation: Ablation) -> float:
    """What an ablation compares, in percent."""
    match ablation.measure:
        case "accuracy":
            return run.accuracy
        case "first_epoch":
            return run.accuracy_at(1)
        case "fluctuation":
            return 100 * float(np.std(_second_half(run), ddof=1))


def _second_half(run: Record) -> list[float]:
    """The test accuracies after every epoch of the second half."""
    return run.by_epoch("test_accuracy")[run.recipe.epochs // 2 :]


def _accuracy(run: Record, row: Row) -> float:
    return run.accuracy if row.epoch is None else run.accuracy_at(row.epoch)


def _find(results: Results, name: str) -> Row:
    article, row = name.split("/")
    return next(one for one in results.articles if one.name == article).row(row)


def _changed(first: Recipe, second: Recipe) -> Iterator[str]:
    """Fields that differ; of the networks' arguments those that both have."""
    one, other = ({**vars(recipe), **_arguments(recipe)} for recipe in (first, second))
    for name, value in one.items():
        if name != "model_args" and value != other.get(name, value):
            yield f"{name} {value} / {other[name]}"


def _arguments(recipe: Recipe) -> dict[str, Any]:
    parameters = inspect.signature(model_entry(recipe.model).network.__init__).parameters
    return {name: one.default for name, one in parameters.items()} | dict(recipe.model_args)


def _runs_by_seed(results: Results, name: str) -> dict[int, Record]:
    article, row = name.split("/")
    return {run.seed: run for run in results.runs[article, row, "jax"]}


def _round_epochs(epochs: int) -> list[int]:
    """1, 2, 5, 10, 20, 50 ... and the last."""
    rounded = (digit * 10**power for power in range(4) for digit in (1, 2, 5))
    return [epoch for epoch in rounded if epoch < epochs] + [epochs]


def _device(run: Record) -> str:
    device = run.environment["device"]
    count = math.prod(device["mesh"].values())
    kind = "CPU core" if device["platform"] == "cpu" else device["kind"]
    return f"{count} {kind}{'s' if count > 1 else ''}"


def _network(recipe: Recipe) -> tuple[str, int]:
    """What decides the cost of an image: the network and its work."""
    return recipe.model, _multiply_adds(recipe.model, json.dumps(recipe.model_args))


@functools.cache
def _multiply_adds(model: str, model_args: str) -> int:
    layers = summarize(abstract_model(model, **json.loads(model_args)))
    return sum(layer.multiply_adds for layer in layers)


def _estimate(results: Results, row: Row) -> float | None:
    """Seconds for a seed's training images, at the highest speed that its network had."""
    speeds = [
        run.images_per_second * run.seeds_together
        for (_, _, framework), runs in results.runs.items()
        for run in runs
        if framework == "jax"
        and _network(run.recipe) == _network(row.recipe)
        and run.environment["device"]["platform"] == "cpu"
    ]
    if not speeds:
        return None
    views = 5 if row.recipe.one_pixel_shifts else 1
    images = views * (_TRAINING_IMAGES - row.recipe.validation) * row.recipe.epochs
    return images / max(speeds)
