"""Runs a trainer to the end of its recipe and leaves run directories."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mnist_jax.errors import Failure
from mnist_jax.runs import RunDirectory
from mnist_jax.trainer import Trainer
from mnist_jax.training import LOSSES

# Seconds of training between two reports of progress.
_STRETCH = 0.5


@dataclass(frozen=True)
class Progress:
    """How far training is; reported about twice a second.

    Attributes:
      step: steps taken.
      loss: mean training loss of the last stretch, over all seeds.
      images_per_second: over the last stretch, all seeds together.
    """

    step: int
    loss: float
    images_per_second: float


@dataclass(frozen=True)
class Evaluation:
    """One evaluation: a row of `metrics.jsonl` for every seed."""

    rows: Sequence[dict[str, Any]]


Report = Callable[[Progress | Evaluation], object]


def fit(trainer: Trainer, runs: Sequence[RunDirectory], report: Report) -> list[dict[str, Any]]:
    """Trains to the end of the recipe, evaluating as it says.

    Args:
      trainer: fresh, or restored to where it was left.
      runs: where each seed's files go, in the order of the trainer's seeds.
      report: is told of progress and evaluations.

    Returns:
      The result of each seed, as written to its `result.json`.

    Raises:
      Failure: the loss is no longer a finite number, or a directory can't be written.
    """
    started = time.perf_counter()
    every = trainer.recipe.eval_every or trainer.steps_per_epoch
    best: list[dict[str, Any] | None] = [None] * len(runs)
    log: list[np.ndarray] = []
    images, busy = 0, 0.0
    stretch = 1
    while trainer.step < trainer.total_steps:
        epoch_end = trainer.step - trainer.step % trainer.steps_per_epoch + trainer.steps_per_epoch
        evaluation = min(trainer.step - trainer.step % every + every, epoch_end)
        before, start = trainer.step, time.perf_counter()
        log.append(trainer.advance(min(stretch, evaluation - trainer.step)))
        seconds = time.perf_counter() - start
        _check_finite(trainer, before, log[-1])
        count = sum(trainer.batch_size(step) for step in range(before, trainer.step))
        images, busy = images + count, busy + seconds
        report(Progress(trainer.step, float(log[-1][..., 0].mean()), len(runs) * count / seconds))
        # Never so much more that one slow start makes the next stretch endless.
        stretch = min(4 * stretch, max(1, round(stretch * _STRETCH / seconds)))
        if trainer.step != evaluation:
            continue
        steps = np.concatenate(log, axis=1)
        rows, predictions = _evaluate(trainer, steps)
        for i, (run, row) in enumerate(zip(runs, rows, strict=True)):
            row["images_per_second"] = images / busy
            row["seconds"] = time.perf_counter() - started
            run.append_metrics(row)
            if _selected(trainer, row, best[i]):
                best[i] = row
                run.write_predictions(predictions[i])
        report(Evaluation(rows))
        log, images, busy = [], 0, 0.0
    results = []
    for i, (run, selected) in enumerate(zip(runs, best, strict=True)):
        assert selected is not None  # The last step is always evaluated.
        results.append(_result(trainer, i, selected, time.perf_counter() - started))
        run.write_result(results[-1])
    return results


def _evaluate(trainer: Trainer, log: np.ndarray) -> tuple[list[dict[str, Any]], np.ndarray]:
    """A row for each seed, and the predicted labels [seeds, N] of the test images.

    Args:
      trainer: at the step to evaluate.
      log: [seeds, steps, 2], loss and accuracy of every step since the last evaluation.
    """
    steps = range(trainer.step - log.shape[1], trainer.step)
    sizes = np.asarray([trainer.batch_size(step) for step in steps])
    train_loss, train_accuracy = np.average(log, axis=1, weights=sizes).T.tolist()
    rows: list[dict[str, Any]] = [
        {
            "epoch": trainer.step / trainer.steps_per_epoch,
            "step": trainer.step,
            "train_loss": train_loss[i],
            "train_accuracy": train_accuracy[i],
        }
        for i in range(len(trainer.seeds))
    ]
    logits = trainer.logits(trainer.test.images)
    losses, accuracies = _score(trainer, logits, trainer.test.labels)
    for i, row in enumerate(rows):
        row |= {"test_loss": losses[i], "test_accuracy": accuracies[i]}
    if trainer.validation is not None:
        validation_logits = trainer.logits(trainer.validation.images)
        _, accuracies = _score(trainer, validation_logits, trainer.validation.labels)
        for i, row in enumerate(rows):
            row["validation_accuracy"] = accuracies[i]
    return rows, logits.argmax(-1)


def _score(
    trainer: Trainer, logits: np.ndarray, labels: np.ndarray
) -> tuple[list[float], list[float]]:
    """Mean loss and accuracy of each seed over all images."""
    loss = jax.vmap(LOSSES[trainer.recipe.loss], (0, None))
    losses = np.asarray(loss(jnp.asarray(logits), jnp.asarray(labels)), np.float64).mean(-1)
    return losses.tolist(), (logits.argmax(-1) == labels).mean(-1).tolist()


def _selected(trainer: Trainer, row: dict[str, Any], best: dict[str, Any] | None) -> bool:
    """Whether this evaluation takes the place of the best so far; of equals the latest counts."""
    if best is None or trainer.recipe.selection == "last":
        return True
    return row["validation_accuracy"] >= best["validation_accuracy"]


def _result(trainer: Trainer, index: int, row: dict[str, Any], seconds: float) -> dict[str, Any]:
    params = trainer.state(index).params
    return {
        "model": trainer.recipe.model,
        "dataset": trainer.recipe.dataset,
        "seed": trainer.seeds[index],
        "epochs": trainer.recipe.epochs,
        "test_accuracy": row["test_accuracy"],
        "selection": trainer.recipe.selection,
        "selected_step": row["step"],
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "seconds": seconds,
    }


def _check_finite(trainer: Trainer, before: int, log: np.ndarray) -> None:
    bad = np.flatnonzero(~np.isfinite(log[..., 0]).all(axis=0))
    if bad.size:
        raise Failure(
            f"Training diverged: the loss of step {before + bad[0] + 1} is not a finite number;"
            f" try a learning rate below {trainer.recipe.learning_rate}."
        )
