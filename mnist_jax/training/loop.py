"""Runs a trainer to the end of its recipe, through interruptions, and leaves run directories."""

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mnist_jax.errors import Failure
from mnist_jax.runs.checkpoints import Checkpoints
from mnist_jax.runs.directory import RunDirectory
from mnist_jax.training.step import LOSSES
from mnist_jax.training.trainer import Trainer

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


@dataclass(frozen=True)
class Resumed:
    """Training goes on from a checkpoint, of so many steps."""

    step: int


Report = Callable[[Progress | Evaluation | Resumed], object]


class Stopped(Exception):
    """Training ended early, as asked, and goes on from `step` when it is started again."""

    def __init__(self, step: int):
        super().__init__(f"stopped after step {step}")
        self.step = step


def fit(
    trainer: Trainer,
    runs: Sequence[RunDirectory],
    report: Report,
    *,
    save_every: float = 10.0,
    stop: Callable[[], bool] = lambda: False,
) -> list[dict[str, Any]]:
    """Trains to the end of the recipe, from the latest checkpoint if there is one.

    However often it is interrupted and by what, parameters, optimiser state and metrics (but for
    times) end up the same, bit by bit.

    Args:
      trainer: fresh.
      runs: where each seed's files go, in the order of the trainer's seeds.
      report: is told of progress and evaluations.
      save_every: seconds between checkpoints. The evaluations that may be selected and the end of
        training are saved in any case.
      stop: asked about twice a second whether to save and end early.

    Returns:
      The result of each seed, as written to its `result.json`.

    Raises:
      Stopped: `stop` said so; everything so far is saved.
      Failure: the loss is no longer a finite number, or a directory can't be written.
    """
    with contextlib.ExitStack() as stack:
        stores = [stack.enter_context(Checkpoints(run.checkpoints)) for run in runs]
        session = _Session(trainer, runs, stores)
        session.resume()
        if trainer.step:
            report(Resumed(trainer.step))
        stopping = False
        saved = time.perf_counter()
        stretch = 1
        while trainer.step < trainer.total_steps and not stopping:
            progress, seconds = session.advance(stretch)
            report(progress)
            # Never so much more that one slow start makes the next stretch endless.
            stretch = min(4 * stretch, max(1, round(stretch * _STRETCH / seconds)))
            selected = [False] * len(runs)
            if trainer.step == _last_evaluation(trainer, trainer.step):
                rows, selected = session.evaluate()
                report(Evaluation(rows))
            stopping = stop()
            last = stopping or trainer.step == trainer.total_steps
            to_keep = trainer.recipe.selection == "best_validation" and any(selected)
            if last or to_keep or time.perf_counter() - saved >= save_every:
                session.save(selected)
                saved = time.perf_counter()
    if trainer.step < trainer.total_steps:
        raise Stopped(trainer.step)
    return session.results()


def groups(runs: Sequence[RunDirectory]) -> list[list[int]]:
    """Splits runs, given by place, into those that `fit` can take together and lose nothing.

    They have an intact checkpoint of the same step, or none of them has any.
    """
    found: list[tuple[set[int], list[int]]] = []
    for place, run in enumerate(runs):
        # The latest two: to go on from the best one would lose what follows it.
        steps = set(Checkpoints(run.checkpoints).intact()[-2:])
        for common, members in found:
            if common & steps or not (common or steps):
                common &= steps
                members.append(place)
                break
        else:
            found.append((steps, [place]))
    return [members for _, members in found]


class _Session:
    """Training in progress: the trainer, where its seeds' files go, and what it has shown.

    Attributes:
      log: [seeds, steps, 2], loss and accuracy of every step since the last evaluation.
      images: how many were trained on since then.
      busy: seconds that took.
      best: the row of `metrics.jsonl` that is selected so far, of every seed.
    """

    def __init__(
        self, trainer: Trainer, runs: Sequence[RunDirectory], stores: Sequence[Checkpoints]
    ):
        self._trainer = trainer
        self._runs = runs
        self._stores = stores
        self._started = time.perf_counter()
        self.log = np.zeros((len(runs), 0, 2), np.float32)
        self.images, self.busy = 0.0, 0.0
        self.best: list[dict[str, Any] | None] = [None] * len(runs)

    @property
    def seconds(self) -> float:
        """Since the beginning of the run, without interruptions."""
        return time.perf_counter() - self._started

    def resume(self) -> None:
        """Goes to the latest step that all seeds have a checkpoint and the metrics of."""
        trainer = self._trainer
        pairs = zip(self._runs, self._stores, strict=True)
        usable = [_resumable(trainer, run, store) for run, store in pairs]
        if step := max(set.intersection(*usable), default=0):
            like = {"log": self._padded_log()[0], "times": np.zeros(3)}
            saved = [
                store.restore(state | like, step)[1]
                for store, state in zip(self._stores, trainer.saved(), strict=True)
            ]
            trainer.restore(step, saved)
            count = step - _last_evaluation(trainer, step)
            self.log = np.stack([seed["log"] for seed in saved])[:, :count]
            self.images, self.busy, seconds = saved[0]["times"].tolist()
            self._started -= seconds
        for i, run in enumerate(self._runs):
            for row in run.rewind(step):
                if _selected(trainer, row, self.best[i]):
                    self.best[i] = row

    def save(self, selected: Sequence[bool]) -> None:
        """Saves every seed, as the best so far where it was selected."""
        times = np.asarray([self.images, self.busy, self.seconds])
        seeds = zip(self._stores, self._trainer.saved(), self._padded_log(), selected, strict=True)
        for store, state, log, best in seeds:
            store.save(self._trainer.step, state | {"log": log, "times": times}, best=best)

    def advance(self, count: int) -> tuple[Progress, float]:
        """Takes up to `count` steps, but not past an evaluation; also says how long that took."""
        trainer, before, start = self._trainer, self._trainer.step, time.perf_counter()
        log = trainer.advance(min(count, _next_evaluation(trainer) - before))
        seconds = time.perf_counter() - start
        _check_finite(trainer, before, log)
        images = sum(trainer.batch_size(step) for step in range(before, trainer.step))
        self.log = np.concatenate([self.log, log], axis=1)
        self.images, self.busy = self.images + images, self.busy + seconds
        speed = len(self._runs) * images / seconds
        return Progress(trainer.step, float(log[..., 0].mean()), speed), seconds

    def evaluate(self) -> tuple[list[dict[str, Any]], list[bool]]:
        """Writes a row for each seed; also says which of them are selected so far."""
        rows, predictions = _evaluate(self._trainer, self.log)
        selected = []
        for i, (run, row) in enumerate(zip(self._runs, rows, strict=True)):
            row["images_per_second"] = self.images / self.busy
            row["seconds"] = self.seconds
            run.append_metrics(row)
            selected.append(_selected(self._trainer, row, self.best[i]))
            if selected[i]:
                self.best[i] = row
                run.write_predictions(predictions[i])
        self.log, self.images, self.busy = self.log[:, :0], 0.0, 0.0
        return rows, selected

    def results(self) -> list[dict[str, Any]]:
        """Writes and returns each seed's `result.json`."""
        results = []
        for i, (run, selected) in enumerate(zip(self._runs, self.best, strict=True)):
            assert selected is not None  # The last step is always evaluated.
            results.append(_result(self._trainer, i, selected, self.seconds))
            run.write_result(results[-1])
        return results

    def _padded_log(self) -> np.ndarray:
        """[seeds, steps per epoch, 2]: the same shape in every checkpoint."""
        missing = self._trainer.steps_per_epoch - self.log.shape[1]
        return np.pad(self.log, ((0, 0), (0, missing), (0, 0)))


def _next_evaluation(trainer: Trainer) -> int:
    """The step of the next evaluation: a multiple of `eval_every`, or the end of an epoch."""
    step, epoch = trainer.step, trainer.steps_per_epoch
    every = trainer.recipe.eval_every or epoch
    return min(step - step % every + every, step - step % epoch + epoch)


def _last_evaluation(trainer: Trainer, step: int) -> int:
    """The step of the last evaluation up to a step; 0 before the first."""
    epoch = trainer.steps_per_epoch
    return max(step - step % (trainer.recipe.eval_every or epoch), step - step % epoch)


def _resumable(trainer: Trainer, run: RunDirectory, store: Checkpoints) -> set[int]:
    """The steps of a run's intact checkpoints whose evaluations are all in `metrics.jsonl`."""
    rows = {row["step"] for row in run.metrics()}
    return {
        step
        for step in store.intact()
        if step <= trainer.total_steps and _last_evaluation(trainer, step) in rows | {0}
    }


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
    if not np.isfinite(losses).all():
        raise _diverged(trainer, f"the test loss after step {trainer.step}")
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
        raise _diverged(trainer, f"the loss of step {before + bad[0] + 1}")


def _diverged(trainer: Trainer, what: str) -> Failure:
    return Failure(
        f"Training diverged: {what} is not a finite number; try a learning rate below"
        f" {trainer.recipe.learning_rate} (the last good checkpoint is kept)."
    )
