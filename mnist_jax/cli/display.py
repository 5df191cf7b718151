"""What the training command shows: the networks, the layer table, progress and epochs."""

import contextlib
import sys
from collections.abc import Iterator, Sequence

import numpy as np
from rich import progress
from rich.console import Console
from rich.table import Table

from mnist_jax.models import abstract_model, model_entry, model_names
from mnist_jax.models.layers import Network
from mnist_jax.models.summary import summarize
from mnist_jax.runs.directory import RunDirectory
from mnist_jax.training.session import Evaluated, Listener, Progress, Resumed
from mnist_jax.training.trainer import Trainer


def console() -> Console:
    """Standard output; a fixed width where it is no terminal, so that lines do not wrap."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 120)


def list_models(out: Console) -> None:
    """Prints every network with its article, size and published accuracy."""
    table = Table("model", "parameters", "published", "article", box=None)
    for name in model_names():
        entry = model_entry(name)
        layers = summarize(abstract_model(name, **entry.recipe.model_args))
        parameters = sum(layer.parameters for layer in layers)
        table.add_row(name, f"{parameters:,}", entry.published, entry.article)
    out.print(table)


def layer_table(out: Console, model: Network) -> None:
    """Prints a network's layers with output shapes (for one image) and parameter counts."""
    table = Table("layer", "kind", "output shape", "parameters", box=None)
    layers = summarize(model)
    for layer in layers:
        shape = "×".join(str(side) for side in layer.output_shape)
        table.add_row(layer.name, layer.kind, shape, f"{layer.parameters:,}")
    table.add_row("total", "", "", f"{sum(layer.parameters for layer in layers):,}")
    out.print(table)


def class_table(out: Console, names: Sequence[str], confusion: np.ndarray) -> None:
    """Prints the accuracy on every class; `confusion` has a row for each true class."""
    table = Table("class", "images", "correct", "accuracy", box=None)
    for name, row, correct in zip(names, confusion, confusion.diagonal(), strict=True):
        table.add_row(name, f"{row.sum():,}", f"{correct:,}", f"{correct / row.sum():.2%}")
    out.print(table)


def confusion_matrix(out: Console, names: Sequence[str], confusion: np.ndarray) -> None:
    """Prints how many images of each true class (rows) got each predicted one (columns)."""
    table = Table("true \\ predicted", *names, box=None)
    for name, row in zip(names, confusion, strict=True):
        table.add_row(name, *(str(count) for count in row))
    out.print(table)


@contextlib.contextmanager
def training(out: Console, trainer: Trainer, runs: Sequence[RunDirectory]) -> Iterator[Listener]:
    """Shows a live bar on a terminal, and a line after every epoch."""
    del runs
    schedule = trainer.schedule
    bar = progress.Progress(
        progress.TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
        progress.BarColumn(),
        progress.TextColumn("loss {task.fields[loss]:.4f}  {task.fields[speed]:,.0f} images/s "),
        progress.TimeRemainingColumn(),
        console=out,
        disable=not out.is_terminal,
        transient=True,
    )
    epochs = schedule.epochs
    task = bar.add_task(
        "", total=schedule.total_steps, epoch=1, epochs=epochs, loss=float("nan"), speed=0.0
    )

    def listener(event: Progress | Evaluated | Resumed) -> None:
        if isinstance(event, Progress):
            epoch = (event.step - 1) // schedule.steps_per_epoch + 1
            speed = event.images_per_second
            bar.update(task, completed=event.step, epoch=epoch, loss=event.loss, speed=speed)
        elif isinstance(event, Resumed):
            done = event.step / schedule.steps_per_epoch
            out.print(f"Continuing at step {event.step}, after {done:.2f} of {epochs} epochs.")
        elif event.rows[0].step % schedule.steps_per_epoch == 0:
            for seed, row in zip(trainer.seeds, event.rows, strict=True):
                held_out = row.validation_accuracy
                validation = "" if held_out is None else f"  validation accuracy {held_out:.2%}"
                prefix = f"seed {seed}  " if len(trainer.seeds) > 1 else ""
                out.print(
                    f"{prefix}epoch {row.epoch:.0f}/{epochs}"
                    f"  train loss {row.train_loss:.4f}"
                    f"  train accuracy {row.train_accuracy:.2%}"
                    f"{validation}  test accuracy {row.test_accuracy:.2%}"
                    f"  {row.images_per_second:,.0f} images/s"
                )

    with bar:
        yield listener
