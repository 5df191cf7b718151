"""Validation images that each seed draws for itself, and incomplete last batches."""

import dataclasses
import itertools
from pathlib import Path

import jax
import numpy as np
import pytest
from runs_compared import assert_same_run
from small_runs import DATASET, RECIPE, train_small

from mnist_jax.errors import UsageError
from mnist_jax.inputs import normalize
from mnist_jax.runs.directory import RunDirectory
from mnist_jax.training.session import Stopped
from mnist_jax.training.trainer import Trainer

DRAWN = dataclasses.replace(RECIPE, held_out="random", last_batch="dropped")


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    return Trainer(DRAWN, DATASET, seeds=[0, 1], num_devices=2)


def test_every_seed_holds_out_its_own_images(trainer: Trainer) -> None:
    assert trainer.validation is not None
    assert trainer.validation.images.shape == (2, 20, 28, 28)
    held_out = []
    for seed, images in enumerate(trainer.validation.images):
        # In each epoch six full batches of the remaining 100 images, over time all of them.
        orders = [trainer.order(seed, epoch) for epoch in range(20)]
        assert [len(one) for one in orders] == [96] * 20
        assert [len(set(one.tolist())) for one in orders] == [96] * 20
        trained = set(np.concatenate(orders).tolist())
        assert len(trained) == 100
        held_out.append(set(range(120)) - trained)
        np.testing.assert_array_equal(images, DATASET.train.images[sorted(held_out[-1])])
        np.testing.assert_array_equal(
            trainer.validation.labels[seed], DATASET.train.labels[sorted(held_out[-1])]
        )
    assert held_out[0] != held_out[1]


def test_held_out_images_are_not_shifted_either() -> None:
    recipe = dataclasses.replace(DRAWN, one_pixel_shifts=True, last_batch="kept", shuffle="never")
    shifted = Trainer(recipe, DATASET, seeds=[0], num_devices=1).order(0, 0)
    plain = dataclasses.replace(recipe, one_pixel_shifts=False)
    own = Trainer(plain, DATASET, seeds=[0], num_devices=1).order(0, 0)
    np.testing.assert_array_equal(own, np.sort(own))
    np.testing.assert_array_equal(shifted, np.concatenate([own + 120 * i for i in range(5)]))


def test_dropped_last_batch_leaves_full_batches(trainer: Trainer) -> None:
    schedule = trainer.schedule
    assert (schedule.steps_per_epoch, schedule.total_steps, schedule.batch_sizes) == (6, 12, {16})
    assert trainer.advance(100).shape == (2, 6, 2)


def test_seed_is_validated_on_its_own_images(trainer: Trainer) -> None:
    assert trainer.validation is not None
    logits = trainer.logits(trainer.validation.images)
    for seed in range(2):
        model = trainer.state(seed).model()
        images = normalize(trainer.validation.images[seed], 0.0, 1.0)
        np.testing.assert_allclose(logits[seed], jax.jit(model)(images), atol=1e-5)


@pytest.mark.usefixtures("short_intervals")
def test_stopped_run_resumes_with_the_images_it_drew(tmp_path: Path) -> None:
    asked, path = itertools.count(), tmp_path / "run"
    for _ in range(3):
        with pytest.raises(Stopped):
            train_small([path], DRAWN, stop=lambda: next(asked) % 3 == 2)
    train_small([path], DRAWN)
    train_small([tmp_path / "both" / str(seed) for seed in (0, 1)], DRAWN)
    assert_same_run(path, tmp_path / "both" / "0")
    first, second = (RunDirectory(tmp_path / "both" / name).metrics() for name in "01")
    assert [row.step for row in first] == [3, 6, 9, 12]
    assert first[-1].validation_accuracy != second[-1].validation_accuracy


def test_random_held_out_needs_exact_evaluation_and_may_hold_out_none() -> None:
    none = dataclasses.replace(DRAWN, validation=0, selection="last", last_batch="kept")
    order = Trainer(none, DATASET, seeds=[0], num_devices=1).order(0, 0)
    np.testing.assert_array_equal(np.sort(order), np.arange(120))
    with pytest.raises(UsageError, match="held_out random needs evaluation exact"):
        dataclasses.replace(DRAWN, evaluation="training_mode")
