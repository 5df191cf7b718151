"""Training that starts from existing weights, and loading runs."""

import dataclasses
import json
import shutil
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from commands import run as run_command
from runs_compared import assert_same_run

import mnist_jax
from mnist_jax.data import Dataset
from mnist_jax.errors import Failure, UsageError
from mnist_jax.inputs import normalize
from mnist_jax.interchange.weights import export_weights, import_weights, read_weights
from mnist_jax.models import model_entry
from mnist_jax.recipe import Recipe
from mnist_jax.runs.directory import RunDirectory
from mnist_jax.training.session import Stopped, train

FROM_SCRATCH = Recipe(
    model="dense",
    dataset="digits",
    batch_size=300,
    epochs=1,
    learning_rate=0.05,
    momentum=0.9,
)


def _train(path: Path, digits: Dataset, source: Path | None = None, **options: object) -> None:
    recipe = FROM_SCRATCH
    read = None
    if source:
        # With so small a rate, the weights stay what they were.
        values = {"init_from": str(source), "learning_rate": 1e-12, "seed": 5}
        recipe = Recipe.from_dict(recipe.to_dict() | values | options)
        read = partial(read_weights, recipe)
    train([(recipe, RunDirectory(path))], digits, num_devices=1, read_weights=read)


@pytest.fixture(scope="module")
def source(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "run"
    _train(path, digits)
    return path


def _parameters(path: Path) -> list[np.ndarray]:
    from flax import nnx

    state = nnx.state(mnist_jax.load_run(path).network, nnx.Param)
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state)]


def test_training_starts_from_a_run_or_a_file(
    source: Path, digits: Dataset, tmp_path: Path
) -> None:
    export_weights(RunDirectory(source), tmp_path / "weights.safetensors")
    hashes = set()
    for name in (source, tmp_path / "weights.safetensors"):
        run = tmp_path / f"from-{name.name}"
        _train(run, digits, name)
        for ours, theirs in zip(_parameters(run), _parameters(source), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-8)
        assert json.loads((run / "config.json").read_text())["init_from"] == str(name)
        hashes.add(RunDirectory(run).environment()["init_from_sha256"])
    assert len(hashes) == 1


@pytest.mark.slow
def test_run_resumes_without_the_weights_it_started_from(
    source: Path, digits: Dataset, tmp_path: Path
) -> None:
    removed = shutil.copytree(source, tmp_path / "removed")
    _train(tmp_path / "whole", digits, removed, epochs=2)
    recipe = RunDirectory(tmp_path / "whole").recipe()
    read = partial(read_weights, recipe)
    pair = (recipe, RunDirectory(tmp_path / "stopped"))
    with pytest.raises(Stopped):
        train([pair], digits, num_devices=1, read_weights=read, stop=lambda: True)
    shutil.rmtree(removed)
    train([pair], digits, num_devices=1, read_weights=read)
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")
    hashes = {
        RunDirectory(tmp_path / name).environment()["init_from_sha256"]
        for name in ("whole", "stopped")
    }
    assert len(hashes) == 1


@pytest.mark.slow
def test_run_may_overwrite_the_run_it_starts_from(
    source: Path, digits: Dataset, tmp_path: Path
) -> None:
    path = shutil.copytree(source, tmp_path / "run")
    expected = _parameters(path)
    recipe = dataclasses.replace(FROM_SCRATCH, init_from=str(path), learning_rate=1e-12)
    read = partial(read_weights, recipe)
    train([(recipe, RunDirectory(path))], digits, num_devices=1, overwrite=True, read_weights=read)
    for ours, theirs in zip(_parameters(path), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-8)


def test_recipe_with_init_from_is_not_trained_without_weights(
    digits: Dataset, tmp_path: Path
) -> None:
    recipe = dataclasses.replace(FROM_SCRATCH, init_from="run")
    with pytest.raises(ValueError, match="if, and only if, the recipe has `init_from`"):
        train([(recipe, RunDirectory(tmp_path / "run"))], digits, num_devices=1)
    assert not list(tmp_path.iterdir())


def test_unusable_weights_are_refused_and_leave_nothing(
    source: Path, digits: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="is a run of dense, not of lenet"):
        _train(tmp_path / "run", digits, source, model="lenet")
    with pytest.raises(Failure, match="can't be read"):
        _train(tmp_path / "run", digits, tmp_path / "none.safetensors")
    assert not list(tmp_path.iterdir())


def test_imported_weights_are_not_trained_in_place(
    source: Path, digits: Dataset, tmp_path: Path
) -> None:
    export_weights(RunDirectory(source), tmp_path / "weights.safetensors")
    run = RunDirectory(tmp_path / "theirs")
    import_weights("dense", tmp_path / "weights.safetensors", run)
    with pytest.raises(UsageError, match="--init_from="):
        train([(model_entry("dense").recipe, run)], digits, num_devices=1)


def test_init_from_expands_the_home_folder(tmp_path: Path) -> None:
    ended = run_command(
        tmp_path, "mnist_jax.train", "--model=dense", "--dataset=digits", "--init_from=~/a.pt"
    )
    assert ended.returncode == 1
    assert f"{tmp_path / 'a.pt'} can't be read" in ended.stderr


def test_loaded_run_reproduces_its_saved_predictions(source: Path, digits: Dataset) -> None:
    run = mnist_jax.load_run(str(source))
    assert run.recipe == FROM_SCRATCH
    assert run.step == 5
    images = digits.test.images
    probabilities = run.probabilities(images)
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-5)
    saved = RunDirectory(source).predictions()
    np.testing.assert_array_equal(probabilities.argmax(-1), saved)
    logits = jax.jit(lambda x: run.network(normalize(x, 0.0, 1.0)))(images)
    np.testing.assert_array_equal(np.argmax(logits, -1), saved)


def test_loaded_network_can_be_exported(source: Path) -> None:
    run = mnist_jax.load_run(source)
    image = np.zeros((1, 28, 28, 1), np.float32)
    exported = jax.export.export(jax.jit(lambda x: run.network(x)))(image)
    again = jax.export.deserialize(exported.serialize())
    np.testing.assert_array_equal(again.call(image), jax.jit(lambda x: run.network(x))(image))
