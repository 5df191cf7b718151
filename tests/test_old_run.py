"""A run of an older version, revision 12a9a7d, can be evaluated and resumed."""

import json
import shutil
from pathlib import Path

import commands
import numpy as np
import pytest

from mnist_jax.data import Dataset
from mnist_jax.runs.network import load_run

OLD_RUN = Path(__file__).parent / "old_run"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return shutil.copytree(OLD_RUN, tmp_path / "run")


def test_an_old_run_has_its_recorded_accuracy(run: Path, digits: Dataset) -> None:
    recorded = json.loads((OLD_RUN / "result.json").read_text())["test_accuracy"]
    predicted = load_run(run).probabilities(digits.test.images).argmax(-1)
    assert np.mean(predicted == digits.test.labels) == pytest.approx(recorded)


def test_an_old_run_can_be_resumed(run: Path) -> None:
    recipe = json.loads((OLD_RUN / "config.json").read_text())
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
    assert lines[:2] == (OLD_RUN / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [30, 60, 90]
    steps = np.fromfile(run / "steps.f32", "<f4").reshape(-1, 2)
    assert np.isnan(steps[:60]).all()
    means = [json.loads(lines[2])[name] for name in ("train_loss", "train_accuracy")]
    # The means weight batches by size; only the epoch's last one is smaller, and only a little.
    assert steps[60:].mean(axis=0) == pytest.approx(means, rel=0.02)


def test_the_old_name_of_the_normalisation_module_still_works() -> None:
    from mnist_jax import augment, inputs

    assert augment.normalize is inputs.normalize
