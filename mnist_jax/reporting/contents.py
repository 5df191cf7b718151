"""The content of the report on a recipe's runs: sections, figures and texts."""

import dataclasses
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mnist_jax import measures
from mnist_jax.data import Dataset
from mnist_jax.measures import Series
from mnist_jax.models import model_entry
from mnist_jax.reporting import curves, network_contents
from mnist_jax.reporting.curves import Panel
from mnist_jax.reporting.history import History
from mnist_jax.reporting.page import Code, Page, Picture, Section, Table, Text

DATASET_TITLES = {
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
    "digits": "scikit-learn's digits",
}
_LOSSES = {"cross_entropy": "cross-entropy", "mean_squared_error": "mean squared error"}


def report(runs: Sequence[History], dataset: Dataset, chosen: Sequence[int]) -> Page:
    """Makes the report on runs of one recipe.

    Figures of a network are of the first run that has a checkpoint; activations are of the chosen
    test images, given by index.

    Raises:
      UsageError: there is no such test image.
      Failure: a checkpoint is damaged.
    """
    network_contents.check_images(chosen, dataset)
    recipe = runs[0].recipe
    sections = [Section("Result", list(_result(runs, len(dataset.test))))]
    if shown := [run for run in runs if run.rows]:
        sections.append(Section("Training", list(_training(shown))))
    sections.append(Section("The images", list(network_contents.training_images(dataset, recipe))))
    if trained := [run for run in runs if run.has_network]:
        distinct = list(dict.fromkeys(chosen))
        sections += network_contents.sections(trained[0], dataset, distinct)
    values = dataclasses.asdict(recipe) | {"seed": [run.recipe.seed for run in runs]}
    sections += [
        Section("Configuration", [_key_values(values)]),
        Section("Environment", list(_environment(runs))),
        Section("How to reproduce it", list(_reproduction(runs))),
    ]
    return Page(f"{recipe.model} on {DATASET_TITLES[recipe.dataset]}", sections)


def _result(runs: Sequence[History], test_images: int) -> Iterator[Text | Table]:
    accuracies = [run.counted.test_accuracy for run in runs if run.counted is not None]
    if len(accuracies) > 1:
        mean, sd = np.mean(accuracies), np.std(accuracies, ddof=1)
        yield Text(
            f"Mean test accuracy {mean:.2%}, with a standard deviation of {100 * sd:.2f} points"
            f" between {len(accuracies)} seeds, on {test_images:,} images."
        )
    elif accuracies:
        correct = np.asarray([accuracies[0] * test_images])
        found = measures.rates(correct, np.asarray([test_images]))
        yield Text(
            f"Test accuracy {accuracies[0]:.2%} on {test_images:,} images (95% confidence interval"
            f" for that many images: {found.low[0]:.2%} to {found.high[0]:.2%})."
        )
    entry = model_entry(runs[0].recipe.model)
    yield Text(f"Article {entry.article}. Published there: {entry.published}.")
    head = ("run", "seed", "state", "selected epoch", "test accuracy", "test loss", "minutes")
    yield Table(head, [_result_row(run) for run in runs], numbers=range(3, 7))


def _result_row(run: History) -> list[str]:
    row = run.counted
    if run.result is not None and run.rows:
        state = f"ended after {run.rows[-1].epoch:.4g} epochs"
        if run.rows[-1].epoch < run.recipe.epochs:
            state += f" of {run.recipe.epochs} (early stopping)"
    elif run.rows:
        state = f"not ended: at epoch {run.rows[-1].epoch:.4g} of {run.recipe.epochs}"
    else:
        state = "not evaluated"
    cells = [run.directory.path.name, str(run.recipe.seed), state]
    if row is None:
        return [*cells, "", "", "", ""]
    return [
        *cells,
        f"{row.epoch:.4g}",
        f"{row.test_accuracy:.2%}",
        f"{row.test_loss:.4f}",
        f"{run.rows[-1].seconds / 60:.1f}",
    ]


def _training(runs: Sequence[History]) -> Iterator[Text | Picture]:
    seeds = f" {curves.READING}" if len(runs) > 1 else ""
    loss = f"loss ({_LOSSES[runs[0].recipe.loss]})"
    yield Text(
        "Training loss and accuracy are measured on the training batches, with dropout if the"
        " network has it, and averaged since the previous evaluation."
    )
    by_step = {
        name: [run.by_step(name) for run in runs] for name in ("train_loss", "test_accuracy")
    }
    percent = [one.scaled(100) for one in by_step["test_accuracy"]]
    panels = [
        Panel(f"training {loss}", {"training": by_step["train_loss"]}, logarithmic=True),
        Panel("test accuracy (%)", {"test": percent}),
    ]
    yield Picture(
        "training-by-iteration",
        curves.plot(panels, "iteration (batches)"),
        "Two curves against the iteration: training loss, test accuracy.",
        f"Training loss and test accuracy against the iteration.{seeds}",
    )
    yield from _every_step(runs, loss)
    if not any(len(run.by_epoch("test_loss").x) for run in runs):
        return
    columns = {"training": "train_accuracy", "test": "test_accuracy"}
    if runs[0].recipe.validation:
        columns["validation"] = "validation_accuracy"
    lines = {name: _by_epoch(runs, column, 100) for name, column in columns.items()}
    yield Picture(
        "accuracy-by-epoch",
        curves.plot([Panel("accuracy (%)", lines)], "epoch"),
        f"Curves of {', '.join(columns)} accuracy per epoch.",
        f"Accuracy per epoch.{seeds}",
    )
    losses = {
        "training": _by_epoch(runs, "train_loss"),
        "test": _by_epoch(runs, "test_loss"),
    }
    yield Picture(
        "loss-by-epoch",
        curves.plot([Panel(loss, losses, logarithmic=True)], "epoch"),
        "Curves of training and test loss per epoch.",
        f"Training and test loss together.{seeds}",
    )


def _every_step(runs: Sequence[History], loss: str) -> Iterator[Picture]:
    """Loss and accuracy of every step, as in article F."""
    if not (known := [found for run in runs if (found := run.every_step())]):
        return
    losses, accuracies = ([found[i] for found in known] for i in (0, 1))
    percent = [one.scaled(100) for one in accuracies]
    panels = [
        Panel(f"batch {loss}", {"training": losses}, most=curves.ROOM),
        Panel("batch accuracy (%)", {"training": percent}, most=curves.ROOM),
    ]
    if not (steps := len(measures.band(losses).x)):
        return  # The seeds have no steps in common.
    reading = curves.reading_thinned(steps, len(known), curves.ROOM)
    yield Picture(
        "every-iteration",
        curves.plot(panels, "iteration (batches)"),
        "Two curves against the iteration: loss and accuracy on its batch.",
        f"Loss and accuracy of every iteration on its batch. {reading}".rstrip(),
    )


def _by_epoch(runs: Sequence[History], column: str, scale: float = 1) -> list[Series]:
    found = [run.by_epoch(column) for run in runs]
    return [one.scaled(scale) for one in found if len(one.x)]


def _environment(runs: Sequence[History]) -> Iterator[Text | Table]:
    values = dict(runs[0].environment)
    values.pop("command", None)
    if any(run.environment != runs[0].environment for run in runs):
        yield Text(f"This is for the run in {runs[0].directory.path.name}; those of others differ.")
    yield _key_values(values)


def _reproduction(runs: Sequence[History]) -> Iterator[Text | Code]:
    environment = runs[0].environment
    lines = []
    if git := environment.get("git"):
        lines.append(f"git checkout {git['revision']}")
        if git["dirty"]:
            yield Text("The code had uncommitted changes, which are also needed.")
    lines.append("pip install -r requirements.txt")
    lines += dict.fromkeys(_command(run.environment.get("command", [])) for run in runs)
    yield Code("\n".join(lines))
    yield Text(
        "The same seed, machine and versions give bitwise identical results. A run's config.json"
        " holds the whole recipe."
    )


def _command(arguments: Sequence[str]) -> str:
    program = Path(arguments[0] if arguments else "")
    module = f"{program.parent.name}.{program.stem}"
    if module.startswith(("mnist_jax.", "experiments.")):
        return f"python -m {module} {shlex.join(arguments[1:])}".rstrip()
    return "python -m mnist_jax.train --config=config.json"  # The run was started from a program.


def _key_values(values: Mapping[str, Any]) -> Table:
    rows = [
        [name, value if isinstance(value, str) else json.dumps(value)]
        for name, value in values.items()
    ]
    return Table(("name", "value"), rows)
