"""One worker of a sweep: trains one run after another that no other process has claimed."""

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial

from absl import logging
from rich.console import Console

from experiments.evidence import records, training
from experiments.sweeps import plan
from experiments.sweeps.plan import Run, Sweep
from mnist_jax.cli.signals import Stop
from mnist_jax.errors import Failure
from mnist_jax.runs.directory import Busy, RunDirectory
from mnist_jax.training.session import Evaluated, Listener, Progress, Resumed, Stopped
from mnist_jax.training.trainer import Trainer


def work(out: Console, sweep: Sweep, name: str, stop: Stop) -> int:
    """Trains and records runs until none is waiting.

    A run is claimed by locking its directory. If it fails, its message is stored and no worker of
    this sweep retries it.

    Args:
      out: gets a line when a run starts or resumes, and when it ends.
      sweep: what to train, in this order of rows.
      name: of the sweep, the same for all its workers.
      stop: whether to save and exit.

    Returns:
      How many runs failed.

    Raises:
      Stopped: `stop` asked for it during a run.
    """
    failed = set[str]()
    while not stop() and (run := next(_free(sweep, name, failed), None)):
        try:
            _train(out, sweep, run, name, stop)
        except Busy:
            continue  # Another process was faster.
        except Stopped:
            raise
        except Failure as failure:
            why = _why(failure)
        except Exception as error:  # One run's error must not affect the others.
            logging.exception("%s", run.name)
            why = _why(error)
        else:
            plan.forget_failure(run)
            continue
        failed.add(run.name)
        plan.note_failure(run, name, why)
        out.print(f"{run.name} failed: {why}")
    return len(failed)


def _free(sweep: Sweep, name: str, failed: set[str]) -> Iterator[Run]:
    for run in sweep.missing(sweep.recorded()):
        given_up = run.name in failed or plan.failure_of(run).get("sweep") == name
        if not given_up and not run.directory.busy():
            yield run


def _train(out: Console, sweep: Sweep, run: Run, name: str, stop: Stop) -> None:
    listener = partial(_claimed, out, run, name)
    # One device, even where more are visible: they are for the other workers.
    made = training.train(
        sweep.places,
        run.article,
        run.row,
        [run.recipe],
        listeners=[listener],
        stop=stop,
        num_devices=1,
    )
    for record in made:
        if records.append(record, sweep.places.results):
            out.print(f"{run.name}: {record.accuracy:.2f}%")


def _why(error: Exception) -> str:
    return str(error) if isinstance(error, Failure) else f"{type(error).__name__}: {error}"


@contextlib.contextmanager
def _claimed(
    out: Console, run: Run, name: str, trainer: Trainer, runs: Sequence[RunDirectory]
) -> Iterator[Listener]:
    """Reports a run; notes its failure while the lock still keeps other workers from it."""
    del runs
    if plan.failure_of(run).get("sweep") == name:
        raise Busy(f"{run.name} failed while this worker was looking for a run.")
    out.print(f"{run.name}: {trainer.schedule.total_steps} steps")

    def listener(event: Progress | Evaluated | Resumed) -> None:
        if isinstance(event, Resumed):
            out.print(f"{run.name}: continues at step {event.step}")

    try:
        yield listener
    except Stopped:
        raise
    except Exception as error:
        plan.note_failure(run, name, _why(error))
        raise
