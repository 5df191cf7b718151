"""Evaluations as TensorBoard event files."""

import contextlib
import json
from collections.abc import Iterator, Sequence

from tensorboardX import SummaryWriter

from mnist_jax.runs.directory import RunDirectory
from mnist_jax.training.session import Evaluated, Listener, Progress, Resumed
from mnist_jax.training.trainer import Trainer


@contextlib.contextmanager
def writers(trainer: Trainer, runs: Sequence[RunDirectory]) -> Iterator[Listener]:
    """Writes the values of every evaluation to its run's `tensorboard/`, by step."""
    del trainer
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(SummaryWriter(str(run.path / "tensorboard"))) for run in runs]

        def listener(event: Progress | Evaluated | Resumed) -> None:
            if isinstance(event, Evaluated):
                for writer, row in zip(opened, event.rows, strict=True):
                    for name, value in json.loads(row.to_json()).items():
                        if name != "step":
                            writer.add_scalar(name, value, row.step)

        yield listener
