"""Comparison of published figures with our runs."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from experiments.evidence import durations, networks, statistics
from experiments.evidence.records import Record
from experiments.evidence.results import Results
from experiments.evidence.rows import Article, Curve, Ensemble, Figure, Row
from experiments.evidence.statistics import Spread, Summary
from mnist_jax.errors import Failure

_PERCENT = (0.0, 100.0)
# The least number of runs to estimate a spread from.
ENOUGH_SEEDS = 3
# Rows with fewer runs than this are also compared by the spread of their family.
MANY_SEEDS = 10
# The percentage of a run's batches for which a figure about batches must hold.
MOST_BATCHES = 95.0


@dataclass(frozen=True)
class Family:
    """An article's rows on one dataset, all with or all without convolutions, and their spread.

    Rows that jump or have a stuck run belong to no family: their runs are not normal.

    Attributes:
      rows: the rows with at least two runs; two or more.
      runs: the number of runs of all rows.
      spread: pooled over the rows.
      p: of Levene's test that the rows have one spread.
    """

    rows: Sequence[str]
    runs: int
    spread: Spread
    p: float


@dataclass(frozen=True)
class Reference:
    """The expected accuracy of a run selected in the way that a figure was.

    Attributes:
      mean: in percent.
      shares: [n], the weight of each of our runs in the mean.
    """

    mean: float
    shares: np.ndarray


@dataclass(frozen=True)
class Limits:
    """The interval for a figure, by one estimate of the spread.

    Attributes:
      interval: where a run (or, for a figure that is a mean, the mean of as many runs) falls with
        95% probability.
      beyond: critical differences from our mean, in points, below and above: the distance to the
        end of the interval plus the figure's rounding.
      verdict: as in `Comparison`.
      p: of a figure at least this far from our mean; NaN if the interval is made of quantiles.
    """

    interval: tuple[float, float]
    beyond: tuple[float, float]
    verdict: str
    p: float


@dataclass(frozen=True)
class Comparison:
    """A published figure beside ours.

    Attributes:
      figure: the published figure.
      verdict: `inside`, `above` or `below` our interval; `not testable` if inside, but rounded more
        coarsely than our runs are spread; `provisional` with too few runs; the figure's own
        `untested` if it has no value; empty without runs. A figure that is a point of a curve has
        the verdict of that point; one about training batches is `inside` if it holds for
        `MOST_BATCHES` of every run, else `above`.
      own: by the row's own runs; None if nothing is tested.
      pooled: by the spread of its family, for a row with few runs; otherwise None.
    """

    figure: Figure
    verdict: str
    own: Limits | None = None
    pooled: Limits | None = None


@dataclass(frozen=True)
class Outcome:
    """The results of a recipe's runs, or of a vote.

    Attributes:
      summary: of the test accuracies in percent; None without runs. A vote counts as one run.
      comparisons: one with each of the row's figures.
      seconds: the shortest time per seed, evaluations included, because the machine was shared;
        without runs, an estimate from its network's other runs or the nearest network's; None
        without any.
      device: the device of most of the runs, to which `seconds` applies.
    """

    summary: Summary | None
    comparisons: Sequence[Comparison]
    seconds: float | None
    device: str


@dataclass(frozen=True)
class Point:
    """A published value of a curve beside ours.

    Attributes:
      epoch: the epoch after which it was measured.
      published: as the article prints it; empty if it has only a plot.
      ours: in the same unit.
      verdict: as in `Comparison`.
    """

    epoch: int
    published: str
    ours: Summary
    verdict: str


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
        compared = [
            Comparison(f, f.untested or verdict(vote, f.value, f.rounding)) for f in row.figures
        ]
        return Outcome(vote, compared, None, "")
    runs = results.runs[article.name, row.id, framework]
    if not runs:
        estimate = durations.on_a_core(results, row) if framework == "jax" else None
        return Outcome(None, nothing, estimate, "")
    summary = percentages([accuracy(run, row) for run in runs])
    compared = [_compare(results, article, row, framework, summary, f) for f in row.figures]
    device = Counter(durations.device(run) for run in runs).most_common(1)[0][0]
    seconds = min(
        run.seconds / run.seeds_together for run in runs if durations.device(run) == device
    )
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
    """The verdict on a published value, as in `Comparison`; by default on that of one run."""
    if value is None:
        return ""
    if summary.n < ENOUGH_SEEDS:
        return "provisional"
    low, high = summary.interval if interval is None else interval
    if value + rounding < low:
        return "below"
    if value - rounding > high:
        return "above"
    return "not testable" if rounding > summary.sd else "inside"


def family(results: Results, article: Article, row: Row, framework: str = "jax") -> Family | None:
    """The family of a row; None if it has none."""
    samples = {}
    for other in article.rows:
        runs = results.runs[article.name, other.id, framework]
        normal = not other.jumps and not any(run.stuck for run in runs)
        if len(runs) > 1 and normal and _kind(other) == _kind(row):
            samples[other.id] = [accuracy(run, other) for run in runs]
    if len(samples) < 2 or row.id not in samples:
        return None
    values = list(samples.values())
    spread, p = statistics.pooled(values), statistics.equally_spread(values)
    return Family(list(samples), sum(map(len, values)), spread, p)


def _kind(row: Row) -> tuple[str, bool]:
    """The properties that the rows of a family share."""
    return row.recipe.dataset, networks.has_convolutions(row.recipe)


def later_epochs(results: Results, article: Article, row: Row, framework: str) -> list[float]:
    """The test accuracies in percent after every epoch of the second half of all runs.

    If they jump from epoch to epoch, the choice of the last epoch matters more than the seed.
    """
    runs = results.runs[article.name, row.id, framework]
    return [100 * one for run in runs for one in run.second_half()]


def points(
    results: Results, article: Article, row: Row, curve: Curve, framework: str = "jax"
) -> list[Point]:
    """Compares a curve epoch by epoch; empty without runs."""
    runs = results.runs[article.name, row.id, framework]
    if not runs:
        return []
    ran = min(run.epochs for run in runs)
    ours = curve.scale * np.asarray([run.by_epoch(curve.column)[:ran] for run in runs])
    published = dict(enumerate(curve.printed[:ran], start=1))
    epochs = list(published) or _round_epochs(ran)
    bounds = (0.0, 1.0 if curve.column.endswith("accuracy") else math.inf)
    found = []
    for epoch in epochs:
        summary = statistics.summarize(ours[:, epoch - 1].tolist(), bounds)
        printed = published.get(epoch, "")
        value = float(printed) if printed else None
        # Half a unit of its last digit.
        rounding = 0.5 * 10.0 ** -len(printed.partition(".")[2])
        found.append(Point(epoch, printed, summary, verdict(summary, value, rounding)))
    return found


def batches(
    results: Results, article: Article, row: Row, figure: Figure, framework: str = "jax"
) -> Summary | None:
    """For how many of a run's batches a figure about them holds, in percent.

    The first epoch is left out, in which accuracy still rises to that level. None if the figure is
    not about batches, or no run's steps are recorded.
    """
    if figure.batches_from is None:
        return None
    runs = results.runs[article.name, row.id, framework]
    later = [
        run.steps.accuracy[len(run.steps.right) // run.epochs :]
        for run in runs
        if run.steps is not None
    ]
    shares = [100 * float((one >= figure.batches_from).mean()) for one in later]
    return percentages(shares) if shares else None


def best_of(
    results: Results, article: Article, row: Row, figure: Figure, framework: str = "jax"
) -> Reference:
    """The reference for a figure: our mean, or that of our runs selected as its author did.

    The spread of a selected run is taken to be that of a single run; it is smaller if anything.
    """
    runs = results.runs[article.name, row.id, framework]
    accuracies = np.asarray([accuracy(run, row) for run in runs])
    shares = statistics.equal_shares(len(runs))
    if figure.best_of > 1:
        best = [max(run.curve["validation_accuracy"]) for run in runs]
        shares = statistics.shares_of_best(best, figure.best_of)
    return Reference(float(shares @ accuracies), shares)


def ensemble_voters(
    results: Results, article: Article, members: Ensemble
) -> Sequence[Record] | None:
    """The runs that vote; None while one is missing."""
    runs = {run.seed: run for run in results.runs[article.name, members.members, "jax"]}
    if not runs.keys() >= set(range(members.size)):
        return None
    return [runs[seed] for seed in range(members.size)]


def votes(members: Ensemble, voters: Sequence[Record]) -> np.ndarray:
    """The labels that the voters elect: [N].

    Raises:
      Failure: the vote is by probabilities, which a record lacks.
    """
    if members.vote == "majority":
        return statistics.vote(np.stack([run.predictions for run in voters]))
    known = [run.probabilities for run in voters if run.probabilities is not None]
    if len(known) < len(voters):
        raise Failure(
            f"The vote {members.id} is by probabilities, which a record of {voters[0].article}, row"
            f" {members.members}, lacks; remove its line and run it again."
        )
    return np.sum(known, axis=0).argmax(-1)


def ensemble(results: Results, article: Article, members: Ensemble) -> float | None:
    """The test accuracy of the vote in percent; None while a member is missing."""
    voters = ensemble_voters(results, article, members)
    return None if voters is None else 100 * float(correct_votes(members, voters).mean())


def correct_votes(members: Ensemble, voters: Sequence[Record]) -> np.ndarray:
    """Whether the vote on each test image is correct: bool [N].

    Raises:
      Failure: the vote is by probabilities, which a record lacks.
    """
    predictions = np.stack([run.predictions for run in voters])
    correct = np.stack([run.correct for run in voters])
    # A vote is correct if it agrees with a voter that is correct. A mean of probabilities may be
    # correct where no voter is; records can't tell, so that counts as wrong.
    agreed = predictions == votes(members, voters)
    return (agreed & correct).any(0)


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
    if figure.curve_epoch is not None:
        compared = points(results, article, row, row.curves[0], framework)
        found = {point.epoch: point.verdict for point in compared}
        return Comparison(figure, found.get(figure.curve_epoch, "provisional"))
    if figure.value is None:
        return Comparison(figure, figure.untested)
    if summary.n < ENOUGH_SEEDS:
        return Comparison(figure, "provisional")
    if row.jumps:
        quantiles = np.quantile(later_epochs(results, article, row, framework), (0.025, 0.975))
        interval = (float(quantiles[0]), float(quantiles[1]))
        own = _limits(summary, figure, interval, interval, math.nan)
        return Comparison(figure, own.verdict, own)
    reference = best_of(results, article, row, figure, framework)
    own = by_spread(summary, figure, reference, summary.spread)
    relatives = family(results, article, row, framework) if summary.n < MANY_SEEDS else None
    pooled = by_spread(summary, figure, reference, relatives.spread) if relatives else None
    return Comparison(figure, own.verdict, own, pooled)


def by_spread(summary: Summary, figure: Figure, reference: Reference, spread: Spread) -> Limits:
    """The limits for a figure with a value, for normal runs with this spread."""
    assert figure.value is not None
    reach = spread.reach(reference.shares, figure.runs)
    distance = max(0.0, abs(figure.value - reference.mean) - figure.rounding)
    p = spread.p(distance, reference.shares, figure.runs)
    ends = (reference.mean - reach, reference.mean + reach)
    return _limits(summary, figure, summary.within(*ends), ends, p)


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


def accuracy(run: Record, row: Row) -> float:
    """The test accuracy in percent after the epoch that the row's figures refer to."""
    return run.accuracy if row.epoch is None else run.accuracy_at(row.epoch)


def _round_epochs(epochs: int) -> list[int]:
    """1, 2, 5, 10, 20, 50 ... and the last."""
    rounded = (digit * 10**power for power in range(4) for digit in (1, 2, 5))
    return [epoch for epoch in rounded if epoch < epochs] + [epochs]
