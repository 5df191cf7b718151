"""When early stopping would have ended training, from the recorded curves."""

from collections.abc import Sequence
from dataclasses import dataclass

from experiments.evidence import statistics
from experiments.evidence.analysis import percentages
from experiments.evidence.records import Record
from experiments.evidence.results import Results
from experiments.evidence.rows import Article, Row
from experiments.evidence.statistics import Summary
from mnist_jax import measures

# Epochs in a row without a better validation accuracy after which training ends.
PATIENCES = (1, 3, 10)


@dataclass(frozen=True)
class Stopping:
    """The effect that early stopping would have had on a row's runs.

    Attributes:
      patience: epochs without a better validation accuracy after which training ends.
      ended: the epoch after which it would have ended.
      saved: epochs of the recipe that would not have been trained.
      stopped: test accuracies in percent at the evaluation selected up to then.
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
    """One result for every patience below the row's number of epochs.

    Empty if the row does not select by validation accuracy, or has a patience itself.
    """
    runs = results.runs[article.name, row.id, "jax"]
    if not runs or row.recipe.selection != "best_validation" or row.recipe.patience:
        return []
    epochs = row.recipe.epochs
    return [_stopping(runs, epochs, patience) for patience in PATIENCES if patience < epochs]


def last_epoch(validation: Sequence[float], patience: int) -> int:
    """The epoch after which training ends, from the validation accuracies after each epoch.

    An equal accuracy is no better. The last epoch if patience never runs out.
    """
    epochs = range(1, len(validation) + 1)
    ended = (epoch for epoch in epochs if measures.since_best(validation[:epoch]) >= patience)
    return next(ended, len(validation))


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
    """The test accuracy in percent at the evaluation selected up to the end of an epoch."""
    curve, end = run.curve, run.curve["step"][-1] * epoch // run.recipe.epochs
    columns = (curve["validation_accuracy"], curve["step"], curve["test_accuracy"])
    # Ties in validation accuracy go to the latest.
    *_, accuracy = max(one for one in zip(*columns, strict=True) if one[1] <= end)
    return 100 * accuracy
