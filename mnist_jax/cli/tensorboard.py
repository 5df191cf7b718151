"""Evaluations as TensorBoard event files."""

import contextlib
from collections.abc import Iterator, Sequence

from tensorboardX import SummaryWriter

from mnist_jax.runs.directory import RunDirectory
from mnist_jax.training.loop import Evaluation, Progress, Report, Resumed


@contextlib.contextmanager
def writers(runs: Sequence[RunDirectory]) -> Iterator[Report]:
    """Yields a report that writes every row's numbers into its run's `tensorboard/`, by step."""
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(SummaryWriter(str(run.path / "tensorboard"))) for run in runs]

        def report(event: Progress | Evaluation | Resumed) -> None:
            if isinstance(event, Evaluation):
                for writer, row in zip(opened, event.rows, strict=True):
                    for name, value in row.items():
                        if name != "step":
                            writer.add_scalar(name, value, row["step"])

        yield report
