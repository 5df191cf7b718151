"""Runs that are interrupted, damaged or asked for twice, within one process."""

import contextlib
import dataclasses
import json
import os
import random
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs_compared import assert_same_run

from mnist_jax.data import Dataset, Split
from mnist_jax.errors import Failure, UsageError
from mnist_jax.models import model_entry
from mnist_jax.recipe import Recipe
from mnist_jax.runs.checkpoints import Checkpoints
from mnist_jax.runs.directory import RunDirectory
from mnist_jax.runs.environment import describe_environment
from mnist_jax.training.session import Resumed, Stopped, fit, groups, train
from mnist_jax.training.trainer import Trainer

# 7 steps an epoch, the last of 4 images; evaluations after 3, 6, 7, 9, 12 and 14 steps.
RECIPE = Recipe(
    model="shallow",
    batch_size=16,
    epochs=2,
    validation=20,
    learning_rate=0.05,
    momentum=0.9,
    optimizer="sgd",
    selection="best_validation",
    eval_every=3,
)


def _split(count: int) -> Split:
    labels = np.arange(count, dtype=np.int32) % 10
    noise = np.random.default_rng(count).integers(0, 200, (count, 28, 28), np.uint8)
    noise[np.arange(count), labels] = 255
    return Split(noise, labels)


DATASET = Dataset("mnist", _split(120), _split(30), "0" * 64, "synthetic")


def _train(
    paths: Iterable[Path],
    recipe: Recipe = RECIPE,
    *,
    dataset: Dataset = DATASET,
    stop: Callable[[], bool] = lambda: False,
    save_every: float = 1e9,
) -> int:
    """Trains one seed in each path; returns the step it went on from."""
    runs = [RunDirectory(path) for path in paths]
    trainer = Trainer(recipe, dataset, seeds=range(len(runs)), num_devices=1)
    environment = describe_environment(dataset, {"platform": "test"})
    steps = []

    def report(event: object) -> None:
        if isinstance(event, Resumed):
            steps.append(event.step)

    for seed, run in enumerate(runs):
        with run.locked():
            run.create(dataclasses.replace(recipe, seed=seed), environment)
    fit(trainer, runs, report, save_every=save_every, stop=stop)
    return max(steps, default=0)


@pytest.fixture(autouse=True)
def short_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    """One step at a time, so that there are many places to stop at."""
    monkeypatch.setattr("mnist_jax.training.session._STRETCH", 0.0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never interrupted, with a checkpoint after every step."""
    path = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mnist_jax.training.session._STRETCH", 0.0)
        _train([path], save_every=0.0)
    return path


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def _cut(path: Path, epochs: int = 2) -> None:
    """Makes a run unfinished, as if it had been killed before it wrote its result."""
    (path / "result.json").unlink()
    assert json.loads((path / "config.json").read_text())["epochs"] == epochs


@pytest.mark.parametrize("seeds", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_stopping_after_every_step_changes_nothing(seeds: int, whole: Path, tmp_path: Path) -> None:
    paths = [tmp_path / str(seed) for seed in range(seeds)]
    stopped = stops = 0
    while True:
        try:
            assert _train(paths, stop=lambda: True) == stopped
            break
        except Stopped as stop:
            stopped = stop.step
            stops += 1
    assert stopped == stops == 13
    assert_same_run(paths[0], whole)
    if seeds == 2:
        direct = [tmp_path / "direct" / str(seed) for seed in range(seeds)]
        _train(direct)
        assert_same_run(paths[1], direct[1])


def test_evaluations_may_be_as_short_and_many_as_one_likes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mnist_jax.training.session._STRETCH", 0.5)
    path = tmp_path / "run"
    _train([path], dataclasses.replace(RECIPE, epochs=80, eval_every=1, selection="last"))
    assert len(RunDirectory(path).metrics()) == 7 * 80


def test_dropout_and_batch_statistics_go_on(tmp_path: Path) -> None:
    """Also where evaluations are in training mode and move the statistics."""
    recipe = dataclasses.replace(
        model_entry("batchnorm_cnn").recipe,
        batch_size=60,
        epochs=1,
        eval_every=1,
        evaluation="training_mode",
    )
    stops = 0
    while True:
        try:
            _train([tmp_path / "stopped"], recipe, stop=lambda: True)
            break
        except Stopped:
            stops += 1
    assert stops == 1
    _train([tmp_path / "whole"], recipe)
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")


@pytest.mark.parametrize(
    ("damage", "goes_on_from"),
    [
        ("nothing", 14),
        ("newest flipped", 13),
        ("newest empty", 13),
        ("all gone", 0),
        ("metrics cut within the last line", 13),
        ("metrics gone", 0),
        ("steps cut within the last one", 13),
        ("steps empty", 0),
        ("another's leftover", 14),
    ],
)
def test_goes_on_from_what_is_intact(
    damage: str, goes_on_from: int, whole: Path, copy: Path
) -> None:
    _cut(copy)
    checkpoints = copy / "checkpoints"
    assert Checkpoints(checkpoints).steps() == [13, 14]
    match damage:
        case "newest flipped":
            victim = max((checkpoints / "14").rglob("d/*"), key=lambda p: p.stat().st_size)
            data = bytearray(victim.read_bytes())
            data[len(data) // 2] ^= 1
            victim.write_bytes(data)
        case "newest empty":
            shutil.rmtree(checkpoints / "14")
            (checkpoints / "14").mkdir()
        case "all gone":
            shutil.rmtree(checkpoints)
        case "metrics cut within the last line":
            text = (copy / "metrics.jsonl").read_text()
            (copy / "metrics.jsonl").write_text(text[:-30])
        case "metrics gone":
            (copy / "metrics.jsonl").unlink()
        case "steps cut within the last one":
            os.truncate(copy / "steps.f32", 8 * 14 - 3)
        case "steps empty":
            os.truncate(copy / "steps.f32", 0)
        case "another's leftover":
            shutil.copytree(checkpoints / "14", checkpoints / "20.orbax-checkpoint-tmp")
    assert _train([copy]) == goes_on_from
    assert_same_run(copy, whole)


def test_every_step_is_kept_as_metrics_have_its_mean(whole: Path) -> None:
    steps = np.fromfile(whole / "steps.f32", "<f4").reshape(-1, 2)
    assert steps.shape == (14, 2)
    # 4 images in the last batch of an epoch, of 120 less 20 that are held out.
    sizes = np.tile([16] * 6 + [4], 2)
    np.testing.assert_allclose(steps[:, 1] * sizes, np.rint(steps[:, 1] * sizes), atol=1e-4)
    start = 0
    for row in RunDirectory(whole).metrics():
        since = slice(start, row.step)
        means = np.average(steps[since], axis=0, weights=sizes[since])
        assert means == pytest.approx([row.train_loss, row.train_accuracy], rel=1e-5)
        start = row.step
    assert start == 14


def test_a_run_from_before_steps_were_kept_goes_on(whole: Path, copy: Path) -> None:
    _cut(copy)
    shutil.rmtree(copy / "checkpoints" / "14")
    expected = np.array(RunDirectory(whole).steps())
    (copy / "steps.f32").unlink()
    assert RunDirectory(copy).steps() is None
    assert _train([copy]) == 13
    expected[:12] = np.nan  # The checkpoint has those since the last evaluation.
    np.testing.assert_array_equal(RunDirectory(copy).steps(), expected)
    shutil.copy(whole / "steps.f32", copy / "steps.f32")
    assert_same_run(copy, whole)


def test_goes_on_from_where_all_seeds_are(tmp_path: Path) -> None:
    whole = [tmp_path / "whole" / str(seed) for seed in range(2)]
    _train(whole, save_every=0.0)
    killed = [Path(shutil.copytree(p, tmp_path / "killed" / p.name)) for p in whole]
    for path in killed:
        _cut(path)
    shutil.rmtree(killed[1] / "checkpoints" / "14")
    assert _train(killed) == 13
    for one, other in zip(killed, whole, strict=True):
        assert_same_run(one, other)


def test_extending_equals_a_longer_run(copy: Path, tmp_path: Path) -> None:
    longer = dataclasses.replace(RECIPE, epochs=3)
    assert RunDirectory(copy).finished(longer) is None
    assert _train([copy], longer) == 14
    _train([tmp_path / "at once"], longer)
    assert_same_run(copy, tmp_path / "at once")
    result = RunDirectory(copy).finished(longer)
    assert result is not None
    assert result["epochs"] == 3
    with pytest.raises(UsageError, match="has epochs 3, not 2"):
        RunDirectory(copy).check(RECIPE)


def test_knows_a_finished_run(whole: Path) -> None:
    result = RunDirectory(whole).finished(RECIPE)
    assert result is not None
    assert result["epochs"] == 2


def test_names_the_differences(whole: Path) -> None:
    other = dataclasses.replace(RECIPE, learning_rate=0.1, model="dense")
    with pytest.raises(UsageError, match=r"has model 'shallow', not 'dense', learning_rate 0\.05"):
        RunDirectory(whole).check(other)
    with pytest.raises(UsageError, match="--overwrite"):
        RunDirectory(whole).finished(other)


def test_refuses_other_images(copy: Path) -> None:
    _cut(copy)
    with pytest.raises(Failure, match="begun with other images of mnist"):
        _train([copy], dataset=dataclasses.replace(DATASET, sha256="1" * 64))


def test_seeds_go_on_together_only_from_the_same_step(whole: Path, tmp_path: Path) -> None:
    runs = [RunDirectory(path) for path in (tmp_path / "new", whole, tmp_path / "newer", whole)]
    assert groups(runs) == [[0, 2], [1, 3]]
    later = RunDirectory(tmp_path / "later")
    _save(later, Checkpoints(whole / "checkpoints").steps()[0], 1000)
    # Of the latest two checkpoints, one is enough.
    assert groups([RunDirectory(whole), later]) == [[0, 1]]
    _save(later, 1001)
    assert groups([RunDirectory(whole), later]) == [[0], [1]]


def test_a_damaged_checkpoint_does_not_make_others_start_again(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("content", [b"", b"no array", None])
def test_damaged_predictions_are_one_sentence(copy: Path, content: bytes | None) -> None:
    path = copy / "predictions.npy"
    if content is None:
        np.save(path, np.zeros(3, np.float32))
    else:
        path.write_bytes(content)
    with pytest.raises(Failure, match=r"predictions\.npy is damaged"):
        RunDirectory(copy).predictions()


@pytest.mark.parametrize(
    "change", [{"validation_accuracy": ""}, {"step": 1.5}, {"test_loss": None}, {"loss": 1.0}]
)
def test_a_damaged_row_is_one_sentence(change: dict[str, Any], copy: Path) -> None:
    lines = (copy / "metrics.jsonl").read_text().splitlines()
    lines[1] = json.dumps(json.loads(lines[1]) | change)
    (copy / "metrics.jsonl").write_text("\n".join([*lines, ""]))
    with pytest.raises(Failure, match=r"metrics.jsonl is damaged or of another version"):
        RunDirectory(copy).metrics()


def test_two_processes_that_train_the_same_leave_one_result(copy: Path, whole: Path) -> None:
    expected = RunDirectory(whole).result()
    assert train([(RECIPE, RunDirectory(copy))], DATASET, num_devices=1) == [expected]


def test_the_environment_tells_of_every_part(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    _cut(copy)
    file = copy / "environment.json"
    now = json.loads(file.read_text())
    other = {"revision": "1" * 40, "dirty": now["git"]["dirty"]}
    packages = now["packages"] | {"jax": "0.9.0"}
    file.write_text(json.dumps(now | {"git": other, "packages": packages}))
    assert _train([copy]) > 0
    part = {"packages": packages, "device": now["device"], "git": other}
    said = [record.getMessage().removeprefix(f"{copy} ran with ") for record in caplog.records]
    assert said == [
        f"packages jax 0.9.0 and goes on with packages jax {now['packages']['jax']}:"
        " the last digits may differ.",
        f"git revision {'1' * 40} and goes on with git revision {now['git']['revision']}:"
        " the last digits may differ.",
    ]
    assert json.loads(file.read_text()) == now | {"before": [part]}
    # A run that starts again is of one part.
    shutil.rmtree(copy / "checkpoints")
    _cut(copy)
    assert _train([copy]) == 0
    assert json.loads(file.read_text()) == now


def test_a_seed_goes_on_as_it_began_whatever_runs_beside_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def run_both(folder: Path, stop_after: int | None = None) -> None:
        pairs = [
            (dataclasses.replace(RECIPE, seed=seed), RunDirectory(folder / f"seed-{seed}"))
            for seed in (0, 1)
        ]
        asked = iter(range(100))
        with contextlib.suppress(Stopped):
            for group in groups([run for _, run in pairs]):
                train(
                    [pairs[place] for place in group],
                    DATASET,
                    num_devices=2,
                    save_every=0,
                    stop=lambda: next(asked) == stop_after,
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


def test_a_run_from_before_threads_were_described_learns_of_them(
    copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And with others, it is warned of from then on."""
    file = copy / "environment.json"
    device = {"platform": "cpu", "kind": "cpu", "mesh": {"seed": 2, "data": 1}}
    now = json.loads(file.read_text()) | {"device": device}
    file.write_text(json.dumps(now))
    alone = {"seed": 1, "data": 1}
    for threads, warnings in ((4, 0), (4, 0), (2, 1)):
        described = device | {"mesh": alone, "threads": threads}
        RunDirectory(copy).create(RECIPE, now | {"device": described})
        assert len(caplog.records) == warnings
        if not warnings:
            assert RunDirectory(copy).device() == device | {"threads": 4}
    assert "threads 4 and goes on with device" in caplog.text
    assert "threads 2: the last digits may differ" in caplog.text


@pytest.mark.parametrize(
    "device",
    [3, {"mesh": 3}, {"mesh": {"data": "2"}}, {"mesh": {"data": 0}}, {"threads": 2.5}],
)
def test_refuses_a_device_that_is_none(device: object, copy: Path) -> None:
    file = copy / "environment.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"device": device}))
    with pytest.raises(Failure, match=r"environment\.json is damaged"):
        RunDirectory(copy).device()


@pytest.mark.parametrize(
    "left", [b"", b'{"epoch": 1', b"\0" * 20 + b"\n", b'{"epoch"\0\0\n', b"\xff\n"]
)
def test_the_last_row_of_an_unfinished_run_may_be_there_in_part(
    left: bytes, copy: Path, whole: Path
) -> None:
    _cut(copy)
    rows = RunDirectory(copy).metrics()
    with (copy / "metrics.jsonl").open("ab") as file:
        file.write(left)
    assert RunDirectory(copy).metrics() == rows
    assert _train([copy]) > 0
    assert_same_run(copy, whole)


def test_groups_keep_seeds_apart_that_split_their_batches_differently(tmp_path: Path) -> None:
    runs = [RunDirectory(tmp_path / name) for name in "abcd"]
    for run, parts in zip(runs, (1, 2, None, 1), strict=True):
        if parts:
            _train([run.path])
            (run.path / "environment.json").write_text(
                json.dumps(run.environment() | {"device": {"mesh": {"data": parts}}})
            )
            shutil.rmtree(run.checkpoints)
    assert groups(runs) == [[0, 2, 3], [1]]


def test_a_run_older_than_a_field_has_its_default(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    del config["evaluation"]
    (copy / "config.json").write_text(json.dumps(config))
    RunDirectory(copy).check(RECIPE)
    assert RunDirectory(copy).recipe().evaluation == "exact"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda config: config.pop("batch_size"), "The recipe lacks fields: batch_size"),
        (lambda config: config.update(warmth=3), "The recipe has unknown fields: warmth"),
    ],
)
def test_refuses_a_recipe_of_another_version(
    copy: Path, change: Callable[[dict[str, Any]], object], reason: str
) -> None:
    config = json.loads((copy / "config.json").read_text())
    change(config)
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(Failure, match=rf"another version \({reason}\)"):
        RunDirectory(copy).check(RECIPE)


def test_refuses_checkpoints_of_who_knows_what(copy: Path) -> None:
    (copy / "config.json").unlink()
    with pytest.raises(Failure, match=r"is .* the workdir of a run"):
        RunDirectory(copy).check(RECIPE)


def test_overwriting_leaves_nothing_but_the_user_s_own(whole: Path, copy: Path) -> None:
    (copy / "notes.txt").write_text("mine")
    (copy / "config.json").write_text("{")
    RunDirectory(copy).clear()
    assert sorted(p.name for p in copy.iterdir()) == [".lock", "notes.txt"]
    killed = copy / ".config.json.0123.tmp"
    killed.write_text("{")  # As a process leaves that was killed while writing.
    assert _train([copy]) == 0
    assert not killed.exists()
    (copy / "notes.txt").unlink()
    assert_same_run(copy, whole)


def test_two_processes_do_not_share_a_directory(tmp_path: Path) -> None:
    with (
        RunDirectory(tmp_path).locked(),
        pytest.raises(Failure, match="Another process is training in"),
        RunDirectory(tmp_path).locked(),
    ):
        pass
    with RunDirectory(tmp_path).locked():
        pass


def test_reports_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(Failure, match=r"can't be written \(Not a directory\)"),
        RunDirectory(tmp_path / "file" / "run").locked(),
    ):
        pass


@pytest.mark.parametrize("name", ["metrics.jsonl", "steps.f32", "predictions.npy", "result.json"])
def test_disk_full_while_writing_a_file(
    name: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write of half the content succeeds, then there is no room, at the second time."""
    path = tmp_path / "run"
    open_path = Path.open
    opened = 0

    def full(self: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        nonlocal opened
        if name not in self.name or mode[0] not in "aw":
            return open_path(self, mode, *args, **kwargs)
        opened += 1
        if opened < (1 if name == "result.json" else 3):
            return open_path(self, mode, *args, **kwargs)
        with open_path(self, mode) as file:
            file.write('{"half' if "b" not in mode else b"half")
        raise OSError(28, "No space left on device", str(self))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(
            Failure, match=rf"{name}.* can't be written \(No space left.*\); make room"
        ):
            _train([path])
    assert not (path / "result.json").exists()
    _train([path])
    assert_same_run(path, whole)


def test_stops_when_the_loss_is_no_number(tmp_path: Path) -> None:
    path = tmp_path / "run"
    recipe = dataclasses.replace(RECIPE, learning_rate=3e4, momentum=0.0, model="dense")
    recipe = dataclasses.replace(recipe, loss="mean_squared_error", epochs=500)
    recipe = dataclasses.replace(recipe, weight_decay=0.9)
    for _ in range(2):  # The same again: it goes on from the last checkpoint and ends the same.
        with pytest.raises(
            Failure, match=r"diverged: the .*loss .*step \d+.* is not a finite"
        ) as e:
            _train([path], recipe, save_every=0.0)
        assert "try a learning rate below 30000.0" in str(e.value)
    store = Checkpoints(path / "checkpoints")
    assert store.intact()
    trainer = Trainer(recipe, DATASET, seeds=[0], num_devices=1)
    _, saved = store.restore(trainer.saved()[0])
    assert all(np.isfinite(a).all() for layer in saved["params"].values() for a in layer.values())
    assert all(np.isfinite(row.test_loss) for row in RunDirectory(path).metrics())


@pytest.mark.parametrize("depth", [500, 10**5])  # Too deep to go through, and to read.
@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("config.json", lambda run: run.check(RECIPE)),
        ("environment.json", lambda run: run.note(more=1)),
        ("metrics.jsonl", lambda run: run.metrics()),
        ("result.json", lambda run: run.result()),
    ],
)
def test_deeply_nested_files_are_one_sentence(
    name: str, read: Callable[[RunDirectory], object], depth: int, copy: Path
) -> None:
    before, end, after = (copy / name).read_text().rpartition("}")
    nested = f', "model_args": {depth * "["}{depth * "]"}'
    (copy / name).write_text(before + nested + end + after)
    with pytest.raises(Failure, match=rf"{name} is damaged .*\(it is nested too deeply\)"):
        read(RunDirectory(copy))
    if name == "config.json":
        with pytest.raises(UsageError, match=r"is no recipe .*\(it is nested too deeply\)"):
            Recipe.load(copy / name)


@pytest.mark.parametrize(
    "name", ["config.json", "environment.json", "metrics.jsonl", "result.json"]
)
def test_mutated_files_are_refused_or_harmless(name: str, copy: Path) -> None:
    """Nothing but `Failure` comes out of reading what somebody, or a disk, has changed."""
    generator = random.Random(name)
    data = (copy / name).read_bytes()
    run = RunDirectory(copy)
    environment = describe_environment(DATASET, {"platform": "test"})
    result = (copy / "result.json").read_bytes()
    values = [b"null", b"-1", b"1e999", b'"x"', b"[]", b"{}", b"\xff", b"", b"NaN"]
    failures = refused = 0
    for _ in range(300):
        start = generator.randrange(len(data))
        end = min(len(data), start + generator.choice([0, 1, 1, 8, 1000]))
        (copy / name).write_bytes(data[:start] + generator.choice(values) + data[end:])
        try:
            if ended := run.finished(RECIPE):
                assert isinstance(ended["test_accuracy"], int | float)
                assert isinstance(ended["selected_step"], int | float)
            run.metrics()
            run.create(RECIPE, environment)
        except Failure as failure:
            failures += 1
            refused += str(copy) in str(failure)
        (copy / "result.json").write_bytes(result)
    assert refused == failures > 100
