"""Comparisons of our own runs: pairs of rows, JAX with PyTorch, and ways to select an epoch."""

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.evidence import analysis, statistics
from experiments.evidence.records import Record
from experiments.evidence.results import Results
from experiments.evidence.rows import Ablation, Article, Row
from experiments.evidence.statistics import Difference, Summary
from mnist_jax.models import model_entry
from mnist_jax.recipe import Recipe

# The equivalence margin: means less than this many points apart count as equal.
MARGIN = 0.1


@dataclass(frozen=True)
class Variants:
    """Two rows on the seeds they share.

    Attributes:
      first: the ablation's measure of the first row's runs, in percent, by shared seed.
      second: that of the second row's runs.
      difference: with the paired test; None with fewer than `ENOUGH_SEEDS` shared seeds, or if one
        of the runs is stuck.
      changed: the recipe fields that differ, with the first's and the second's value.
      mcnemar: McNemar's p of the two runs of every shared seed; empty if the test images differ or
        the measure is not the reported accuracy.
    """

    first: Sequence[float]
    second: Sequence[float]
    difference: Difference | None
    changed: Sequence[str]
    mcnemar: Sequence[float]


@dataclass(frozen=True)
class Frameworks:
    """Our runs beside PyTorch runs.

    Attributes:
      difference: ours minus PyTorch's, with Welch's test.
      equivalence: p of two one-sided Welch tests (TOST) against `MARGIN`.
      needed: runs in each framework to show equivalence of equal means, by the spread of both.
    """

    difference: Difference
    equivalence: float
    needed: int


@dataclass(frozen=True)
class Selection:
    """The gain from selecting the evaluation by test accuracy.

    Attributes:
      n: number of runs.
      last: mean test accuracy in percent after the last epoch.
      validation: that at the evaluation with the best validation accuracy; None if the last epoch
        counts.
      test: that at the evaluation with the best test accuracy.
      gain: `test` minus `validation`, or `last` without it, run by run, in points.
    """

    n: int
    last: float
    validation: float | None
    test: float
    gain: Summary


def variants(results: Results, ablation: Ablation) -> Variants:
    """Compares two rows on the seeds they share."""
    first, second = (results.by_seed(name) for name in (ablation.first, ablation.second))
    shared = sorted(first.keys() & second.keys())
    ours, others = ([_measured(runs[s], ablation) for s in shared] for runs in (first, second))
    tested = len(shared) >= analysis.ENOUGH_SEEDS and not any(
        runs[s].stuck for s in shared for runs in (first, second)
    )
    difference = statistics.paired(ours, others) if tested else None
    recipes = [results.row(name).recipe for name in (ablation.first, ablation.second)]
    same = recipes[0].dataset == recipes[1].dataset and ablation.measure == "accuracy"
    ps = [statistics.mcnemar(first[s].correct, second[s].correct) for s in shared if same]
    return Variants(ours, others, difference, list(_changed(*recipes)), ps)


def selection(results: Results, article: Article, row: Row) -> Selection | None:
    """The gain from selecting on the test set; None without runs."""
    if not (runs := results.runs[article.name, row.id, "jax"]):
        return None
    curves = [100 * np.asarray(run.curve["test_accuracy"]) for run in runs]
    last, best = np.asarray([(one[-1], one.max()) for one in curves]).T
    chosen = last if row.recipe.selection == "last" else [run.accuracy for run in runs]
    return Selection(
        n=len(runs),
        last=float(last.mean()),
        validation=None if chosen is last else float(np.mean(chosen)),
        test=float(best.mean()),
        gain=statistics.summarize(np.subtract(best, chosen).tolist(), (-100.0, 100.0)),
    )


def cross_framework(results: Results, article: Article, row: Row) -> Frameworks | None:
    """Compares our runs with PyTorch's; None if either has too few."""
    ours, theirs = (
        [analysis.accuracy(run, row) for run in results.runs[article.name, row.id, framework]]
        for framework in ("jax", "torch")
    )
    if min(len(ours), len(theirs)) < analysis.ENOUGH_SEEDS:
        return None
    equivalence = statistics.equivalence(ours, theirs, MARGIN)
    needed = statistics.runs_for_equivalence(statistics.pooled([ours, theirs]).sd, MARGIN)
    return Frameworks(statistics.welch(ours, theirs), equivalence, needed)


def _measured(run: Record, ablation: Ablation) -> float:
    """An ablation's measure of a run, in percent."""
    match ablation.measure:
        case "accuracy":
            return run.accuracy
        case "first_epoch":
            return run.accuracy_at(1)
        case "fluctuation":
            return 100 * float(np.std(run.second_half(), ddof=1))


def _changed(first: Recipe, second: Recipe) -> Iterator[str]:
    """Yields the fields that differ, and the network arguments that both have and that differ."""
    one, other = ({**vars(recipe), **_arguments(recipe)} for recipe in (first, second))
    for name, value in one.items():
        if name != "model_args" and value != other.get(name, value):
            yield f"{name} {value} / {other[name]}"


def _arguments(recipe: Recipe) -> dict[str, Any]:
    parameters = inspect.signature(model_entry(recipe.model).network.__init__).parameters
    return {name: one.default for name, one in parameters.items()} | dict(recipe.model_args)
