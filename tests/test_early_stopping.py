"""Early stopping by patience: where runs end, also when resumed, and how they are reported."""

import dataclasses
import itertools
import shutil
from pathlib import Path

import commands
import pytest
from runs_compared import assert_same_run
from small_runs import DATASET, RECIPE, train_small

from experiments.evidence.records import Record
from mnist_jax.errors import UsageError
from mnist_jax.reporting.contents import _result_row
from mnist_jax.reporting.history import History
from mnist_jax.runs.directory import RunDirectory
from mnist_jax.training.session import Stopped, train

# At this learning rate, the validation accuracy rises before it stalls for two epochs.
PATIENT = dataclasses.replace(RECIPE, epochs=30, patience=2, learning_rate=0.02)


def by_epoch(path: Path) -> list[float]:
    """The validation accuracy at the end of each epoch."""
    rows = RunDirectory(path).metrics()
    return [row.validation_accuracy or 0.0 for row in rows if row.step % 7 == 0]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ended") / "run"
    train_small([path], PATIENT)
    return path


def test_training_ends_after_two_epochs_without_improvement(ended: Path) -> None:
    validated = by_epoch(ended)
    assert 3 < len(validated) < 30
    # The last two epochs are no better than the best before them; before that, no two were.
    assert max(validated[-2:]) <= max(validated[:-2])
    for epoch in range(3, len(validated)):
        assert max(validated[epoch - 2 : epoch]) > max(validated[: epoch - 2])
    result = RunDirectory(ended).finished(PATIENT)
    assert result is not None
    assert result["epochs"] == 30


@pytest.mark.usefixtures("short_intervals")
def test_an_interrupted_run_ends_at_the_same_epoch(ended: Path, tmp_path: Path) -> None:
    calls, stops, path = itertools.count(), 0, tmp_path / "run"
    while True:
        try:
            train_small([path], PATIENT, stop=lambda: next(calls) % 8 == 7)
            break
        except Stopped:
            stops += 1
    assert stops > 3
    assert_same_run(path, ended)


def test_more_epochs_do_not_extend_a_run_that_stopped_early(ended: Path, tmp_path: Path) -> None:
    before = RunDirectory(ended).result()
    step = RunDirectory(ended).metrics()[-1].step
    path = shutil.copytree(ended, tmp_path / "run")
    longer = dataclasses.replace(PATIENT, epochs=40)
    assert train_small([path], longer) == step
    after = RunDirectory(path).finished(longer)
    assert before is not None
    assert after is not None
    # Only the time changes, to that of the last checkpoint.
    assert after == before | {"epochs": 40, "seconds": after["seconds"]}
    assert by_epoch(path) == by_epoch(ended)
    assert len(by_epoch(path)) * 7 == step


def test_seeds_with_patience_are_not_trained_together(tmp_path: Path) -> None:
    pairs = [
        (dataclasses.replace(PATIENT, seed=seed), RunDirectory(tmp_path / str(seed)))
        for seed in (0, 1)
    ]
    with pytest.raises(ValueError, match="one seed at a time"):
        train(pairs, DATASET, num_devices=1)


def test_reports_and_records_have_the_last_epoch(ended: Path) -> None:
    epochs = len(by_epoch(ended))
    run = RunDirectory(ended)
    assert (
        _result_row(History.read(run))[2] == f"ended after {epochs} epochs of 30 (early stopping)"
    )
    result = run.result()
    assert result is not None
    record = Record.of_run(
        PATIENT,
        run.metrics(),
        result["selected_step"],
        run.predictions(),
        DATASET.test.labels,
        {
            **{"seeds_together": 1, "git": None},
            "device": {"platform": "cpu", "kind": "cpu", "mesh": {"data": 1}},
        },
        article="toy",
        row="row",
        framework="jax",
        seconds=1.0,
    )
    read = Record.from_json(record.to_json())
    assert read.epochs == epochs
    assert read.by_epoch("validation_accuracy") == pytest.approx(by_epoch(ended))
    assert read.second_half() == read.by_epoch("test_accuracy")[epochs // 2 :]


def test_command_says_that_it_stopped_early(tmp_path: Path) -> None:
    flags = ("--model=dense", "--dataset=digits", "--validation=100", "--patience=1")
    arguments = (*flags, "--epochs=40", "--learning_rate=1e-30", f"--workdir={tmp_path / 'run'}")
    done = commands.run(tmp_path, "mnist_jax.train", *arguments)
    assert "Stopped early after epoch 2 of 40: none of the last 1 had" in done.stdout
    (tmp_path / "run/metrics.jsonl").unlink()
    again = commands.run(tmp_path, "mnist_jax.train", *arguments)
    assert (again.returncode, again.stderr) == (0, "")
    assert "test accuracy" in again.stdout


def test_patience_needs_validation_images() -> None:
    with pytest.raises(UsageError, match="patience is 2, but no validation images are held out"):
        dataclasses.replace(PATIENT, validation=0, selection="last")
