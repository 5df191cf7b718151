"""Damaged caches of compiled programs and decoded datasets cost time, but never a wrong result.

`make faults` runs the long version.
"""

import hashlib
import importlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import commands
import jax
import numpy as np
import pytest
from data_files import assert_dataset_equals, make_contents, make_file_set, write_prepared
from jax.experimental.compilation_cache.compilation_cache import reset_cache
from runs_compared import assert_same_run

from mnist_jax.data import catalog, load_dataset, loading, prepared
from mnist_jax.data.catalog import FILES
from mnist_jax.training import compiled

TINY = make_contents(0)
LONG = os.environ.get("MNIST_JAX_FAULTS") == "long"

# Damages a file, given its path and the content of another file of the same cache.
Damage = Callable[[Path, bytes], object]


def _flipped(position: float) -> Damage:
    def flip(data: bytes) -> bytes:
        index = int(position * (len(data) - 1))
        return data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :]

    return _changed(flip)


def _changed(change: Callable[[bytes], bytes]) -> Damage:
    return lambda path, _: path.write_bytes(change(path.read_bytes()))


def _replaced(make: Callable[[Path], object]) -> Damage:
    def replace(path: Path, _: bytes) -> None:
        path.unlink()
        make(path)

    return replace


KINDS_OF_DAMAGE: dict[str, Damage] = {
    "flipped in its first byte": _flipped(0),
    "flipped near its beginning": _flipped(0.05),
    "flipped in the middle": _flipped(0.5),
    "flipped near its end": _flipped(0.95),
    "flipped in its last byte": _flipped(1),
    "empty": _changed(lambda _: b""),
    "truncated to half": _changed(lambda data: data[: len(data) // 2]),
    "truncated by a byte": _changed(lambda data: data[:-1]),
    "extended": _changed(lambda data: data + bytes(100)),
    "zeros": _changed(lambda data: bytes(len(data))),
    "garbage": _changed(lambda data: random.Random(len(data)).randbytes(len(data))),
    "another file's content": lambda path, other: path.write_bytes(other),
    "removed": lambda path, _: path.unlink(),
    "a broken link": _replaced(lambda path: path.symlink_to(path.parent / "nothing" / "here")),
    "a link to itself": _replaced(lambda path: path.symlink_to(path)),
    "a pipe": _replaced(os.mkfifo),
    "a folder": _replaced(Path.mkdir),
    "unreadable": lambda path, _: path.chmod(0),
}


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Path]:
    """An empty folder, used as this process's compilation cache."""
    compiled.keep_in(tmp_path / "compiled")
    reset_cache()
    yield tmp_path / "compiled"
    compiled.keep_in(commands.COMPILED)
    reset_cache()


def _compute(factor: float) -> None:
    """Compiles and runs a program that depends on `factor`, as a new process would."""
    x = np.arange(5, dtype=np.float32)
    np.testing.assert_array_equal(jax.jit(lambda x: x * factor)(x), x * np.float32(factor))


def _is_verified(path: Path) -> bool:
    data, name = path.read_bytes(), path.name.removesuffix("-cache").encode()
    return data[-32:] == hashlib.sha256(name + data[:-32]).digest()


@pytest.mark.parametrize("damage", KINDS_OF_DAMAGE)
def test_damaged_program_is_compiled_again(
    programs: Path, damage: str, tally: Counter[str]
) -> None:
    _compute(3)
    (path,) = programs.iterdir()
    _compute(4)
    (other,) = (found for found in programs.iterdir() if found != path)
    KINDS_OF_DAMAGE[damage](path, other.read_bytes())
    tally["compiled programs damaged"] += 1
    _compute(3)
    if damage == "a folder":
        assert path.is_dir()  # It is not ours to remove.
        return
    assert _is_verified(path)
    written = path.stat().st_mtime_ns
    _compute(3)
    assert path.stat().st_mtime_ns == written  # It was loaded, not compiled.
    assert len(list(programs.iterdir())) == 2


def test_a_link_to_the_cache_shares_its_programs(programs: Path, tmp_path: Path) -> None:
    _compute(3)
    (tmp_path / "link").symlink_to(programs)
    compiled.keep_in(tmp_path / "link")
    reset_cache()
    _compute(3)
    assert len(list(programs.iterdir())) == 1


def test_jax_uses_its_own_cache_where_it_cannot_be_replaced(
    programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> None:
        raise ModuleNotFoundError(name)

    internals = sys.modules["jax._src.compilation_cache"]

    def original(path: str) -> object:
        return internals.LRUCache(path, max_size=-1), path

    with monkeypatch.context() as patch:
        patch.setattr(internals, "get_file_cache", original)
        patch.setattr(importlib, "import_module", absent)
        compiled.keep_in(programs)
        _compute(3)
        (path,) = programs.iterdir()
        assert not _is_verified(path)
    reset_cache()
    _compute(3)
    assert _is_verified(path)


@pytest.mark.parametrize("kind", ["a file", "a link to itself", "without permissions"])
def test_unusable_cache_folder_costs_only_time(
    programs: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    match kind:
        case "a file":
            programs.touch()
        case "a link to itself":
            programs.symlink_to(programs)
        case "without permissions":
            programs.mkdir(mode=0)
    _compute(3)
    _compute(3)
    assert len(caplog.records) <= 1


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory with the prepared dataset `tiny` only, and no mirror to download from."""
    for variable in ("MNIST_JAX_DATA_DIR", "TFDS_DATA_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    file_sets = {"tiny": make_file_set("tiny", TINY)}
    for module in (catalog, loading):
        monkeypatch.setattr(module, "FILE_SETS", file_sets)
    write_prepared(tmp_path / "tensorflow_datasets/tiny/1.0.0", TINY)
    return tmp_path


@pytest.mark.parametrize("damage", KINDS_OF_DAMAGE)
def test_damaged_decoded_dataset_is_decoded_again(
    home: Path,
    damage: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tally: Counter[str],
) -> None:
    assert_dataset_equals(load_dataset("tiny"), TINY)
    (folder,) = (home / ".cache/mnist_jax/decoded").iterdir()
    for number, file in enumerate(FILES):
        other = TINY[FILES[(number + 2) % 4]]  # The other split's images, or labels.
        KINDS_OF_DAMAGE[damage](folder / file, other)
        caplog.clear()
        assert_dataset_equals(load_dataset("tiny"), TINY)
        if damage.startswith("flipped"):
            assert f"{folder / file} " in caplog.text
        tally["files of a decoded dataset damaged"] += 1
        if damage == "a folder":
            (folder / file).rmdir()
            assert_dataset_equals(load_dataset("tiny"), TINY)
    with monkeypatch.context() as patch:
        patch.setattr(prepared, "read", None)
        assert_dataset_equals(load_dataset("tiny"), TINY)
    if damage == "unreadable":
        return
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == TINY


@pytest.mark.parametrize("place", [".cache/mnist_jax", "decoded", "copy"])
def test_file_where_the_decoded_dataset_would_be_is_left_alone(home: Path, place: str) -> None:
    assert_dataset_equals(load_dataset("tiny"), TINY)
    (copy,) = (home / ".cache/mnist_jax/decoded").iterdir()
    folder = {"copy": copy, "decoded": copy.parent}.get(place, home / place)
    shutil.rmtree(folder)
    folder.touch()
    assert_dataset_equals(load_dataset("tiny"), TINY)
    assert folder.read_bytes() == b""


@pytest.mark.slow
def test_damaged_decoded_mnist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Counter[str]
) -> None:
    root = os.environ.get("MNIST_JAX_DATA_DIR")
    folder = prepared.find("mnist", Path(root)) if root else None
    if folder is None:
        pytest.skip("MNIST_JAX_DATA_DIR names no MNIST as TensorFlow Datasets prepares it")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    expected = load_dataset("mnist", folder)
    (copy,) = (tmp_path / "mnist_jax/decoded").iterdir()
    contents = {path.name: path.read_bytes() for path in copy.iterdir()}
    # Decoding, which other tests cover, takes long.
    monkeypatch.setattr(prepared, "read", lambda _: contents)
    for damage in KINDS_OF_DAMAGE if LONG else ("flipped in the middle", "another file's content"):
        for number, file in enumerate(FILES):
            KINDS_OF_DAMAGE[damage](copy / file, contents[FILES[(number + 2) % 4]])
            dataset = load_dataset("mnist", folder)
            tally["files of the decoded MNIST damaged"] += 1
            for got, split in ((dataset.train, expected.train), (dataset.test, expected.test)):
                np.testing.assert_array_equal(got.images, split.images)
                np.testing.assert_array_equal(got.labels, split.labels)
            if damage == "a folder":
                (copy / file).rmdir()


@dataclass(frozen=True)
class Training:
    """The `train` command with a compilation cache of its own.

    Attributes:
      home: the folder of the cache and the runs.
    """

    home: Path

    @property
    def programs(self) -> Path:
        return self.home / "cache/mnist_jax/compiled"

    @property
    def environment(self) -> dict[str, str]:
        return commands.environment(self.home) | {"XDG_CACHE_HOME": str(self.home / "cache")}

    def flags(self, run: str) -> list[str]:
        return ["--model=dense", "--dataset=digits", "--epochs=1", f"--workdir={self.home / run}"]

    def start(self, run: str) -> commands.Command:
        return commands.Command("mnist_jax.train", *self.flags(run), env=self.environment)

    def compare(self, run: str) -> str:
        """Trains, compares the run with the reference, and returns the error output."""
        shutil.rmtree(self.home / run, ignore_errors=True)
        done = self.start(run).end(300)
        assert done.returncode == 0, done.stderr
        assert_same_run(self.home / run, self.home / "reference")
        return done.stderr


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Training:
    """With a run `reference`, which started with an empty cache."""
    training = Training(tmp_path_factory.mktemp("home"))
    done = training.start("reference").end(300)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(list(training.programs.iterdir())) > 5
    return training


@pytest.mark.slow
@pytest.mark.parametrize("damage", [*KINDS_OF_DAMAGE, *range(8)] if LONG else [0])
def test_training_with_damaged_programs(
    training: Training, damage: str | int, tally: Counter[str]
) -> None:
    """All programs get the same damage, or each gets a random one, drawn with this seed."""
    paths = sorted(training.programs.iterdir())
    contents = [path.read_bytes() for path in paths]
    generator = random.Random(str(damage))
    chosen = generator.choices([*KINDS_OF_DAMAGE], k=len(paths))
    if isinstance(damage, str):
        chosen = [damage] * len(paths)
    for number, (path, one) in enumerate(zip(paths, chosen, strict=True)):
        KINDS_OF_DAMAGE[one](path, contents[number - 1])
        tally["compiled programs damaged"] += 1
    warnings = training.compare("damaged").splitlines()
    tally["runs compared after damage to programs"] += 1
    assert warnings or isinstance(damage, str)
    assert all(
        warning.startswith(("Compiling again what is damaged", "Can't cache"))
        for warning in warnings
    )
    for path in paths:
        if path.is_dir():
            path.rmdir()
    assert training.compare("afterwards") == ""
    tally["runs compared after damage to programs"] += 1


@pytest.mark.slow
@pytest.mark.parametrize("part", range(12) if LONG else [6])
def test_a_process_killed_while_two_fill_one_cache(
    training: Training, part: int, tally: Counter[str]
) -> None:
    """It is killed once the cache has `part` twelfths of the programs."""
    count = 1 + part * len(list(training.programs.iterdir())) // 12
    shutil.rmtree(training.programs)
    runs = [training.home / name for name in ("killed", "other")]
    for run in runs:
        shutil.rmtree(run, ignore_errors=True)
    killed, other = (training.start(run.name) for run in runs)
    while not training.programs.is_dir() or len(list(training.programs.iterdir())) < count:
        assert killed.poll() is None
        time.sleep(0.001)
    killed.send_signal(signal.SIGKILL)
    assert killed.end().returncode == -signal.SIGKILL
    tally["processes killed while they filled the cache"] += 1
    done = other.end(300)
    assert (done.returncode, done.stderr) == (0, "")
    assert_same_run(runs[1], training.home / "reference")
    assert training.compare("afterwards") == ""
    tally["runs compared after kills"] += 2


@pytest.mark.slow
@pytest.mark.skipif(not commands.MOUNTS, reason="needs to mount a small file system")
@pytest.mark.parametrize("options", ["ro", "size=64k", "size=4k"])
def test_full_or_read_only_disk_costs_only_time(training: Training, options: str) -> None:
    run, cache = training.home / "run", training.programs.parent
    shutil.rmtree(run, ignore_errors=True)
    script = f'mount -t tmpfs -o {options} none {cache} && exec "$@"'
    command = [sys.executable, "-m", "mnist_jax.train", *training.flags(run.name)]
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", *command],
        env=training.environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    (sentence,) = done.stderr.splitlines()
    reason = "Read-only file system" if options == "ro" else "No space left on device"
    assert sentence.startswith(f"Can't cache {training.programs}/")
    assert sentence.endswith(f" for later use: {reason}")
    assert_same_run(run, training.home / "reference")
