"""Augmentation: the same images however a training step is computed, and none in evaluation."""

import itertools
import json
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from PIL import Image
from runs_compared import assert_same_run
from small_runs import train_small

from mnist_jax.data import Dataset
from mnist_jax.errors import UsageError
from mnist_jax.inputs import evaluation_formula, evaluation_inputs, training_inputs
from mnist_jax.recipe import Recipe
from mnist_jax.reporting import inspection
from mnist_jax.reporting.network_contents import training_images
from mnist_jax.runs.network import classifier
from mnist_jax.training.session import Stopped
from mnist_jax.training.step import step_keys, train_step
from mnist_jax.training.trainer import Trainer
from mnist_jax.transforms import Affine, CropResize, Standardize

AUGMENTED = ({"name": "crop_resize"}, {"name": "affine"}, {"name": "standardize"})


def recipe(**changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "model": "dense",
        "dataset": "digits",
        "batch_size": 48,
        "epochs": 2,
        "learning_rate": 0.1,
        "augmentation": AUGMENTED,
    }
    return Recipe(**(values | changes))


@pytest.fixture(scope="module")
def trainer(digits: Dataset) -> Trainer:
    return Trainer(recipe(), digits, seeds=[3], num_devices=1)


def test_a_recipe_with_augmentation_survives_a_json_round_trip() -> None:
    one = recipe()
    assert one.augmentation == (CropResize(), Affine(), Standardize())
    assert Recipe.from_dict(json.loads(one.to_json())) == one
    assert "augmentation" not in recipe(augmentation=[]).to_json()


@pytest.mark.parametrize(
    "changes", [{"augmentation": AUGMENTED[::-1]}, {"mean": 0.5}, {"std": 0.5}]
)
def test_standardize_must_come_last_and_exclude_mean_and_std(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="make it the last of augmentation, with mean 0"):
        recipe(**changes)


@pytest.mark.parametrize(
    ("augmentation", "tolerance"),
    [
        # Standardised pixels reach 3 and more, and a coordinate of about 10 is rounded by 1e-6.
        (AUGMENTED, 2e-5),
        (({"name": "elastic"},), 1e-5),
        # 8-bit integers, which are exact.
        (
            (
                *({"name": "horizontal_flip"}, {"name": "crop_resize"}),
                *({"name": "grid_distortion"}, {"name": "magnifying_rotation"}),
            ),
            0,
        ),
    ],
    ids=["affine", "elastic", "8-bit"],
)
def test_augmented_images_do_not_depend_on_the_number_of_devices(
    trainer: Trainer, digits: Dataset, augmentation: Any, tolerance: float
) -> None:
    images, state = jnp.asarray(digits.train.images[:48]), trainer.state(0)
    one = recipe(augmentation=augmentation)

    def seen(images: jax.Array, axis_name: str | None) -> jax.Array:
        return training_inputs(one, images, step_keys(state, len(images), axis_name))

    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.shard_map(
        partial(seen, axis_name="data"), mesh=mesh, in_specs=P("data"), out_specs=P("data")
    )
    seen_whole = jax.jit(partial(seen, axis_name=None))
    np.testing.assert_allclose(jax.jit(split)(images), seen_whole(images), rtol=0, atol=tolerance)
    # Equal images are each augmented differently.
    same = np.asarray(seen_whole(images[:1].repeat(48, axis=0)))
    assert len({image.tobytes() for image in same}) == 48


def test_the_trainer_s_losses_match_manual_steps(trainer: Trainer, digits: Dataset) -> None:
    order = np.random.default_rng([3, 0]).permutation(np.arange(len(digits.train), dtype=np.int32))

    @jax.jit
    def step(state: Any, images: jax.Array, labels: jax.Array) -> Any:
        inputs = training_inputs(recipe(), images, step_keys(state, 48, None))
        return train_step(state, inputs, labels)

    expected, losses = trainer.state(0), []
    for batch in order[:96].reshape(2, 48):
        images, labels = digits.train.images[batch], digits.train.labels[batch]
        expected, metrics = step(expected, jnp.asarray(images), jnp.asarray(labels))
        losses.append(float(metrics.loss))
    for devices in (1, 2):
        again = Trainer(recipe(), digits, seeds=[3], num_devices=devices)
        np.testing.assert_allclose(again.advance(2)[0, :, 0], losses, rtol=1e-4)


def test_a_resumed_trainer_continues_bit_for_bit(digits: Dataset) -> None:
    whole = Trainer(recipe(), digits, seeds=[3], num_devices=1)
    whole.advance(2)
    saved = whole.saved()
    later = Trainer(recipe(), digits, seeds=[3], num_devices=1)
    later.restore(2, saved)
    np.testing.assert_array_equal(later.advance(2), whole.advance(2))
    for a, b in zip(*(jax.tree.leaves(one.saved()) for one in (later, whole)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.usefixtures("short_intervals")
def test_a_resumed_run_has_the_same_images_learning_rates_and_moments(tmp_path: Path) -> None:
    changed = recipe(
        dataset="mnist",
        batch_size=16,
        validation=20,
        last_batch="dropped",
        optimizer="adam",
        eps_sense="keras",
        learning_rate=0.01,
        augmentation=AUGMENTED[1:],
        learning_rate_schedule=[
            {"name": "linear", "epochs": 0.5, "start": 0.1, "end": 1},
            {"name": "exponential", "epochs": 1.5, "factor": 0.5},
        ],
    )
    calls = itertools.count()
    for _ in range(3):
        with pytest.raises(Stopped):
            train_small([tmp_path / "run"], changed, stop=lambda: next(calls) % 3 == 2)
    assert train_small([tmp_path / "run"], changed) == 9
    train_small([tmp_path / "whole"], changed)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_evaluation_crops_and_standardises(trainer: Trainer, digits: Dataset) -> None:
    images = digits.test.images[:20]
    expected = []
    for image in images:
        crop = Image.fromarray(image).crop((2, 2, 26, 26))
        pixels = np.asarray(crop.resize((28, 28), Image.Resampling.BICUBIC), np.float64)
        expected.append((pixels - pixels.mean()) / pixels.std())
    inputs = evaluation_inputs(recipe(), jnp.asarray(images))
    np.testing.assert_allclose(inputs[..., 0], expected, atol=1e-5)
    assert evaluation_formula(recipe()) == "(standardize(crop_resize(pixel / 255)) - 0.0) / 1.0"
    network = trainer.state(0).model()
    logits = np.asarray(network(inputs))
    np.testing.assert_allclose(trainer.logits(images)[0], logits, atol=1e-4)
    np.testing.assert_allclose(
        classifier(network, recipe())(images), jax.nn.softmax(logits), atol=1e-5
    )
    seen = inspection.activations(network, recipe(), images)
    last = np.stack([np.asarray(layers[-1].output) for layers in seen])
    np.testing.assert_allclose(last, logits, atol=1e-4)


def test_evaluation_in_training_mode_does_not_augment(digits: Dataset) -> None:
    changes = {"evaluation": "training_mode", "augmentation": AUGMENTED[:1]}
    trainer = Trainer(recipe(**changes), digits, seeds=[0], num_devices=1)
    images = digits.test.images[:50]  # A batch of 48 and two more.
    inputs = evaluation_inputs(recipe(**changes), jnp.asarray(images))
    logits = trainer.state(0).model()(inputs)
    np.testing.assert_allclose(trainer.logits(images)[0], logits, atol=1e-4)


def test_a_report_shows_training_images_with_and_without_augmentation(digits: Dataset) -> None:
    (plain,) = training_images(digits, recipe(augmentation=()))
    plain_again, changed = training_images(digits, recipe())
    pictures = [
        np.stack([np.asarray(axes.images[0].get_array()) for axes in one.figure.axes])
        for one in (plain, plain_again, changed)
    ]
    np.testing.assert_array_equal(pictures[0], pictures[1])
    assert pictures[2].dtype == np.uint8
    np.testing.assert_array_equal(
        pictures[2], inspection.augmented(recipe(), digits.train.images[1:41])
    )
    # Augmented images differ from the originals, but have about as much ink.
    moved = np.abs(pictures[2].astype(int) - pictures[0]).mean(axis=(1, 2))
    assert moved.min() > 5
    assert pictures[2].mean() == pytest.approx(pictures[0].mean(), rel=0.4)
