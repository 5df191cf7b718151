"""Writing the run directories of several seeds that train together, and resuming from them."""

import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from mnist_jax import hosts, measures
from mnist_jax.errors import Failure
from mnist_jax.recipe import Recipe
from mnist_jax.runs.checkpoints import Checkpoints
from mnist_jax.runs.directory import RunDirectory
from mnist_jax.runs.metrics import Evaluation
from mnist_jax.training import evaluation
from mnist_jax.training.devices import broadcast
from mnist_jax.training.schedule import Schedule
from mnist_jax.training.trainer import Trainer


class SeedFiles:
    """The run directories of a trainer's seeds, in its order, and their checkpoints.

    If several processes train together, only the first has them; the others follow it.

    Raises:
      Failure: from every method, a file can't be read or written, or a loss is not finite.
    """

    def __init__(
        self, trainer: Trainer, runs: Sequence[RunDirectory], stores: Sequence[Checkpoints]
    ):
        self._trainer = trainer
        self._runs = runs
        self._stores = stores
        self._started = time.perf_counter()
        # Since the last evaluation: loss and accuracy of every step [seeds, steps, 2], images
        # trained on, and seconds of training.
        self._log = np.zeros((len(trainer.seeds), 0, 2), np.float32)
        self._images, self._busy = 0.0, 0.0
        # Each seed's selected evaluation so far.
        self._best: list[Evaluation | None] = [None] * len(trainer.seeds)
        # The first seed's validation accuracies after every epoch.
        self._validated = list[float]()

    @property
    def ended(self) -> bool:
        """Whether training has ended, by the recipe's epochs or its patience."""
        patience = self._trainer.recipe.patience
        if patience and measures.since_best(self._validated) >= patience:
            return True
        return self._trainer.step == self._trainer.schedule.total_steps

    def resume(self) -> None:
        """Restores the latest step for which all seeds have a checkpoint and metrics."""
        trainer = self._trainer
        pairs = zip(self._runs, self._stores, strict=True)
        usable = [_resumable(trainer.schedule, run, store) for run, store in pairs]
        step = hosts.broadcast(max(set.intersection(*usable), default=0) if usable else 0)
        if step:
            like = {"log": self._padded_log()[0], "times": np.zeros(3)}
            states = [state | like for state in trainer.saved()]
            saved = [
                store.restore(state, step)[1]
                for store, state in zip(self._stores, states, strict=False)
            ]
            saved = broadcast(saved or states)
            trainer.restore(step, saved)
            count = step - trainer.schedule.last_evaluation(step)
            self._log = np.stack([seed["log"] for seed in saved])[:, :count]
            self._images, self._busy, seconds = saved[0]["times"].tolist()
            self._started -= seconds
        for i, run in enumerate(self._runs):
            for row in run.rewind(step):
                if _selected(trainer.recipe, row, self._best[i]):
                    self._best[i] = row
                if i == 0:
                    self._note_validation(row)
        self._validated = hosts.broadcast(self._validated)

    def save(self) -> None:
        """Saves every seed, and keeps the checkpoint that is selected so far."""
        times = np.asarray([self._images, self._busy, self._seconds()])
        states = self._trainer.saved()
        seeds = zip(self._stores, states, self._padded_log(), self._best, strict=False)
        for store, state, log, best in seeds:
            keep = best.step if best else None
            store.save(self._trainer.step, state | {"log": log, "times": times}, keep=keep)

    def add(self, log: np.ndarray, images: int, seconds: float) -> None:
        """Records the steps taken; `log` is [seeds, steps, 2]."""
        self._log = np.concatenate([self._log, log], axis=1)
        self._images, self._busy = self._images + images, self._busy + seconds

    def evaluate(self) -> tuple[list[Evaluation], bool]:
        """Writes a row for each seed; also returns whether any of them is now selected."""
        rows, predictions = self._rows()
        for i, (run, row) in enumerate(zip(self._runs, rows, strict=False)):
            run.append_steps(self._log[i])
            run.append_metrics(row)
            if _selected(self._trainer.recipe, row, self._best[i]):
                self._best[i] = row
                run.write_predictions(predictions[i])
        self._note_validation(rows[0])
        self._log, self._images, self._busy = self._log[:, :0], 0.0, 0.0
        return rows, any(row is best for row, best in zip(rows, self._best, strict=True))

    def results(self) -> list[dict[str, Any]]:
        """Writes and returns each seed's `result.json`."""
        results = []
        for i, (run, selected) in enumerate(zip(self._runs, self._best, strict=False)):
            assert selected is not None  # The last step is always evaluated.
            results.append(_result(self._trainer, i, selected, self._seconds()))
            run.write_result(results[-1])
        return results

    def _rows(self) -> tuple[list[Evaluation], np.ndarray]:
        """Evaluates each seed; also returns the predicted labels [seeds, N] of the test images."""
        trainer, schedule = self._trainer, self._trainer.schedule
        sizes = schedule.images(trainer.step - self._log.shape[1], trainer.step)
        train = np.average(self._log, axis=1, weights=sizes)
        logits = trainer.logits(trainer.test.images)
        losses, accuracies = evaluation.score(trainer.recipe, logits, trainer.test.labels)
        if not (finite := np.isfinite(losses)).all():
            raise diverged(trainer, f"the test loss after step {trainer.step}", finite)
        validation: list[float] | None = None
        if trainer.validation is not None:
            of_validation = trainer.logits(trainer.validation.images)
            validation = evaluation.score(trainer.recipe, of_validation, trainer.validation.labels)[
                1
            ].tolist()
        rows = [
            Evaluation(
                epoch=trainer.step / schedule.steps_per_epoch,
                step=trainer.step,
                train_loss=float(train[i, 0]),
                train_accuracy=float(train[i, 1]),
                test_loss=float(losses[i]),
                test_accuracy=float(accuracies[i]),
                validation_accuracy=validation[i] if validation else None,
                images_per_second=self._images / self._busy,
                seconds=self._seconds(),
            )
            for i in range(len(trainer.seeds))
        ]
        return rows, logits.argmax(-1)

    def _note_validation(self, row: Evaluation) -> None:
        of_epoch = row.step % self._trainer.schedule.steps_per_epoch == 0
        if of_epoch and row.validation_accuracy is not None:
            self._validated.append(row.validation_accuracy)

    def _seconds(self) -> float:
        """The time since the beginning of the run, without interruptions."""
        return time.perf_counter() - self._started

    def _padded_log(self) -> np.ndarray:
        """[seeds, steps per epoch, 2]: the same shape in every checkpoint."""
        missing = self._trainer.schedule.steps_per_epoch - self._log.shape[1]
        return np.pad(self._log, ((0, 0), (0, missing), (0, 0)))


def _resumable(schedule: Schedule, run: RunDirectory, store: Checkpoints) -> set[int]:
    """The steps of a run's intact checkpoints up to which its files have all metrics and steps."""
    rows = {row.step for row in run.metrics()} | {0}
    steps = run.steps()
    if steps is not None:  # An older version kept none.
        rows = {row for row in rows if row <= len(steps)}
    return {
        step
        for step in store.intact()
        if step <= schedule.total_steps and schedule.last_evaluation(step) in rows
    }


def _selected(recipe: Recipe, row: Evaluation, best: Evaluation | None) -> bool:
    """Whether this evaluation replaces the best so far; the latest of equal ones is selected."""
    if best is None or recipe.selection == "last":
        return True
    return (row.validation_accuracy or 0.0) >= (best.validation_accuracy or 0.0)


def _result(trainer: Trainer, index: int, row: Evaluation, seconds: float) -> dict[str, Any]:
    params = jax.tree.leaves(trainer.states.params)
    return {
        "model": trainer.recipe.model,
        "dataset": trainer.recipe.dataset,
        "seed": trainer.seeds[index],
        "epochs": trainer.recipe.epochs,
        "test_accuracy": row.test_accuracy,
        "selection": trainer.recipe.selection,
        "selected_step": row.step,
        "parameters": sum(leaf.size for leaf in params) // len(trainer.seeds),
        "seconds": seconds,
    }


def diverged(trainer: Trainer, what: str, finite: np.ndarray) -> Failure:
    """The error for training in which `what` is not finite.

    Args:
      trainer: trains the seeds.
      what: used as a subject.
      finite: [seeds], whether that of a seed is.
    """
    seeds = [str(seed) for seed, fine in zip(trainer.seeds, finite, strict=True) if not fine]
    if len(trainer.seeds) > 1:
        what += f" of seeds {', '.join(seeds)}" if len(seeds) > 1 else f" of seed {seeds[0]}"
    return Failure(
        f"Training diverged: {what} is not a finite number; try a learning rate below"
        f" {trainer.recipe.learning_rate} (earlier checkpoints are kept)."
    )
