"""Evaluations as TensorBoard event files."""

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import logging
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import RecordWriter
from tensorboardX.summary import scalar

from mnist_jax.runs.directory import RunDirectory
from mnist_jax.runs.metrics import Evaluation
from mnist_jax.training.session import Evaluated, Listener, Progress, Resumed
from mnist_jax.training.trainer import Trainer


@contextlib.contextmanager
def writers(trainer: Trainer, runs: Sequence[RunDirectory]) -> Iterator[Listener]:
    """Writes the values of every evaluation to its run's `tensorboard/`, by step.

    The events are a copy of the metrics: if they can't be written, a warning says so, and training
    goes on without them.
    """
    del trainer
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(_Writer(run.path / "tensorboard")) for run in runs]

        def listener(event: Progress | Evaluated | Resumed) -> None:
            if isinstance(event, Evaluated):
                for writer, row in zip(opened, event.rows, strict=True):
                    writer.add(row)

        yield listener


class _Writer(contextlib.AbstractContextManager["_Writer"]):
    """Writes events at once. tensorboardX's own queue blocks forever once its thread has failed."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._file: RecordWriter | None = None
        self._failed = False

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            # What could not be written is still buffered, and fails again.
            with contextlib.suppress(OSError):
                self._file.close()

    def add(self, row: Evaluation) -> None:
        """Writes an evaluation, unless writing has failed before."""
        if self._failed:
            return
        try:
            if self._file is None:
                self._folder.mkdir(exist_ok=True)
                path = self._folder / f"events.out.tfevents.{time.time_ns()}"
                self._file = RecordWriter(str(path))
                self._write(self._file, file_version="brain.Event:2")
            for name, value in json.loads(row.to_json()).items():
                if name != "step":
                    self._write(self._file, step=row.step, summary=scalar(name, value))
            self._file.flush()
        except OSError as error:
            self._failed = True
            what = "TensorBoard's events can't be written to %s (%s); training goes on without them"
            logging.warning(what, self._folder, error.strerror)

    @staticmethod
    def _write(file: RecordWriter, **fields: Any) -> None:
        file.write(Event(wall_time=time.time(), **fields).SerializeToString())
