"""Exponential moving averages of parameters and BatchNorm statistics."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from runs_compared import assert_same_run
from small_runs import DATASET, RECIPE, train_small

import mnist_jax
from mnist_jax.errors import UsageError
from mnist_jax.interchange.weights import export_weights, read_weights
from mnist_jax.recipe import Recipe
from mnist_jax.runs.checkpoints import Checkpoints
from mnist_jax.runs.directory import RunDirectory
from mnist_jax.training.session import Stopped
from mnist_jax.training.trainer import Trainer

DECAY = 0.75
AVERAGED = dataclasses.replace(RECIPE, average_decay=DECAY)


def values(trainer: Trainer) -> list[np.ndarray]:
    (saved,) = trainer.saved()
    return jax.tree.leaves({name: saved[name] for name in ("params", "batch_stats")})


def averages(trainer: Trainer) -> list[np.ndarray]:
    return jax.tree.leaves(trainer.saved()[0]["averages"])


def test_averages_match_those_computed_by_hand(batch_norm_recipe: Recipe) -> None:
    """Of parameters and of BatchNorm's statistics."""
    recipe = dataclasses.replace(batch_norm_recipe, average_decay=DECAY)
    trainer = Trainer(recipe, DATASET, seeds=[0], num_devices=1)
    expected = [np.asarray(one, np.float64) for one in values(trainer)]
    for _ in range(4):
        trainer.advance(1)
        pairs = zip(expected, values(trainer), strict=True)
        expected = [DECAY * before + (1 - DECAY) * now for before, now in pairs]
    found = averages(trainer)
    assert len(found) > len(jax.tree.leaves(trainer.state(0).params))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_averaging_does_not_change_training() -> None:
    plain = Trainer(RECIPE, DATASET, seeds=[0], num_devices=1)
    averaged = Trainer(AVERAGED, DATASET, seeds=[0], num_devices=1)
    for trainer in (plain, averaged):
        trainer.advance(7)
    for one, other in zip(values(plain), values(averaged), strict=True):
        np.testing.assert_array_equal(one, other)


def test_evaluation_loading_and_export_use_the_averages(tmp_path: Path) -> None:
    path = tmp_path / "run"
    train_small([path], AVERAGED)
    run = mnist_jax.load_run(path)
    like = Trainer(AVERAGED, DATASET, seeds=[0], num_devices=1).saved()[0]
    _, saved = Checkpoints(path / "checkpoints").restore(like, run.step)
    kernel = nnx.as_pure(nnx.state(run.network, nnx.Param))["fc1"]["kernel"]
    np.testing.assert_array_equal(kernel, saved["averages"]["params"]["fc1"]["kernel"])
    assert (kernel != saved["params"]["fc1"]["kernel"]).any()
    probabilities = run.probabilities(DATASET.test.images)
    np.testing.assert_array_equal(
        probabilities.argmax(-1),
        RunDirectory(path).predictions(),
        "not those of the run's evaluation",
    )
    for bad in (
        DATASET.test.images / 255,
        DATASET.test.images[..., None],
        np.ones((1, 28, 28), bool),
    ):
        with pytest.raises(
            UsageError, match=r"give integers from 0 to 255 in the shape \[N, 28, 28\]"
        ):
            run.probabilities(bad)
    initial = read_weights(dataclasses.replace(RECIPE, init_from=str(path))).arrays
    np.testing.assert_array_equal(initial["params"]["fc1"]["kernel"], kernel)
    export_weights(RunDirectory(path), tmp_path / "weights.safetensors")
    read = dataclasses.replace(RECIPE, init_from=str(tmp_path / "weights.safetensors"))
    np.testing.assert_array_equal(read_weights(read).arrays["params"]["fc1"]["kernel"], kernel)


def test_averages_start_from_the_initial_weights(tmp_path: Path) -> None:
    train_small([tmp_path / "source"], RECIPE)
    weights = read_weights(dataclasses.replace(RECIPE, init_from=str(tmp_path / "source"))).arrays
    trainer = Trainer(AVERAGED, DATASET, seeds=[0, 1], num_devices=1)
    trainer.start_from(weights)
    for seed in trainer.saved():
        np.testing.assert_array_equal(
            seed["averages"]["params"]["fc1"]["kernel"], weights["params"]["fc1"]["kernel"]
        )
    trainer.advance(1)  # Donates the weights' buffers, which averages must not share.


@pytest.mark.usefixtures("short_intervals")
def test_run_stopped_after_every_step_resumes_its_averages(
    batch_norm_recipe: Recipe, tmp_path: Path
) -> None:
    recipe = dataclasses.replace(batch_norm_recipe, average_decay=DECAY)
    stops = 0
    while True:
        try:
            train_small([tmp_path / "stopped"], recipe, stop=lambda: True)
            break
        except Stopped:
            stops += 1
    assert stops == 3
    train_small([tmp_path / "whole"], recipe)
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")
    assert averages_in(tmp_path / "stopped")
    train_small([tmp_path / "plain"], RECIPE)
    assert not averages_in(tmp_path / "plain")


def averages_in(path: Path) -> list[str]:
    import orbax.checkpoint as ocp

    step = Checkpoints(path / "checkpoints").intact()[-1]
    with ocp.StandardCheckpointer() as reader:
        arrays = reader.restore(path / "checkpoints" / str(step) / "default")
    return [name for name in arrays if name.startswith("averages")]


def test_average_decay_is_in_a_recipe_s_json_only_if_set() -> None:
    assert "average_decay" not in RECIPE.to_json()
    assert f'"average_decay": {DECAY}' in AVERAGED.to_json()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"average_decay": 1.0}, "average_decay is 1.0; give a number from 0 to below 1"),
        ({"average_decay": -0.1}, "average_decay is -0.1"),
        ({"average_decay": 0.5, "evaluation": "training_mode"}, "average_decay needs evaluation"),
    ],
)
def test_invalid_average_decay_is_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        dataclasses.replace(RECIPE, **changes)
