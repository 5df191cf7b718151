"""Checkpoints are restored bit for bit as they were saved, or refused."""

import errno
import hashlib
import itertools
import os
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from absl import logging
from flax import nnx

from mnist_jax.errors import Failure
from mnist_jax.models import create_model
from mnist_jax.recipe import Recipe
from mnist_jax.runs.checkpoints import Checkpoints
from mnist_jax.training.optimizers import make_optimizer
from mnist_jax.training.step import TrainState

# Random bytes of every file in which a bit is flipped.
POSITIONS = 60 if os.environ.get("MNIST_JAX_FAULTS") == "long" else 4


@pytest.fixture(scope="module")
def tree() -> dict[str, Any]:
    """A state with BatchNorm statistics and Adam's moments, and a log of special float64 values."""
    recipe = Recipe(
        model="batchnorm_cnn", batch_size=4, epochs=1, optimizer="adam", learning_rate=1e-3
    )
    optimizer = make_optimizer(recipe, 10)

    def create(key: jax.Array) -> TrainState:
        return TrainState.create(create_model(recipe.model, rngs=nnx.Rngs(key)), optimizer, key=key)

    state = jax.eval_shape(create, jax.random.key(1))
    generator = np.random.default_rng(0)
    arrays = {
        "params": state.params,
        "batch_stats": state.batch_stats,
        "opt_state": state.opt_state,
    }
    arrays = jax.tree.map(lambda a: generator.normal(size=a.shape).astype(a.dtype), arrays)
    assert len(jax.tree.leaves(arrays["opt_state"])) > 2 * len(jax.tree.leaves(arrays["params"]))
    assert jax.tree.leaves(arrays["batch_stats"])
    return arrays | {"log": np.asarray([0.1, -0.0, np.nan, 5e-324])}


@pytest.fixture(scope="module")
def saved(tree: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with checkpoints of steps 1 (all ones) and 2 (`tree`)."""
    directory = tmp_path_factory.mktemp("saved") / "checkpoints"
    with Checkpoints(directory) as checkpoints:
        checkpoints.save(1, _ones(tree))
        checkpoints.save(2, tree)
    return directory


def _ones(tree: Any) -> Any:
    return jax.tree.map(np.ones_like, tree)


def _assert_same_bits(got: Any, expected: Any) -> None:
    def check(a: np.ndarray, b: Any) -> None:
        assert (a.shape, a.dtype, a.tobytes()) == (b.shape, b.dtype, np.asarray(b).tobytes())

    jax.tree.map(check, got, expected)


def test_restores_every_bit(tree: dict[str, Any], saved: Path) -> None:
    like = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), tree)
    step, got = Checkpoints(saved).restore(like)
    assert step == 2
    _assert_same_bits(got, tree)
    step, got = Checkpoints(saved).restore(tree, step=1)
    assert step == 1
    _assert_same_bits(got, _ones(tree))


def test_saves_arrays_as_they_were_when_the_save_began(tmp_path: Path) -> None:
    array = np.zeros(3)
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, [array])
        array += 1
    assert Checkpoints(tmp_path / "c").restore([array])[1][0].tolist() == [0, 0, 0]


def test_keeps_the_latest_two_and_a_chosen_one_also_when_reopened(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        for step in range(1, 6):
            checkpoints.save(step, [np.full(3, step)], keep=2 if step > 1 else 1)
    assert checkpoints.steps() == [2, 4, 5]
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(6, [np.full(3, 6)], keep=2)
        assert checkpoints.restore([np.zeros(3, int)], step=2)[1][0].tolist() == [2, 2, 2]
    assert checkpoints.steps() == [2, 5, 6]
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(7, [np.full(3, 7)])
    assert checkpoints.steps() == [6, 7]


@pytest.mark.parametrize("damage", ["empty", "no manifest", "manifest of another step"])
def test_skips_an_incomplete_checkpoint(
    damage: str,
    tree: dict[str, Any],
    saved: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    directory = tmp_path / "checkpoints"
    shutil.copytree(saved, directory)
    match damage:
        case "empty":
            (directory / "3").mkdir()
        case "no manifest":
            shutil.copytree(saved / "2", directory / "3", ignore=lambda *_: ["SHA256SUMS"])
        case "manifest of another step":
            shutil.copytree(saved / "2", directory / "3")
    # A process killed during a save leaves this.
    shutil.copytree(saved / "2", directory / "4.orbax-checkpoint-tmp")
    logging.use_absl_handler()
    with caplog.at_level("WARNING", logger="absl"):
        step, got = Checkpoints(directory).restore(tree)
    assert step == 2
    assert ("3 is damaged" in caplog.text) == (damage == "manifest of another step")
    _assert_same_bits(got, tree)
    with pytest.raises(Failure, match="3 is damaged"):
        Checkpoints(directory).restore(tree, step=3)
    with Checkpoints(directory) as checkpoints:
        checkpoints.save(3, tree)
    assert checkpoints.steps() == [2, 3]
    assert checkpoints.restore(tree)[0] == 3
    assert not list(directory.glob("*tmp*"))


def test_never_restores_wrong_arrays(
    tree: dict[str, Any], saved: Path, tmp_path: Path, tally: Counter[str]
) -> None:
    """Each file has a bit flipped at its ends and in between, is truncated, emptied and removed."""
    generator = random.Random(0)
    restored = refused = 0
    for number, original in enumerate(sorted(f for f in (saved / "2").rglob("*") if f.is_file())):
        data = original.read_bytes()
        positions = {0, len(data) - 1, *(generator.randrange(len(data)) for _ in range(POSITIONS))}
        mutants: list[bytes | None] = [
            data[:i] + bytes([data[i] ^ (1 << generator.randrange(8))]) + data[i + 1 :]
            for i in positions
        ]
        mutants += [data[: len(data) // 2], data[:-1], data + b"\0", b"", None]
        directory = tmp_path / str(number)
        shutil.copytree(saved, directory)
        path = directory / original.relative_to(saved)
        for mutant in mutants:
            path.unlink() if mutant is None else path.write_bytes(mutant)
            try:
                _, got = Checkpoints(directory).restore(tree, step=2)
            except Failure:
                refused += 1
                step, got = Checkpoints(directory).restore(tree)
                assert step == 1
                assert np.array_equal(got["log"], np.ones(4))
            else:
                restored += 1
                _assert_same_bits(got, tree)
            path.write_bytes(data)
    tally["damaged files of a checkpoint, refused"] += refused
    tally["damaged files of a checkpoint, restored to the right bits"] += restored
    # Only changes of the manifest's last line break are harmless.
    assert refused > 100
    assert restored <= 4


def test_manifest_lists_every_file_in_the_format_of_sha256sum(saved: Path) -> None:
    manifest = saved / "2" / "SHA256SUMS"
    listed = dict(line.split("  ")[::-1] for line in manifest.read_text().splitlines())
    files = [path for path in (saved / "2").rglob("*") if path.is_file() and path != manifest]
    assert listed == {
        path.relative_to(saved).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"log": np.zeros(5)}, r"it has float64\[4\] as log, not float64\[5\]"),
        ({"log": np.zeros(4, np.float32)}, r"it has float64\[4\] as log, not float32\[4\]"),
        ({"more": np.zeros(4)}, r"it has nothing as more, not float64\[4\]"),
    ],
)
def test_refuses_arrays_of_another_network(
    change: dict[str, Any], sentence: str, tree: dict[str, Any], saved: Path
) -> None:
    with pytest.raises(Failure, match=sentence):
        Checkpoints(saved).restore(tree | change)


def test_an_unreadable_directory_is_a_failure(monkeypatch: pytest.MonkeyPatch, saved: Path) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(Failure, match=r"can't be read \(Permission denied\)"):
        Checkpoints(saved).intact()


def test_never_removes_a_checkpoint_that_temporarily_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch, saved: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "checkpoints"
    shutil.copytree(saved, directory)
    before = sorted(directory.rglob("*"))

    def refuse(*_: object, **__: object) -> str:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(Path, "read_text", refuse)
    with (
        pytest.raises(Failure, match="Too many open files"),
        Checkpoints(directory) as checkpoints,
    ):
        checkpoints.save(3, [np.zeros(1)])
    assert sorted(directory.rglob("*")) == before


def test_skips_a_checkpoint_whose_removal_was_interrupted(
    monkeypatch: pytest.MonkeyPatch,
    saved: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    directory = tmp_path / "checkpoints"
    shutil.copytree(saved, directory)

    def interrupted(folder: Path) -> None:
        next(path for path in (folder / "default").rglob("*") if path.is_file()).unlink()
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", interrupted)
        with (
            pytest.raises(Failure, match="Input/output error"),
            Checkpoints(directory) as checkpoints,
        ):
            checkpoints.save(3, [np.zeros(1)])
    assert checkpoints.steps() == [1, 2, 3]
    assert checkpoints.intact() == [2, 3]
    assert caplog.text == ""
    with Checkpoints(directory) as checkpoints:
        checkpoints.save(4, [np.zeros(1)])
    assert checkpoints.steps() == [3, 4]


def test_a_checkpoint_removed_during_verification_is_not_reported_as_damaged(
    monkeypatch: pytest.MonkeyPatch,
    saved: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    directory = tmp_path / "checkpoints"
    shutil.copytree(saved, directory)
    verify = Checkpoints._damage

    def removed_meanwhile(self: Checkpoints, step: int) -> str | None:
        if step == 1:
            shutil.rmtree(directory / "1")
        return verify(self, step)

    monkeypatch.setattr(Checkpoints, "_damage", removed_meanwhile)
    assert Checkpoints(directory).intact() == [2]
    assert caplog.text == ""


def test_a_missing_step_is_refused_with_the_available_ones(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(Failure, match="no checkpoint of step 7; available: 1, 2"):
        Checkpoints(saved).restore({}, step=7)
    with pytest.raises(Failure, match="has no intact checkpoint"):
        Checkpoints(tmp_path / "nowhere").restore({})


def test_an_unwritable_directory_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(Failure, match=r"step 1 can't be written to .*Not a directory"),
        Checkpoints(tmp_path / "file" / "checkpoints") as checkpoints,
    ):
        checkpoints.save(1, [np.zeros(3)])


def test_reports_a_failed_save_at_the_next_one(
    saved: Path, tmp_path: Path, tree: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "checkpoints"
    shutil.copytree(saved, directory)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with Checkpoints(directory) as checkpoints:
        with monkeypatch.context() as patched:
            patched.setattr("os.fsync", full)
            checkpoints.save(3, tree)
            with pytest.raises(Failure, match=r"step 3 can't be written .*No space left"):
                checkpoints.save(4, tree)
        assert checkpoints.restore(tree)[0] == 2


def test_a_save_that_failed_at_its_end_is_not_taken_for_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with Checkpoints(tmp_path) as checkpoints:
        with monkeypatch.context() as patched:
            patched.setattr("mnist_jax.runs.checkpoints.write_text", full)
            checkpoints.save(3, [np.zeros(3)])
            with pytest.raises(Failure, match=r"step 3 can't be written .*No space left"):
                checkpoints.wait()
        checkpoints.save(3, [np.ones(3)])
        checkpoints.wait()
        step, (restored,) = checkpoints.restore([np.zeros(3)])
    assert step == 3
    assert restored.tolist() == [1, 1, 1]


@pytest.mark.parametrize("missing", ["manifest.ocdbt", "d"])
def test_a_checkpoint_that_orbax_saved_incompletely_is_a_failure(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = ocp.Checkpointer.save

    def save_partially(self: ocp.Checkpointer, directory: Path, *arguments: Any) -> None:
        save(self, directory, *arguments)
        part = directory / missing
        shutil.rmtree(part) if part.is_dir() else part.unlink()

    store = Checkpoints(tmp_path)
    store.save(1, {"a": np.ones(3)})
    store.wait()
    monkeypatch.setattr(ocp.Checkpointer, "save", save_partially)
    store.save(2, {"a": np.ones(3)})
    with pytest.raises(
        Failure, match=r"The checkpoint of step 2 can't be written to .* \(NOT_FOUND"
    ):
        store.wait()
    assert store.intact() == [1]


def test_a_checkpoint_that_orbax_saved_wrongly_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = ocp.Checkpointer.save

    def save_negatives(
        self: ocp.Checkpointer, directory: Path, arrays: dict[str, np.ndarray]
    ) -> None:
        save(self, directory, {name: -array for name, array in arrays.items()})

    monkeypatch.setattr(ocp.Checkpointer, "save", save_negatives)
    store = Checkpoints(tmp_path)
    store.save(1, {"a": np.zeros(3)})  # Differs from its negative in the sign bit alone.
    with pytest.raises(Failure, match="what was read back differs from what was written"):
        store.wait()
    assert store.intact() == []


def test_whichever_directory_listing_fails_the_checkpoint_is_intact_or_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir, messages = os.scandir, list[str]()
    for number in range(100):
        listings = itertools.count()

        def refuse_one(path: Any = ".", listings: Any = listings, number: int = number) -> Any:
            if str(path).startswith(str(tmp_path)) and next(listings) == number:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return scandir(path)

        store = Checkpoints(tmp_path / str(number))
        with monkeypatch.context() as patched:
            patched.setattr("os.scandir", refuse_one)
            store.save(1, {"a": np.ones(3)})
            try:
                store.wait()
            except Failure as failure:
                messages.append(str(failure))
                continue
        assert store.intact() == [1], number
        if next(listings) <= number:
            break  # Every listing has failed once.
    else:
        pytest.fail("There are more than 100 listings.")
    assert any("(Permission denied)" in message for message in messages)


def test_a_verified_checkpoint_that_orbax_cannot_read_is_a_failure(
    saved: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "checkpoints"
    shutil.copytree(saved, directory)
    (directory / "2" / "default" / "manifest.ocdbt").unlink()
    manifest = directory / "2" / "SHA256SUMS"
    lines = manifest.read_text().splitlines(keepends=True)
    manifest.write_text("".join(line for line in lines if "default/manifest.ocdbt" not in line))
    store = Checkpoints(directory)
    assert store.intact() == [1, 2]
    with pytest.raises(
        Failure, match=r"The checkpoint .*/2 can't be read \(.*; remove it to resume from"
    ):
        store.restore({"log": np.zeros(4)})


def test_restores_a_subtree(tree: dict[str, Any], saved: Path) -> None:
    _, got = Checkpoints(saved).restore({"batch_stats": tree["batch_stats"]})
    _assert_same_bits(got, {"batch_stats": tree["batch_stats"]})
