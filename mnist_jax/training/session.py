"""Trains runs to the end of their recipe, through interruptions, and leaves run directories."""

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
from mnist_jax.runs.environment import describe_environment
from mnist_jax.runs.metrics import Evaluation
from mnist_jax.training import devices
from mnist_jax.training.seed_files import SeedFiles, diverged
from mnist_jax.training.trainer import Trainer

# Seconds of training between two events of progress.
_STRETCH = 0.5


@dataclass(frozen=True)
class Progress:
    """How far training is, about twice a second.

    Loss (a mean over the seeds) and speed (of all seeds together) are of the time since the last.
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
    """Training goes on from a checkpoint, of so many steps."""

    step: int


Listener = Callable[[Progress | Evaluated | Resumed], object]
# Opens a listener for as long as a trainer writes into these runs.
Watch = Callable[[Trainer, Sequence[RunDirectory]], AbstractContextManager[Listener]]


class Weights(NamedTuple):
    """What training may start from.

    Attributes:
      arrays: `params` and `batch_stats` of one network, without a leading axis.
      sha256: of the arrays.
    """

    arrays: Mapping[str, Any]
    sha256: str


ReadWeights = Callable[[], Weights]


class Stopped(Exception):
    """Training ended early, as asked, and goes on from `step` when it is started again.

    `asked` is what `stop` said, here or in another process.
    """

    def __init__(self, step: int, total_steps: int, asked: int):
        super().__init__(f"stopped after step {step} of {total_steps}")
        self.step, self.total_steps, self.asked = step, total_steps, asked


def train(
    pairs: Sequence[tuple[Recipe, RunDirectory]],
    dataset: Dataset,
    *,
    watches: Iterable[Watch] = (),
    num_devices: int | None = None,
    overwrite: bool = False,
    save_every: float = 10.0,
    stop: Callable[[], int] = lambda: 0,
    read_weights: ReadWeights | None = None,
) -> list[dict[str, Any]]:
    """Trains recipes that differ in their seed only, each in its run directory, or goes on.

    Args:
      pairs: what to train, and where its files go: directories that `groups` puts together.
      dataset: where the images come from.
      watches: who is told of progress and evaluations.
      num_devices: how many devices to use; by default all that divide the work. A run that goes
        on has as many share a batch as when it began, if there are so many.
      overwrite: whether to start again where there is a run already.
      save_every: seconds between checkpoints. The evaluations that may be selected and the end of
        training are saved in any case.
      stop: asked about twice a second whether to save and end early; says why by a number.
      read_weights: gives what to start from where there is no checkpoint yet; by default every
        seed has its own. What it raises leaves the directories as they were.

    Returns:
      The result of each seed, as in its `result.json`.

    Raises:
      Stopped: `stop` said so; everything so far is saved.
      UsageError: a recipe does not fit its directory, the dataset or the devices.
      ValueError: there is `read_weights`, but no `init_from` in the recipe, or the reverse; or
        there are several seeds, and the recipe has a patience, which ends each at another epoch.
      Busy: another process trains in a directory.
      Failure: a directory can't be written, or training diverged.
    """
    seeds = [recipe.seed for recipe, _ in pairs]
    # Of several processes the first has the files.
    runs = [run for _, run in pairs] if hosts.is_first() else []
    begun = hosts.told([] if overwrite else [parts for run in runs if (parts := run.parts())])
    trainer = Trainer(
        pairs[0][0],
        dataset,
        seeds=seeds,
        num_devices=num_devices,
        parts=begun[0] if begun else None,
    )
    environment = describe_environment(dataset, devices.describe(trainer.mesh))
    if bool(pairs[0][0].init_from) != (read_weights is not None):
        raise ValueError("A recipe with `init_from` needs `read_weights`, and no other has it.")
    if pairs[0][0].patience and len(pairs) > 1:
        raise ValueError("A recipe with `patience` is trained one seed at a time.")
    if read_weights:
        # Once, since --overwrite may clear the very run that they are of.
        read_weights = functools.cache(read_weights)
        if overwrite or not any(Checkpoints(run.checkpoints).intact() for run in runs):
            read_weights()  # In every process.
    with contextlib.ExitStack() as stack:
        # All locks first: if one is taken, nothing has been changed.
        for run in runs:
            stack.enter_context(run.locked())
        for run in runs:
            run.begun()  # Or refuses.
        done = not overwrite and all(
            run.finished(recipe) for (recipe, _), run in zip(pairs, runs, strict=False)
        )
        if hosts.told(done):
            return [run.result() or {} for run in runs]  # Another command was faster.
        for (recipe, _), run in zip(pairs, runs, strict=False):
            if overwrite:
                run.clear()
            run.create(recipe, environment | {"seeds_together": len(seeds)})
        listeners = [stack.enter_context(watch(trainer, runs)) for watch in watches]
        return fit(
            trainer,
            runs,
            lambda event: [listener(event) for listener in listeners],
            save_every=save_every,
            stop=stop,
            read_weights=read_weights,
        )


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

    However often it is interrupted and by what, parameters, optimiser state and metrics (but for
    times) end up the same, bit by bit. As `train`, for a fresh trainer and directories that have
    been locked and created.
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
            hosts.wait_for_all()
        stopping = 0
        saved = time.perf_counter()
        stretch = 1
        while not files.ended and not stopping:
            before, start = trainer.step, time.perf_counter()
            log = trainer.advance(min(stretch, schedule.next_evaluation(before) - before))
            seconds = time.perf_counter() - start
            if (bad := np.flatnonzero(~np.isfinite(log[..., 0]).all(axis=0))).size:
                raise diverged(trainer, f"the loss of step {before + bad[0] + 1}")
            images = int(schedule.images(before, trainer.step).sum())
            files.add(log, images, seconds)
            speed = len(trainer.seeds) * images / seconds
            listener(Progress(trainer.step, float(log[..., 0].mean()), speed))
            # Never so much more that one slow start makes the next stretch endless.
            in_time = round((trainer.step - before) * _STRETCH / seconds)
            stretch = min(4 * stretch, max(1, in_time))
            selected = False
            if trainer.step == schedule.last_evaluation(trainer.step):
                rows, selected = files.evaluate()
                listener(Evaluated(rows))
            due = time.perf_counter() - saved >= save_every
            # All processes take the same steps, save after the same, and stop after the same.
            stopping = max(hosts.gathered(int(stop())), default=0)
            agreed = hosts.told([stopping, stretch, int(selected), int(due)])
            stopping, stretch = agreed[:2]
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
    """Splits runs, given by place, into those that `train` can take together and lose nothing.

    They have an intact checkpoint of the same step, or none of them has any, and they began with
    batches in as many parts.
    """
    found: list[_Group] = []
    for place, run in enumerate(runs):
        # The latest two: to go on from the best one would lose what follows it.
        one = _Group(set(Checkpoints(run.checkpoints).intact()[-2:]), run.parts(), [place])
        for i, group in enumerate(found):
            if both := _joined(group, one):
                found[i] = both
                break
        else:
            found.append(one)
    return [group.members for group in found]


class _Group(NamedTuple):
    """Runs that can be trained together: their common steps, and parts of a batch if known."""

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
