"""A made-up article and records of its runs."""

import dataclasses
from itertools import pairwise

import numpy as np

from experiments.evidence import records
from experiments.evidence.records import Record
from experiments.evidence.results import Results
from experiments.evidence.rows import Ablation, Article, Curve, Ensemble, Figure, Row
from experiments.evidence.steps import Steps
from mnist_jax.recipe import Recipe
from mnist_jax.runs.metrics import Evaluation
from mnist_jax.training.schedule import Schedule

RECIPE = Recipe(model="lenet", dataset="digits", batch_size=100, epochs=2, learning_rate=0.5)

VARIANT = dataclasses.replace(RECIPE, model_args={"pooling": "max"})

ARTICLE = Article(
    name="toy",
    letter="T",
    title="A toy",
    rows=(
        Row(
            id="plain",
            recipe=RECIPE,
            figures=(
                Figure(printed="91.00%", value=91.0, selection="last epoch", source="nowhere"),
                Figure(
                    printed="99.5%",
                    value=99.5,
                    rounding=0.05,
                    selection="last epoch",
                    source="elsewhere",
                ),
            ),
            curves=(
                Curve(column="test_accuracy", printed=("0.50", "0.91")),
                Curve(column="train_loss"),
            ),
        ),
        Row(
            id="variant",
            recipe=VARIANT,
            figures=(Figure(printed="nothing", value=None, selection="", source="nowhere"),),
        ),
    ),
    ensembles=(
        Ensemble(
            id="vote",
            members="plain",
            size=3,
            figures=(
                Figure(printed="92.00%", value=92.0, selection="majority vote", source="nowhere"),
            ),
        ),
    ),
    ablations=(Ablation("Better?", "toy/variant", "toy/plain"),),
)

# The size of the training set: 18 steps per epoch, the last of 50 images.
EXAMPLES = 1750
LABELS = np.arange(100) % 10


def record(seed=0, wrong=10, row="plain", recipe=RECIPE, framework="jax", dirty=False, log=None):
    """The record of a run that misclassifies `wrong` images, from image `seed` on.

    `log` [36, 2] has the loss and accuracy of each step.
    """
    schedule = Schedule.of(recipe, EXAMPLES)
    predictions = LABELS.copy()
    predictions[seed : seed + wrong] = (LABELS[seed : seed + wrong] + 1) % 10
    accuracy = (100 - wrong) / 100
    training = {step: (2.0 / step, 0.5) for step in (15, 18, 33, 36)}
    if log is not None:
        for start, stop in pairwise([0, *training]):
            sizes = schedule.images(start, stop)
            training[stop] = tuple(np.average(log[start:stop], axis=0, weights=sizes).tolist())
    rows = [
        Evaluation(
            epoch=step / 18,
            step=step,
            train_loss=training[step][0],
            train_accuracy=training[step][1],
            test_loss=1.0,
            test_accuracy=found,
            images_per_second=1000.0,
            seconds=1.0 * step,
        )
        for step, found in ((15, 0.1), (18, 0.5), (33, 0.7), (36, accuracy))
    ]
    return Record.of_run(
        dataclasses.replace(recipe, seed=seed),
        rows,
        36,
        predictions,
        LABELS,
        {
            "seeds_together": 2,
            "git": {"revision": "0" * 40, "dirty": dirty},
            "command": ["/private/path"],
            "device": {"platform": "cpu", "kind": "cpu", "mesh": {"seed": 2, "data": 1}},
        },
        article="toy",
        row=row,
        framework=framework,
        seconds=60.0,
        steps=Steps.of_log(log, schedule),
    )


def results_of(tmp_path, *made):
    """The results of these records, written to `tmp_path` and read from there."""
    for one in made:
        records.append(one, tmp_path)
    return Results.load([ARTICLE], tmp_path)
