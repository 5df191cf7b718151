"""Files of a run that are damaged, foreign or unwritable are reported in one sentence each."""

import dataclasses
import errno
import fcntl
import json
import math
import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs_compared import assert_same_run
from small_runs import DATASET, RECIPE, remove_result, train_small

from mnist_jax.errors import Failure, UsageError
from mnist_jax.recipe import Recipe
from mnist_jax.runs.directory import RunDirectory
from mnist_jax.runs.environment import describe_environment

pytestmark = pytest.mark.usefixtures("short_intervals")


def test_a_finished_run_is_recognised(uninterrupted: Path) -> None:
    result = RunDirectory(uninterrupted).finished(RECIPE)
    assert result is not None
    assert result["epochs"] == 2


def test_differences_from_another_recipe_are_named(uninterrupted: Path) -> None:
    other = dataclasses.replace(RECIPE, learning_rate=0.1, model="dense")
    with pytest.raises(UsageError, match=r"has model 'shallow', not 'dense', learning_rate 0\.05"):
        RunDirectory(uninterrupted).check(other)
    with pytest.raises(UsageError, match="or delete the run to start again"):
        RunDirectory(uninterrupted).finished(other)


def test_other_training_images_are_refused(run_copy: Path) -> None:
    remove_result(run_copy)
    with pytest.raises(Failure, match="began with other images of mnist"):
        train_small([run_copy], dataset=dataclasses.replace(DATASET, sha256="1" * 64))


@pytest.mark.parametrize("content", [b"", b"no array", None])
def test_damaged_predictions_are_refused(run_copy: Path, content: bytes | None) -> None:
    path = run_copy / "predictions.npy"
    if content is None:
        np.save(path, np.zeros(3, np.float32))
    else:
        path.write_bytes(content)
    with pytest.raises(Failure, match=r"predictions\.npy is damaged"):
        RunDirectory(run_copy).predictions()


@pytest.mark.parametrize(
    "change", [{"validation_accuracy": ""}, {"step": 1.5}, {"test_loss": None}, {"loss": 1.0}]
)
def test_a_damaged_row_is_refused(change: dict[str, Any], run_copy: Path) -> None:
    lines = (run_copy / "metrics.jsonl").read_text().splitlines()
    lines[1] = json.dumps(json.loads(lines[1]) | change)
    (run_copy / "metrics.jsonl").write_text("\n".join([*lines, ""]))
    with pytest.raises(Failure, match=r"metrics.jsonl is damaged or of another version"):
        RunDirectory(run_copy).metrics()


@pytest.mark.parametrize(
    "device",
    [3, {"mesh": 3}, {"mesh": {"data": "2"}}, {"mesh": {"data": 0}}, {"threads": 2.5}],
)
def test_an_invalid_device_is_refused(device: object, run_copy: Path) -> None:
    file = run_copy / "environment.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"device": device}))
    with pytest.raises(Failure, match=r"environment\.json is damaged"):
        RunDirectory(run_copy).device()


def test_a_recipe_field_missing_in_an_old_run_has_its_default(run_copy: Path) -> None:
    config = json.loads((run_copy / "config.json").read_text())
    del config["evaluation"]
    (run_copy / "config.json").write_text(json.dumps(config))
    RunDirectory(run_copy).check(RECIPE)
    assert RunDirectory(run_copy).recipe().evaluation == "exact"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda config: config.pop("batch_size"), "The recipe lacks fields: batch_size"),
        (lambda config: config.update(warmth=3), "The recipe has unknown fields: warmth"),
    ],
)
def test_a_recipe_of_another_version_is_refused(
    run_copy: Path, change: Callable[[dict[str, Any]], object], reason: str
) -> None:
    config = json.loads((run_copy / "config.json").read_text())
    change(config)
    (run_copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(Failure, match=rf"another version \({reason}\)"):
        RunDirectory(run_copy).check(RECIPE)


@pytest.mark.parametrize("name", ["checkpoints", "tensorboard", "metrics.jsonl"])
def test_foreign_files_are_refused_and_never_removed(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    for refuses in (partial(RunDirectory(tmp_path).check, RECIPE), RunDirectory(tmp_path).clear):
        with pytest.raises(
            UsageError, match=f"has {name} but no config.json, .* another --workdir"
        ):
            refuses()
    assert (tmp_path / name).exists()


def test_overwriting_removes_all_but_the_user_s_files(uninterrupted: Path, run_copy: Path) -> None:
    (run_copy / "notes.txt").write_text("mine")
    (run_copy / "config.json").write_text("{")
    RunDirectory(run_copy).clear()
    assert sorted(p.name for p in run_copy.iterdir()) == [".lock", "notes.txt"]
    temporary = run_copy / ".config.json.0123.tmp"
    temporary.write_text("{")  # A process killed while writing leaves this.
    assert train_small([run_copy]) == 0
    assert not temporary.exists()
    (run_copy / "notes.txt").unlink()
    assert_same_run(run_copy, uninterrupted)


def test_a_directory_cannot_be_locked_twice(tmp_path: Path) -> None:
    with (
        RunDirectory(tmp_path).locked(),
        pytest.raises(Failure, match="Another process is training in"),
        RunDirectory(tmp_path).locked(),
    ):
        pass
    with RunDirectory(tmp_path).locked():
        pass


def test_a_look_at_a_directory_does_not_keep_it_from_being_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = RunDirectory(tmp_path)
    with watched.locked():
        assert watched.busy()
    with (tmp_path / ".lock").open() as look:
        fcntl.flock(look, fcntl.LOCK_SH)
        monkeypatch.setattr(time, "sleep", lambda _: look.close())
        with watched.locked():
            assert watched.busy()


def test_a_directory_that_cannot_be_created_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(Failure, match=r"can't be written \(Not a directory\)"),
        RunDirectory(tmp_path / "file" / "run").locked(),
    ):
        pass


@pytest.mark.parametrize("name", ["metrics.jsonl", "steps.f32", "predictions.npy", "result.json"])
def test_a_full_disk_is_a_failure_after_which_the_run_resumes(
    name: str, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the content is written before the disk is full, at a late write of the file."""
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
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(
            Failure, match=rf"{name}.* can't be written \(No space left.*\); make room"
        ):
            train_small([path])
    assert not (path / "result.json").exists()
    train_small([path])
    assert_same_run(path, uninterrupted)


@pytest.mark.parametrize("depth", [500, 10**5])  # Too deep to traverse, and to parse.
@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("config.json", lambda run: run.check(RECIPE)),
        ("environment.json", lambda run: run.note(more=1)),
        ("metrics.jsonl", lambda run: run.metrics()),
        ("result.json", lambda run: run.result()),
    ],
)
def test_deeply_nested_files_are_refused(
    name: str, read: Callable[[RunDirectory], object], depth: int, run_copy: Path
) -> None:
    before, end, after = (run_copy / name).read_text().rpartition("}")
    nested = f', "model_args": {depth * "["}{depth * "]"}'
    (run_copy / name).write_text(before + nested + end + after)
    with pytest.raises(Failure, match=rf"{name} is damaged .*\(it is nested too deeply\)"):
        read(RunDirectory(run_copy))
    if name == "config.json":
        with pytest.raises(UsageError, match=r"is not a recipe .*\(it is nested too deeply\)"):
            Recipe.load(run_copy / name)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"epochs": 2.5}, "epochs is 2.5; give a whole number"),
        ({"batch_size": 2.5}, "batch_size is 2.5; give a whole number"),
        ({"patience": 1.5}, "patience is 1.5; give a whole number"),
        ({"seed": True}, "seed is True; give a whole number"),
        ({"one_pixel_shifts": "no"}, "one_pixel_shifts is 'no'; give true or false"),
        ({"learning_rate": 10**399}, "0; give a number that float32 can represent"),
        ({"learning_rate": -1e39}, "is -1e\\+39; give a number that float32 can represent"),
        ({"mean": math.nan}, "mean is nan; give a number"),
        ({"std": "1"}, "std is '1'; give a number"),
        ({"weight_decay": None}, "weight_decay is None; give a number"),
        ({"model": 5}, "model is 5; give a text"),
        ({"model_args": [1]}, r"model_args is \[1\]; give an object"),
        ({"selection": ["last"]}, r"selection is \['last'\]; give last or best_validation"),
        (
            {"augmentation": [{"name": "affine", "shift": 10**399}]},
            "0; give a number that float32 can represent",
        ),
    ],
)
def test_values_of_the_wrong_type_are_refused(
    values: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps(json.loads(RECIPE.to_json()) | values))
    with pytest.raises(UsageError, match=rf"is not a recipe of this version \(.*{sentence}\)\."):
        Recipe.load(file)


def test_numpy_numbers_are_checked_and_converted_to_python_numbers() -> None:
    with pytest.raises(UsageError, match=r"1e\+39.*; give a number that float32 can represent"):
        dataclasses.replace(RECIPE, learning_rate=np.float64(1e39))
    assert type(dataclasses.replace(RECIPE, learning_rate=np.float64(0.5)).learning_rate) is float


def test_an_integer_and_its_float_give_the_same_recipe() -> None:
    texts = {dataclasses.replace(RECIPE, learning_rate=one).to_json() for one in (1, 1.0)}
    assert len(texts) == 1


@pytest.mark.parametrize(
    "name", ["config.json", "environment.json", "metrics.jsonl", "result.json"]
)
def test_mutated_files_are_refused_or_harmless(name: str, run_copy: Path) -> None:
    """Reading a changed file raises no exception but `Failure`."""
    generator = random.Random(name)
    data = (run_copy / name).read_bytes()
    run = RunDirectory(run_copy)
    environment = describe_environment(DATASET, {"platform": "test"})
    result = (run_copy / "result.json").read_bytes()
    values = [b"null", b"-1", b"1e999", b'"x"', b"[]", b"{}", b"\xff", b"", b"NaN"]
    failures = refused = 0
    for _ in range(300):
        start = generator.randrange(len(data))
        end = min(len(data), start + generator.choice([0, 1, 1, 8, 1000]))
        (run_copy / name).write_bytes(data[:start] + generator.choice(values) + data[end:])
        try:
            if ended := run.finished(RECIPE):
                assert isinstance(ended["test_accuracy"], int | float)
                assert isinstance(ended["selected_step"], int | float)
            run.metrics()
            run.create(RECIPE, environment)
        except Failure as failure:
            failures += 1
            refused += str(run_copy) in str(failure)
        (run_copy / "result.json").write_bytes(result)
    assert refused == failures > 100


@pytest.mark.parametrize("change", [{"git": "abc"}, {"git": {}}, {"command": 3}, {"command": [3]}])
def test_an_invalid_environment_is_refused(change: dict[str, Any], run_copy: Path) -> None:
    file = run_copy / "environment.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(Failure, match=r"environment\.json is damaged"):
        RunDirectory(run_copy).environment()
