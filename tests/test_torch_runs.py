"""Training with the PyTorch references, which makes records of the same form."""

import dataclasses
import io
import math
import re
from functools import partial

import pytest
from rich.console import Console
from toy_records import RECIPE

from experiments import references
from experiments.contenders import measurements
from experiments.evidence.records import Record
from experiments.evidence.rows import all_articles
from mnist_jax.errors import UsageError
from mnist_jax.recipe import Recipe

ARTICLES = all_articles()


@pytest.mark.parametrize(
    "recipe",
    [
        dataclasses.replace(RECIPE, epochs=3, eval_every=10),
        Recipe(
            model="shallow",
            model_args={"init": "nielsen"},
            dataset="digits",
            validation=100,
            shuffle="never",
            batch_size=10,
            epochs=3,
            learning_rate=0.1,
            weight_decay=0.1,
            weight_decay_sense="nielsen",
            selection="best_validation",
        ),
        Recipe(
            model="batchnorm_cnn",
            dataset="digits",
            mean=0.5,
            std=0.5,
            batch_size=100,
            epochs=2,
            optimizer="adam",
            learning_rate=0.001,
            evaluation="training_mode",
        ),
    ],
    ids=lambda recipe: recipe.model,
)
def test_a_torch_run_gives_a_consistent_record(recipe):
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)  # In steps this small, threads would mostly wait.
    from experiments.references import torch_runs
    from mnist_jax.data import load_dataset

    dataset = load_dataset("digits")
    printed = io.StringIO()
    run = torch_runs.train(Console(file=printed, width=120), recipe, dataset)
    made = Record.of_run(
        recipe,
        run.metrics,
        run.selected_step,
        run.predictions,
        dataset.test.labels,
        {"git": None, **torch_runs.environment()},
        article="toy",
        row="row",
        framework="torch",
        seconds=run.seconds,
    )
    read = Record.from_json(made.to_json())
    images = len(dataset.train) - recipe.validation
    assert read.curve["step"][-1] == recipe.epochs * math.ceil(images / recipe.batch_size)
    losses = read.by_epoch("train_loss")
    assert losses[-1] < losses[0]
    # One line per epoch, with the mean loss.
    shown = [float(loss) for loss in re.findall(r"train loss (\S+)", printed.getvalue())]
    assert shown == pytest.approx(losses, abs=1e-4)
    assert read.accuracy == pytest.approx(
        100 * read.curve["test_accuracy"][read.curve["step"].index(read.selected_step)], abs=1e-3
    )


def test_recipes_without_a_torch_reference_are_refused():
    pytest.importorskip("torch")
    from experiments.references import torch_runs
    from mnist_jax.data import load_dataset

    train = partial(torch_runs.train, Console(quiet=True), dataset=load_dataset("digits"))
    with pytest.raises(UsageError, match="no PyTorch reference of lenet"):
        train(recipe=dataclasses.replace(RECIPE, model_args={"kernel_size": 3}))
    for without in (
        {"augmentation": [{"name": "affine"}]},
        {"average_decay": 0.9},
        {"patience": 1, "validation": 10},
        {"one_pixel_shifts": True},
        {"held_out": "random", "validation": 10},
        {"last_batch": "dropped"},
    ):
        with pytest.raises(UsageError, match=f"has no {next(iter(without))}; choose"):
            train(recipe=dataclasses.replace(RECIPE, **without))


def test_missing_pytorch_is_reported(monkeypatch):
    monkeypatch.setattr(references.util, "find_spec", {}.get)
    with pytest.raises(UsageError, match="make torch"):
        references.require_torch()
    assert "torch" not in measurements.circumstances("experiments.benchmark")["packages"]


@pytest.mark.parametrize(
    "article",
    [article for article in ARTICLES if not article.rows[0].recipe.augmentation],
    ids=lambda article: article.letter,
)
def test_every_article_without_augmentation_can_be_trained_with_torch(article):
    pytest.importorskip("torch")
    from experiments.references import torch_runs
    from mnist_jax.data import load_dataset

    row = next(row for row in article.rows if not row.recipe.one_pixel_shifts)
    recipe = dataclasses.replace(
        row.recipe, epochs=1, batch_size=500, validation=row.recipe.validation // 10, eval_every=0
    )
    run = torch_runs.train(Console(quiet=True), recipe, load_dataset("digits"))
    assert len(run.metrics) == 1
