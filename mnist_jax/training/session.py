"""Trains recipes to the end, across interruptions, and writes their run directories."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mnist_jax import hosts
from mnist_jax.data import Dataset
from mnist_jax.recipe import Recipe
from mnist_jax.runs.checkpoints import Checkpoints
from mnist_jax.runs.directory import RunDirectory
from mnist_jax.runs.environment import describe_environment, difference
from mnist_jax.runs.metrics import Evaluation
from mnist_jax.training import devices
from mnist_jax.training.seed_files import SeedFiles, diverged
from mnist_jax.training.trainer import Trainer

# Seconds of training between two `Progress` events.
_REPORT_EVERY = 0.5


@dataclass(frozen=True)
class Progress:
    """Training progress, about twice a second.

    Loss (mean over the seeds) and speed (of all seeds together) cover the time since the last one.
    """

    step: int
    loss: float
    images_per_second: float


@dataclass(frozen=True)
class Evaluated:
    """A new row of `metrics.jsonl` for every seed."""

    rows: Sequence[Evaluation]


@dataclass(frozen=True)
class Resumed:
    """Training resumes from the checkpoint of `step`."""

    step: int


Listener = Callable[[Progress | Evaluated | Resumed], object]
# Opens a listener for as long as a trainer writes to these runs.
OpenListener = Callable[[Trainer, Sequence[RunDirectory]], AbstractContextManager[Listener]]


class Weights(NamedTuple):
    """Initial weights.

    Attributes:
      arrays: `params` and `batch_stats` of one network, without a leading axis.
      sha256: the digest of the arrays.
    """

    arrays: Mapping[str, Any]
    sha256: str


ReadWeights = Callable[[], Weights]


class Stopped(Exception):
    """Training stopped early, as requested, and resumes from `step` when it is started again.

    `reason` is what `stop` returned, here or in another process.
    """

    def __init__(self, step: int, total_steps: int, reason: int):
        super().__init__(f"stopped after step {step} of {total_steps}")
        self.step, self.total_steps, self.reason = step, total_steps, reason


def train(
    pairs: Sequence[tuple[Recipe, RunDirectory]],
    dataset: Dataset,
    *,
    listeners: Iterable[OpenListener] = (),
    num_devices: int | None = None,
    overwrite: bool = False,
    save_every: float = 10.0,
    stop: Callable[[], int] = lambda: 0,
    read_weights: ReadWeights | None = None,
) -> list[dict[str, Any]]:
    """Trains or resumes recipes that differ only in their seed, each in its run directory.

    Args:
      pairs: recipes and their run directories, which `groups` has put together.
      dataset: the source of the images.
      listeners: open listeners for progress and evaluations.
      num_devices: how many devices to use; by default all that divide the work. A resumed run
        splits a batch among as many as when it began, if that many are available.
      overwrite: whether to start again if a run already exists.
      save_every: seconds between checkpoints. The evaluations that may be selected and the end of
        training are saved in any case.
      stop: called about twice a second; returns non-zero, the reason, to save and stop early.
      read_weights: returns initial weights, used if there is no checkpoint yet; by default every
        seed initialises its own. If it raises, the directories are left unchanged.

    Returns:
      The result of each seed, as in its `result.json`.

    Raises:
      Stopped: `stop` requested it; everything so far is saved.
      UsageError: a recipe does not fit its directory, the dataset or the devices.
      ValueError: `read_weights` is given but the recipe has no `init_from`, or the reverse; or
        several seeds are given and the recipe has a patience, which may end each at another epoch.
      Busy: another process is training in a directory.
      Failure: a directory can't be written, or training diverged.
    """
    seeds = [recipe.seed for recipe, _ in pairs]
    # Only the first process reads and writes files.
    runs = [run for _, run in pairs] if hosts.is_first() else []
    begun = hosts.broadcast([] if overwrite else [parts for run in runs if (parts := run.parts())])
    trainer = Trainer(
        pairs[0][0],
        dataset,
        seeds=seeds,
        num_devices=num_devices,
        parts=begun[0] if begun else None,
    )
    environment = describe_environment(dataset, devices.describe(trainer.mesh))
    if bool(pairs[0][0].init_from) != (read_weights is not None):
        raise ValueError("Give `read_weights` if, and only if, the recipe has `init_from`.")
    if pairs[0][0].patience and len(pairs) > 1:
        raise ValueError("A recipe with `patience` is trained one seed at a time.")
    if read_weights:
        # Once, since --overwrite may clear the very run that the weights come from.
        read_weights = functools.cache(functools.partial(_the_same_weights, read_weights))
        there = any(Checkpoints(run.checkpoints).intact() for run in runs)
        if hosts.broadcast(overwrite or not there):
            read_weights()
    with contextlib.ExitStack() as stack:
        # All locks first: if one is taken, nothing has been changed.
        for run in runs:
            stack.enter_context(run.locked())
        for run in runs:
            run.begun()  # Or raises.
        done = not overwrite and all(
            run.finished(recipe) for (recipe, _), run in zip(pairs, runs, strict=False)
        )
        if hosts.broadcast(done):
            return [run.result() or {} for run in runs]  # Another command was faster.
        for (recipe, _), run in zip(pairs, runs, strict=False):
            if overwrite:
                run.clear()
            run.create(recipe, environment | {"seeds_together": len(seeds)})
        opened = [stack.enter_context(listener(trainer, runs)) for listener in listeners]
        return fit(
            trainer,
            runs,
            lambda event: [listener(event) for listener in opened],
            save_every=save_every,
            stop=stop,
            read_weights=read_weights,
        )


def _the_same_weights(read_weights: ReadWeights) -> Weights:
    """Reads weights in every process, each perhaps from its own disk.

    Raises:
      UsageError: in the first process, if another one's are different.
    """
    weights = read_weights()
    hosts.check_same({"init_from_sha256": weights.sha256}, difference)
    return weights


def fit(
    trainer: Trainer,
    runs: Sequence[RunDirectory],
    listener: Listener,
    *,
    save_every: float = 10.0,
    stop: Callable[[], int] = lambda: 0,
    read_weights: ReadWeights | None = None,
) -> list[dict[str, Any]]:
    """Trains to the end of the recipe, from the latest checkpoint if there is one.

    Interruptions, whatever their number and cause, do not change a bit of the final parameters,
    optimiser state and metrics (except times). As `train`, for a fresh trainer and directories that
    have been locked and created.
    """
    schedule = trainer.schedule
    with contextlib.ExitStack() as stack:
        stores = [stack.enter_context(Checkpoints(run.checkpoints)) for run in runs]
        files = SeedFiles(trainer, runs, stores)
        files.resume()
        if trainer.step:
            listener(Resumed(trainer.step))
        elif read_weights is not None:
            weights = read_weights()
            trainer.start_from(weights.arrays)
            for run in runs:
                run.note(init_from_sha256=weights.sha256)
        if not files.ended:
            trainer.compile()
            hosts.barrier()
        stopping = 0
        saved = time.perf_counter()
        interval = 1
        while not files.ended and not stopping:
            before, start = trainer.step, time.perf_counter()
            log = trainer.advance(min(interval, schedule.next_evaluation(before) - before))
            seconds = time.perf_counter() - start
            finite = np.isfinite(log[..., 0])
            if (bad := np.flatnonzero(~finite.all(axis=0))).size:
                what = f"the loss of step {before + bad[0] + 1}"
                raise diverged(trainer, what, finite[:, bad[0]])
            images = int(schedule.images(before, trainer.step).sum())
            files.add(log, images, seconds)
            speed = len(trainer.seeds) * images / seconds
            listener(Progress(trainer.step, float(log[..., 0].mean()), speed))
            # At most four times as many: a wrong estimate must not delay the next event for long.
            in_time = round((trainer.step - before) * _REPORT_EVERY / seconds)
            interval = min(4 * interval, max(1, in_time))
            selected = False
            if trainer.step == schedule.last_evaluation(trainer.step):
                rows, selected = files.evaluate()
                listener(Evaluated(rows))
            due = time.perf_counter() - saved >= save_every
            # All processes take, save after and stop after the same steps.
            stopping = max(hosts.gather(int(stop())), default=0)
            agreed = hosts.broadcast([stopping, interval, int(selected), int(due)])
            stopping, interval = agreed[:2]
            selected, due = bool(agreed[2]), bool(agreed[3])
            last = stopping > 0 or files.ended
            to_keep = trainer.recipe.selection == "best_validation" and selected
            if last or to_keep or due:
                files.save()
                saved = time.perf_counter()
    if not files.ended:
        raise Stopped(trainer.step, schedule.total_steps, stopping)
    return files.results()


def groups(runs: Sequence[RunDirectory]) -> list[list[int]]:
    """Groups runs, given by index, that `train` can train together without losing progress.

    Runs of a group have an intact checkpoint of the same step, or none has any, and they began
    with batches split into the same number of parts.
    """
    found: list[_Group] = []
    for place, run in enumerate(runs):
        # The latest two: resuming from the best one would lose the steps after it.
        one = _Group(set(Checkpoints(run.checkpoints).intact()[-2:]), run.parts(), [place])
        for i, group in enumerate(found):
            if both := _joined(group, one):
                found[i] = both
                break
        else:
            found.append(one)
    return [group.members for group in found]


class _Group(NamedTuple):
    """Runs that can be trained together: common checkpoints, and parts of a batch if known."""

    steps: set[int]
    parts: int | None
    members: list[int]


def _joined(one: _Group, other: _Group) -> _Group | None:
    steps = one.steps & other.steps
    if not steps and (one.steps or other.steps):
        return None
    if one.parts and other.parts and one.parts != other.parts:
        return None
    return _Group(steps, one.parts or other.parts, one.members + other.members)
