"""Runs that are interrupted, damaged or repeated, within one process."""

import contextlib
import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from runs_compared import assert_same_run
from small_runs import DATASET, RECIPE, remove_result, train_small

from mnist_jax.errors import Failure, UsageError
from mnist_jax.recipe import Recipe
from mnist_jax.runs.checkpoints import Checkpoints
from mnist_jax.runs.directory import RunDirectory
from mnist_jax.training import session
from mnist_jax.training.seed_files import diverged
from mnist_jax.training.session import Stopped, Weights, groups, train
from mnist_jax.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("short_intervals")


@pytest.mark.parametrize("seeds", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_stopped_after_every_step_is_bit_identical(
    seeds: int, uninterrupted: Path, tmp_path: Path
) -> None:
    paths = [tmp_path / str(seed) for seed in range(seeds)]
    stopped = stops = 0
    while True:
        try:
            assert train_small(paths, stop=lambda: True) == stopped
            break
        except Stopped as stop:
            stopped = stop.step
            stops += 1
    assert stopped == stops == 13
    assert_same_run(paths[0], uninterrupted)
    if seeds == 2:
        direct = [tmp_path / "direct" / str(seed) for seed in range(seeds)]
        train_small(direct)
        assert_same_run(paths[1], direct[1])


@pytest.mark.slow
def test_many_evaluations_between_two_reports_are_all_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mnist_jax.training.session._REPORT_EVERY", 0.5)
    path = tmp_path / "run"
    train_small([path], dataclasses.replace(RECIPE, epochs=80, eval_every=1, selection="last"))
    assert len(RunDirectory(path).metrics()) == 7 * 80


def test_dropout_and_batch_statistics_are_resumed(
    batch_norm_recipe: Recipe, tmp_path: Path
) -> None:
    """Even where evaluations in training mode update the statistics."""
    recipe = dataclasses.replace(
        batch_norm_recipe, epochs=1, eval_every=1, evaluation="training_mode"
    )
    stops = 0
    while True:
        try:
            train_small([tmp_path / "stopped"], recipe, stop=lambda: True)
            break
        except Stopped:
            stops += 1
    assert stops == 1
    train_small([tmp_path / "uninterrupted"], recipe)
    assert_same_run(tmp_path / "stopped", tmp_path / "uninterrupted")


@pytest.mark.parametrize(
    ("damage", "resumes_from"),
    [
        ("nothing", 14),
        ("newest with a flipped bit", 13),
        ("newest empty", 13),
        ("no checkpoints", 0),
        ("metrics truncated within the last line", 13),
        ("no metrics", 0),
        ("steps truncated within the last one", 13),
        ("steps empty", 0),
        ("leftover of a killed save", 14),
    ],
)
def test_resumes_from_the_latest_intact_state(
    damage: str, resumes_from: int, uninterrupted: Path, run_copy: Path
) -> None:
    remove_result(run_copy)
    checkpoints = run_copy / "checkpoints"
    assert Checkpoints(checkpoints).steps() == [13, 14]
    match damage:
        case "newest with a flipped bit":
            largest = max((checkpoints / "14").rglob("d/*"), key=lambda p: p.stat().st_size)
            data = bytearray(largest.read_bytes())
            data[len(data) // 2] ^= 1
            largest.write_bytes(data)
        case "newest empty":
            shutil.rmtree(checkpoints / "14")
            (checkpoints / "14").mkdir()
        case "no checkpoints":
            shutil.rmtree(checkpoints)
        case "metrics truncated within the last line":
            text = (run_copy / "metrics.jsonl").read_text()
            (run_copy / "metrics.jsonl").write_text(text[:-30])
        case "no metrics":
            (run_copy / "metrics.jsonl").unlink()
        case "steps truncated within the last one":
            os.truncate(run_copy / "steps.f32", 8 * 14 - 3)
        case "steps empty":
            os.truncate(run_copy / "steps.f32", 0)
        case "leftover of a killed save":
            shutil.copytree(checkpoints / "14", checkpoints / "20.orbax-checkpoint-tmp")
    assert train_small([run_copy]) == resumes_from
    assert_same_run(run_copy, uninterrupted)


def test_metrics_are_the_means_of_the_recorded_steps(uninterrupted: Path) -> None:
    steps = np.fromfile(uninterrupted / "steps.f32", "<f4").reshape(-1, 2)
    assert steps.shape == (14, 2)
    # The training set has 120 - 20 images, so the last batch of an epoch has 4.
    sizes = np.tile([16] * 6 + [4], 2)
    np.testing.assert_allclose(steps[:, 1] * sizes, np.rint(steps[:, 1] * sizes), atol=1e-4)
    start = 0
    for row in RunDirectory(uninterrupted).metrics():
        since = slice(start, row.step)
        means = np.average(steps[since], axis=0, weights=sizes[since])
        assert means == pytest.approx([row.train_loss, row.train_accuracy], rel=1e-5)
        start = row.step
    assert start == 14


def test_an_old_run_without_recorded_steps_is_resumed(uninterrupted: Path, run_copy: Path) -> None:
    remove_result(run_copy)
    shutil.rmtree(run_copy / "checkpoints" / "14")
    expected = np.array(RunDirectory(uninterrupted).steps())
    (run_copy / "steps.f32").unlink()
    assert RunDirectory(run_copy).steps() is None
    assert train_small([run_copy]) == 13
    expected[:12] = np.nan  # Steps since the last evaluation are in the checkpoint.
    np.testing.assert_array_equal(RunDirectory(run_copy).steps(), expected)
    shutil.copy(uninterrupted / "steps.f32", run_copy / "steps.f32")
    assert_same_run(run_copy, uninterrupted)


def test_seeds_resume_from_the_latest_common_checkpoint(tmp_path: Path) -> None:
    uninterrupted = [tmp_path / "uninterrupted" / str(seed) for seed in range(2)]
    train_small(uninterrupted, save_every=0.0)
    killed = [Path(shutil.copytree(p, tmp_path / "killed" / p.name)) for p in uninterrupted]
    for path in killed:
        remove_result(path)
    shutil.rmtree(killed[1] / "checkpoints" / "14")
    assert train_small(killed) == 13
    for one, other in zip(killed, uninterrupted, strict=True):
        assert_same_run(one, other)


def test_an_extended_run_equals_a_longer_one(run_copy: Path, tmp_path: Path) -> None:
    longer = dataclasses.replace(RECIPE, epochs=3)
    assert RunDirectory(run_copy).finished(longer) is None
    assert train_small([run_copy], longer) == 14
    train_small([tmp_path / "uninterrupted"], longer)
    assert_same_run(run_copy, tmp_path / "uninterrupted")
    result = RunDirectory(run_copy).finished(longer)
    assert result is not None
    assert result["epochs"] == 3
    with pytest.raises(UsageError, match="has epochs 3, not 2"):
        RunDirectory(run_copy).check(RECIPE)


def test_only_seeds_with_a_common_checkpoint_are_resumed_together(
    uninterrupted: Path, tmp_path: Path
) -> None:
    runs = [
        RunDirectory(path)
        for path in (tmp_path / "new", uninterrupted, tmp_path / "newer", uninterrupted)
    ]
    assert groups(runs) == [[0, 2], [1, 3]]
    later = RunDirectory(tmp_path / "later")
    _save(later, Checkpoints(uninterrupted / "checkpoints").steps()[0], 1000)
    # One of the latest two checkpoints in common is enough.
    assert groups([RunDirectory(uninterrupted), later]) == [[0, 1]]
    _save(later, 1001)
    assert groups([RunDirectory(uninterrupted), later]) == [[0], [1]]


def test_a_damaged_checkpoint_does_not_set_other_seeds_back(tmp_path: Path) -> None:
    one, other = RunDirectory(tmp_path / "one"), RunDirectory(tmp_path / "other")
    _save(one, 10, 11)
    _save(other, 11, 12)
    assert groups([one, other]) == [[0, 1]]
    next((other.checkpoints / "11" / "default" / "d").iterdir()).write_bytes(b"")
    assert groups([one, other]) == [[0], [1]]


def _save(run: RunDirectory, *steps: int) -> None:
    with Checkpoints(run.checkpoints) as checkpoints:
        for step in steps:
            checkpoints.save(step, {"kernel": np.zeros(3)})


def test_training_a_finished_run_again_returns_its_result(
    run_copy: Path, uninterrupted: Path
) -> None:
    expected = RunDirectory(uninterrupted).result()
    assert train([(RECIPE, RunDirectory(run_copy))], DATASET, num_devices=1) == [expected]


def test_the_environment_of_each_part_of_a_run_is_kept_and_changes_are_reported(
    run_copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    remove_result(run_copy)
    file = run_copy / "environment.json"
    now = json.loads(file.read_text())
    other = {"revision": "1" * 40, "dirty": now["git"]["dirty"]}
    packages = now["packages"] | {"jax": "0.9.0"}
    file.write_text(json.dumps(now | {"git": other, "packages": packages}))
    assert train_small([run_copy]) > 0
    part = {"packages": packages, "device": now["device"], "git": other}
    warnings = [
        record.getMessage().removeprefix(f"{run_copy} ran with ") for record in caplog.records
    ]
    assert warnings == [
        f"packages jax 0.9.0 and resumes with packages jax {now['packages']['jax']}:"
        " the last digits may differ.",
        f"git revision {'1' * 40} and resumes with git revision {now['git']['revision']}:"
        " the last digits may differ.",
    ]
    assert json.loads(file.read_text()) == now | {"before": [part]}
    # A run that starts again has no earlier parts.
    shutil.rmtree(run_copy / "checkpoints")
    remove_result(run_copy)
    assert train_small([run_copy]) == 0
    assert json.loads(file.read_text()) == now


def test_a_seed_resumed_alone_keeps_the_mesh_it_began_with(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def run_both(folder: Path, stop_after: int | None = None) -> None:
        pairs = [
            (dataclasses.replace(RECIPE, seed=seed), RunDirectory(folder / f"seed-{seed}"))
            for seed in (0, 1)
        ]
        calls = iter(range(100))
        with contextlib.suppress(Stopped):
            for group in groups([run for _, run in pairs]):
                train(
                    [pairs[index] for index in group],
                    DATASET,
                    num_devices=2,
                    save_every=0,
                    stop=lambda: next(calls) == stop_after,
                )

    run_both(tmp_path / "alone")
    run_both(tmp_path / "killed", stop_after=2)
    # As if the process had been killed before the second seed had a checkpoint.
    shutil.rmtree(tmp_path / "killed" / "seed-1" / "checkpoints")
    run_both(tmp_path / "killed")
    assert "last digits" not in caplog.text
    for seed in ("seed-0", "seed-1"):
        assert_same_run(tmp_path / "killed" / seed, tmp_path / "alone" / seed)
        run = RunDirectory(tmp_path / "killed" / seed)
        assert run.device()["mesh"] == {"seed": 2, "data": 1}
        assert run.environment()["seeds_together"] == 2


def test_an_old_run_without_a_thread_count_gets_one_and_later_changes_are_reported(
    run_copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = run_copy / "environment.json"
    device = {"platform": "cpu", "kind": "cpu", "mesh": {"seed": 2, "data": 1}}
    now = json.loads(file.read_text()) | {"device": device}
    file.write_text(json.dumps(now))
    alone = {"seed": 1, "data": 1}
    for threads, warnings in ((4, 0), (4, 0), (2, 1)):
        described = device | {"mesh": alone, "threads": threads}
        RunDirectory(run_copy).create(RECIPE, now | {"device": described})
        assert len(caplog.records) == warnings
        if not warnings:
            assert RunDirectory(run_copy).device() == device | {"threads": 4}
    assert "threads 4 and resumes with device" in caplog.text
    assert "threads 2: the last digits may differ" in caplog.text


@pytest.mark.parametrize(
    "fragment", [b"", b'{"epoch": 1', b"\0" * 20 + b"\n", b'{"epoch"\0\0\n', b"\xff\n"]
)
def test_an_incomplete_last_row_of_an_unfinished_run_is_ignored(
    fragment: bytes, run_copy: Path, uninterrupted: Path
) -> None:
    remove_result(run_copy)
    rows = RunDirectory(run_copy).metrics()
    with (run_copy / "metrics.jsonl").open("ab") as file:
        file.write(fragment)
    assert RunDirectory(run_copy).metrics() == rows
    assert train_small([run_copy]) > 0
    assert_same_run(run_copy, uninterrupted)


def test_seeds_whose_batches_were_split_differently_are_not_grouped(tmp_path: Path) -> None:
    runs = [RunDirectory(tmp_path / name) for name in "abcd"]
    for run, parts in zip(runs, (1, 2, None, 1), strict=True):
        if parts:
            train_small([run.path])
            (run.path / "environment.json").write_text(
                json.dumps(run.environment() | {"device": {"mesh": {"data": parts}}})
            )
            shutil.rmtree(run.checkpoints)
    assert groups(runs) == [[0, 2, 3], [1]]


def test_overwriting_starts_again(run_copy: Path) -> None:
    (run_copy / "notes.txt").write_text("the user's own")
    recipe = dataclasses.replace(RECIPE, epochs=1, learning_rate=0.1)
    train([(recipe, RunDirectory(run_copy))], DATASET, num_devices=1, overwrite=True)
    assert [row.step for row in RunDirectory(run_copy).metrics()] == [3, 6, 7]
    assert (run_copy / "notes.txt").exists()


def test_a_run_is_not_overwritten_by_one_that_cannot_train(
    run_copy: Path, uninterrupted: Path, batch_norm_recipe: Recipe
) -> None:
    # `strided_cnn` normalises vectors, too: a batch of one has one value per channel.
    recipe = dataclasses.replace(batch_norm_recipe, model="strided_cnn", batch_size=1)
    with pytest.raises(UsageError, match="A batch of one image"):
        train([(recipe, RunDirectory(run_copy))], DATASET, num_devices=1, overwrite=True)
    assert_same_run(uninterrupted, run_copy)


def test_the_seeds_that_diverged_are_named() -> None:
    trainer = Trainer(RECIPE, DATASET, seeds=[3, 5, 8], num_devices=1)
    failure = diverged(trainer, "the loss of step 7", np.array([True, False, False]))
    assert "the loss of step 7 of seeds 5, 8 is not a finite number" in str(failure)


def test_processes_with_different_initial_weights_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = {"init_from_sha256": "ab"}
    monkeypatch.setattr("mnist_jax.hosts.gather", lambda facts: [facts, other])
    assert session._the_same_weights(lambda: Weights({}, "ab")) == Weights({}, "ab")
    with pytest.raises(UsageError, match="Process 1 has init_from_sha256 ab, not"):
        session._the_same_weights(lambda: Weights({}, "cd"))


def test_diverged_training_fails_and_keeps_finite_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "run"
    recipe = dataclasses.replace(RECIPE, learning_rate=3e4, momentum=0.0, model="dense")
    recipe = dataclasses.replace(recipe, loss="mean_squared_error", epochs=500)
    recipe = dataclasses.replace(recipe, weight_decay=0.9)
    for _ in range(2):  # The second time, it resumes from the last checkpoint and fails again.
        with pytest.raises(
            Failure,
            match=r"diverged: the .*loss .*step \d+.* is not a finite number;"
            r" try a learning rate below 30000\.0",
        ):
            train_small([path], recipe, save_every=0.0)
    store = Checkpoints(path / "checkpoints")
    assert store.intact()
    trainer = Trainer(recipe, DATASET, seeds=[0], num_devices=1)
    _, saved = store.restore(trainer.saved()[0])
    assert all(np.isfinite(a).all() for layer in saved["params"].values() for a in layer.values())
    rows = RunDirectory(path).metrics()
    assert rows
    assert all(np.isfinite(row.test_loss) for row in rows)
