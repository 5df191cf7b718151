"""A run that was made before modules moved, at revision 12a9a7d, goes on and can be read."""

import json
import shutil
from pathlib import Path

import commands
import numpy as np
import pytest

from mnist_jax.data import Dataset
from mnist_jax.runs.network import load_run

MADE = Path(__file__).parent / "old_run"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return shutil.copytree(MADE, tmp_path / "run")


def test_it_is_evaluated(run: Path, digits: Dataset) -> None:
    published = json.loads((MADE / "result.json").read_text())["test_accuracy"]
    predicted = load_run(run).probabilities(digits.test.images).argmax(-1)
    assert np.mean(predicted == digits.test.labels) == pytest.approx(published)


def test_its_training_goes_on(run: Path) -> None:
    recipe = json.loads((MADE / "config.json").read_text())
    done = commands.run(
        run.parent,
        "mnist_jax.train",
        "--model=lenet",
        "--dataset=digits",
        f"--model_args={json.dumps(recipe['model_args'])}",
        "--learning_rate=0.1",
        "--batch_size=50",
        "--epochs=3",
        f"--workdir={run}",
    )
    assert done.returncode == 0, done.stderr
    assert "Resuming at step 60" in done.stdout
    lines = (run / "metrics.jsonl").read_text().splitlines()
    assert lines[:2] == (MADE / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [30, 60, 90]
    steps = np.fromfile(run / "steps.f32", "<f4").reshape(-1, 2)
    assert np.isnan(steps[:60]).all()
    means = [json.loads(lines[2])[name] for name in ("train_loss", "train_accuracy")]
    # Only the last of the epoch's batches is smaller, by less than a half.
    assert steps[60:].mean(axis=0) == pytest.approx(means, rel=0.02)


def test_scripts_that_normalise_by_the_module_of_then_work() -> None:
    from mnist_jax import augment, inputs

    assert augment.normalize is inputs.normalize
