"""Terminal output of commands: layers, progress and epochs, class accuracies and confusion."""

import contextlib
import dataclasses
import sys
import time
from collections.abc import Iterator, Sequence

import numpy as np
from rich import progress
from rich.console import Console
from rich.table import Table

from mnist_jax import hosts
from mnist_jax.models import abstract_model, model_entry, model_names
from mnist_jax.models.layers import Network
from mnist_jax.models.summary import summarize
from mnist_jax.runs.directory import RunDirectory
from mnist_jax.runs.metrics import Evaluation
from mnist_jax.training.schedule import Schedule
from mnist_jax.training.session import Evaluated, Listener, Progress, Resumed
from mnist_jax.training.trainer import Trainer

# Seconds without a line after which progress is printed if the output is not a terminal.
_SILENCE = 30


def console() -> Console:
    """Standard output, which leaves the wrapping of long lines to the terminal.

    Silent in all processes but the first.
    """
    width = None if sys.stdout.isatty() else 120
    return Console(
        highlight=False,
        markup=False,  # A path may look like markup.
        emoji=False,
        soft_wrap=True,
        width=width,
        quiet=not hosts.is_first(),
    )


def list_models(out: Console) -> None:
    """Prints every network with its article, size and published accuracy."""
    table = Table("model", "parameters", "published", "article", box=None)
    for name in model_names():
        entry = model_entry(name)
        layers = summarize(abstract_model(name, **entry.recipe.model_args))
        parameters = sum(layer.parameters for layer in layers)
        table.add_row(name, f"{parameters:,}", entry.published, entry.article)
    out.print(table, soft_wrap=False)


def layer_table(out: Console, model: Network) -> None:
    """Prints a network's layers: settings, output shapes for one image, and parameter counts."""
    table = Table("layer", "kind", "settings", "output shape", "parameters", box=None)
    layers = summarize(model)
    for layer in layers:
        shape = "×".join(str(side) for side in layer.output_shape)
        table.add_row(layer.name, layer.kind, layer.settings, shape, f"{layer.parameters:,}")
    table.add_row("total", "", "", "", f"{sum(layer.parameters for layer in layers):,}")
    out.print(table, soft_wrap=False)


def class_table(out: Console, names: Sequence[str], confusion: np.ndarray) -> None:
    """Prints the accuracy on every class; `confusion` has a row for each true class."""
    table = Table("class", "images", "correct", "accuracy", box=None)
    for name, row, correct in zip(names, confusion, confusion.diagonal(), strict=True):
        table.add_row(name, f"{row.sum():,}", f"{correct:,}", f"{correct / row.sum():.2%}")
    out.print(table, soft_wrap=False)


def confusion_matrix(out: Console, names: Sequence[str], confusion: np.ndarray) -> None:
    """Prints the number of images by true class (rows) and predicted class (columns)."""
    table = Table("true \\ predicted", *names, box=None)
    for name, row in zip(names, confusion, strict=True):
        table.add_row(name, *(str(count) for count in row))
    out.print(table, soft_wrap=False)


@contextlib.contextmanager
def training(out: Console, trainer: Trainer, runs: Sequence[RunDirectory]) -> Iterator[Listener]:
    """Shows a live bar on a terminal, and a line after every evaluation.

    The line at the end of an epoch has the means of the whole epoch. In a file, the bar's text is
    printed as a line when there has been none for a while.
    """
    schedule = trainer.schedule
    epochs, total = schedule.epochs, schedule.total_steps
    bar = progress.Progress(
        progress.TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
        progress.BarColumn(),
        progress.TextColumn("{task.fields[now]} "),
        progress.TimeRemainingColumn(),
        console=out,
        disable=not out.is_terminal,
        transient=True,
    )
    task = bar.add_task("", total=total, epoch=1, epochs=epochs, now="compiling")
    evaluated = list[Sequence[Evaluation]]()  # In the current epoch.
    printed = time.monotonic()

    def show(line: str) -> None:
        nonlocal printed
        printed = time.monotonic()
        out.print(line)

    def listener(event: Progress | Evaluated | Resumed) -> None:
        if isinstance(event, Progress):
            now = f"loss {event.loss:.4f}  {event.images_per_second:,.0f} images/s"
            epoch = (event.step - 1) // schedule.steps_per_epoch + 1
            bar.update(task, completed=event.step, epoch=epoch, now=now)
            if not out.is_terminal and time.monotonic() - printed > _SILENCE:
                show(f"step {event.step}/{total}  {now}")
        elif isinstance(event, Resumed):
            begun = event.step // schedule.steps_per_epoch * schedule.steps_per_epoch
            kept = [[row for row in run.metrics() if row.step > begun] for run in runs]
            evaluated.extend(zip(*kept, strict=True))
            done = event.step / schedule.steps_per_epoch
            show(f"Resuming at step {event.step}, after {done:.2f} of {epochs} epochs.")
        else:
            evaluated.append(event.rows)
            rows, what = event.rows, f"step {event.rows[0].step}/{total}"
            if rows[0].step % schedule.steps_per_epoch == 0:
                rows, what = _of_epoch(schedule, evaluated), f"epoch {rows[0].epoch:.0f}/{epochs}"
                evaluated.clear()
            for seed, row in zip(trainer.seeds, rows, strict=True):
                show(_line(what, row, seed if len(rows) > 1 else None))

    with bar:
        if not out.is_terminal:
            show("compiling")
        yield listener


def _of_epoch(schedule: Schedule, evaluated: Sequence[Sequence[Evaluation]]) -> list[Evaluation]:
    """Each seed's last evaluation of an epoch, with training means over the whole epoch."""
    steps = [rows[0].step for rows in evaluated]
    starts = [steps[-1] - schedule.steps_per_epoch, *steps[:-1]]
    images = [schedule.images(*ends).sum() for ends in zip(starts, steps, strict=True)]
    means = []
    for of_seed in zip(*evaluated, strict=True):
        loss, accuracy, seconds = np.average(
            [(row.train_loss, row.train_accuracy, 1 / row.images_per_second) for row in of_seed],
            axis=0,
            weights=images,
        )
        values = {"train_loss": loss, "train_accuracy": accuracy, "images_per_second": 1 / seconds}
        means.append(dataclasses.replace(of_seed[-1], **values))
    return means


def _line(what: str, row: Evaluation, seed: int | None) -> str:
    """Formats an evaluation to fit in 80 columns."""
    held_out = row.validation_accuracy
    parts = [
        *([] if seed is None else [f"seed {seed}"]),
        what,
        f"loss {row.train_loss:.4f}",
        f"train {row.train_accuracy:.2%}",
        *([] if held_out is None else [f"val {held_out:.2%}"]),
        f"test {row.test_accuracy:.2%}",
        *([f"{row.images_per_second:,.0f} img/s"] if seed is None else []),
    ]
    return "  ".join(parts)
