"""When training would have ended by early stopping, read from the recorded curves."""

from collections.abc import Sequence
from dataclasses import dataclass

from flax.training.early_stopping import EarlyStopping

from experiments.evidence import statistics
from experiments.evidence.analysis import percentages
from experiments.evidence.records import Record
from experiments.evidence.results import Results
from experiments.evidence.rows import Article, Row
from experiments.evidence.statistics import Summary

# So many epochs in a row without a better validation accuracy end the training.
PATIENCES = (1, 3, 10)


@dataclass(frozen=True)
class Stopping:
    """What early stopping would have made of a row's runs.

    Attributes:
      patience: how many epochs without a better validation accuracy end the training.
      ended: after which epoch it would have ended.
      saved: how many epochs of the recipe would not have been trained.
      stopped: test accuracies in percent of the evaluation selected until then.
      full: those of the whole runs.
      difference: `stopped` minus `full`, run by run, in points.
    """

    patience: int
    ended: Summary
    saved: Summary
    stopped: Summary
    full: Summary
    difference: Summary


def early_stopping(results: Results, article: Article, row: Row) -> list[Stopping]:
    """For every patience below the epochs of a row that selects by validation; else nothing."""
    runs = results.runs[article.name, row.id, "jax"]
    if not runs or row.recipe.selection != "best_validation":
        return []
    epochs = row.recipe.epochs
    return [_stopping(runs, epochs, patience) for patience in PATIENCES if patience < epochs]


def last_epoch(validation: Sequence[float], patience: int) -> int:
    """After which epoch training ends, of validation accuracies after each; an equal is no better.

    It is the last one where there are never so many epochs without a better one.
    """
    # Flax's goes on while no more than its patience are without one, and wants small numbers.
    stopping = EarlyStopping(patience=patience - 1)
    for epoch, accuracy in enumerate(validation, start=1):
        stopping = stopping.update(-accuracy)
        if stopping.should_stop:
            return epoch
    return len(validation)


def _stopping(runs: Sequence[Record], epochs: int, patience: int) -> Stopping:
    ended = [last_epoch(run.by_epoch("validation_accuracy"), patience) for run in runs]
    stopped = [_accuracy(run, epoch) for run, epoch in zip(runs, ended, strict=True)]
    full = [run.accuracy for run in runs]
    differences = [one - other for one, other in zip(stopped, full, strict=True)]
    return Stopping(
        patience,
        statistics.summarize(ended, (1, epochs)),
        statistics.summarize([epochs - epoch for epoch in ended], (0, epochs - 1)),
        percentages(stopped),
        percentages(full),
        statistics.summarize(differences, (-100.0, 100.0)),
    )


def _accuracy(run: Record, epoch: int) -> float:
    """The test accuracy in percent of the evaluation that is selected up to the end of an epoch."""
    curve, end = run.curve, run.curve["step"][-1] * epoch // run.recipe.epochs
    columns = (curve["validation_accuracy"], curve["step"], curve["test_accuracy"])
    # Of equal validation accuracies the latest counts.
    *_, accuracy = max(one for one in zip(*columns, strict=True) if one[1] <= end)
    return 100 * accuracy
