"""Checkpoints of a run, written in the background and verified before use; all that knows Orbax."""

import contextlib
import hashlib
import os
import re
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import jax
import numpy as np
from absl import logging

from mnist_jax.errors import Failure
from mnist_jax.files import make_folder, synchronize, write_text

# Orbax is imported where it is used: training starts without it.
if TYPE_CHECKING:
    from orbax.checkpoint import Checkpointer

# What Orbax writes of a checkpoint, where its CheckpointManager would look for it.
_ARRAYS = "default"
_MANIFEST = "SHA256SUMS"

# Two saves at once, of two seeds, would mix up what Orbax counts for the whole process.
_ORBAX = threading.Lock()


class Checkpoints:
    """The checkpoints of a run: the latest two, and one to be kept.

    Two, because the latest may turn out damaged. Beside Orbax's files every checkpoint has a
    manifest, `SHA256SUMS`, in the format of `sha256sum` with paths relative to `directory`. It
    is written after everything else and removed before it: without one, a checkpoint is none.

    Used as a context manager, which waits for the last save to end.

    Args:
      directory: where they are; made by the first save.
    """

    def __init__(self, directory: Path):
        self._directory = directory.absolute()
        self._prepared = False
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.wait()
        finally:
            self._writer.shutdown()

    def steps(self) -> list[int]:
        """The steps there are checkpoints of, in order, damaged ones included."""
        try:
            entries = list(self._directory.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise Failure(f"{self._directory} can't be read ({error.strerror}).") from error
        return sorted(int(e.name) for e in entries if e.name.isdecimal() and e.is_dir())

    def save(self, step: int, tree: Any, *, keep: int | None = None) -> None:
        """Writes a checkpoint in the background; then only the latest two and `keep` are left.

        The arrays of `tree` may change as soon as this returns. Checkpoints of later steps are
        removed: this run has taken another way.

        Raises:
          Failure: the previous one could not be written.
        """
        self.wait()
        # Copies: a donated array's memory is reused by the next step.
        arrays = {name: np.array(array) for name, array in _by_name(tree).items()}
        self._pending = self._writer.submit(self._write, step, arrays, keep)

    def wait(self) -> None:
        """Waits until the last save is safe on disk.

        Raises:
          Failure: it could not be written.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def restore(self, like: Any, step: int | None = None) -> tuple[int, Any]:
        """Reads a checkpoint after verifying every byte of it.

        Args:
          like: a tree of arrays or `jax.ShapeDtypeStruct`s: what was saved, or a part of it.
          step: which one; by default the latest that is intact, with a warning about later ones.

        Returns:
          Its step, and the tree with NumPy arrays, bit by bit as they were saved.

        Raises:
          Failure: it is missing, damaged, or of another network.
        """
        if step is None:
            step = max(self.intact(), default=None)
            if step is None:
                raise Failure(f"{self._directory} has no intact checkpoint; train once more.")
        elif step not in self.steps():
            there = ", ".join(map(str, self.steps())) or "none"
            raise Failure(
                f"{self._directory} has no checkpoint of step {step}; there are: {there}."
            )
        elif damage := self._damage(step):
            raise Failure(f"The checkpoint {self._folder(step)} is damaged: {damage}.")
        return step, self._read(step, like)

    def intact(self) -> list[int]:
        """The steps of the checkpoints that are as they were saved, in order; warns of others.

        One that is being written or removed, or was when its process was killed, is passed over
        in silence.
        """
        intact = []
        for step in self.steps():
            path = self._folder(step)
            if not (path / _MANIFEST).exists():
                continue
            damage = self._damage(step)
            if damage is None:
                intact.append(step)
            elif (path / _MANIFEST).exists():  # Otherwise it has just been removed.
                logging.warning("The checkpoint %s is damaged: %s; leaving it out.", path, damage)
        return intact

    def _folder(self, step: int) -> Path:
        return self._directory / str(step)

    def _read(self, step: int, like: Any) -> Any:
        try:
            with _orbax() as orbax:
                found = orbax.restore(self._folder(step) / _ARRAYS)
        except (OSError, ValueError) as error:
            raise Failure(
                f"The checkpoint {self._folder(step)} can't be read ({_reason(error)});"
                " remove it to go on from an earlier one."
            ) from error
        # Not left to Orbax, which takes another shape or dtype without a word.
        expected = _by_name(like)
        names = [n for n in expected if _kind(expected, n) != _kind(found, n)]
        if names:
            raise Failure(
                f"The checkpoint {self._folder(step)} is of another network or optimizer:"
                f" it has {_kind(found, min(names))} as {min(names)}, not"
                f" {_kind(expected, min(names))}."
            )
        return jax.tree.unflatten(jax.tree.structure(like), [found[name] for name in expected])

    def _write(self, step: int, arrays: dict[str, np.ndarray], keep: int | None) -> None:
        try:
            if not self._prepared:
                self._prepare(step)
            if step in self.steps():
                return
            with _ORBAX, _orbax() as orbax:
                orbax.save(self._folder(step) / _ARRAYS, arrays)
                # A folder that can't be listed for a moment makes Orbax leave out all arrays and
                # say nothing.
                if not _equal(orbax.restore(self._folder(step) / _ARRAYS), arrays):
                    raise ValueError("it does not read back as it was")
            self._write_manifest(step)
            for other in self.steps()[:-2]:
                if other != keep:
                    self._remove(other)
        except (OSError, ValueError) as error:
            raise Failure(
                f"The checkpoint of step {step} can't be written to {self._directory}"
                f" ({_reason(error)}); what was saved before it is kept."
            ) from error

    def _prepare(self, step: int) -> None:
        """Removes what a process left behind that was interrupted, and what is not of this run."""
        make_folder(self._directory)
        for unnamed in self._directory.glob("*.orbax-checkpoint-tmp"):  # As earlier versions did.
            shutil.rmtree(unnamed)
        for other in self.steps():
            # Not one that can't be read for the moment, which may be intact.
            if other > step or self._difference(other):
                self._remove(other)
        self._prepared = True

    def _remove(self, step: int) -> None:
        """Removes a checkpoint, its manifest first: half removed, it must not look damaged."""
        (self._folder(step) / _MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(self._folder(step))

    def _write_manifest(self, step: int) -> None:
        """Finishes a checkpoint: from here on it is one, also after a loss of power."""
        folder = self._folder(step)
        for path in (*_below(folder), folder, self._directory):
            synchronize(path)
        lines = "".join(f"{d}  {name}\n" for name, d in sorted(self._digests(step).items()))
        write_text(folder / _MANIFEST, lines)

    def _damage(self, step: int) -> str | None:
        """What is wrong with a checkpoint, as a clause; None if nothing is."""
        try:
            return self._difference(step)
        except OSError as error:
            return f"it can't be read ({error.strerror})"

    def _difference(self, step: int) -> str | None:
        """In what a checkpoint differs from its manifest, as a clause; None if in nothing.

        Raises:
          OSError: it can't be read.
        """
        try:
            lines = (self._folder(step) / _MANIFEST).read_text("ascii").splitlines()
            expected = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
        except FileNotFoundError:
            return f"it has no {_MANIFEST}, so it was never finished, or is half removed"
        except ValueError:
            return f"its {_MANIFEST} is not one"
        found = self._digests(step)
        wrong = sorted(n for n in expected.keys() | found if expected.get(n) != found.get(n))
        if wrong or not found:
            return f"{wrong[0]} is not what was saved" if wrong else "it is empty"
        return None

    def _digests(self, step: int) -> dict[str, str]:
        """The SHA-256 of every file of a checkpoint but its manifest."""
        return {
            path.relative_to(self._directory).as_posix(): hashlib.sha256(
                path.read_bytes()
            ).hexdigest()
            for path in _below(self._folder(step))
            if path.is_file() and path.name != _MANIFEST
        }


@contextlib.contextmanager
def _orbax() -> Iterator["Checkpointer"]:
    """Orbax's checkpointer that has done everything when it returns.

    What writes in the background here is a thread of ours: where Orbax's own can't make a folder,
    it is five minutes until it says so.
    """
    import orbax.checkpoint as ocp

    # Of several processes only the first comes here, with all arrays: it waits for no other.
    alone = ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0})
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
    with ocp.Checkpointer(handler, multiprocessing_options=alone) as checkpointer:
        yield checkpointer


def _below(folder: Path) -> Iterator[Path]:
    """All folders and files in a folder, at any depth.

    Unlike `Path.rglob`, which passes over what may not be listed: a manifest would lack its files.

    Raises:
      OSError: a folder can't be listed.
    """

    def refuse(error: OSError) -> None:
        raise error

    for parent, folders, files in os.walk(folder, onerror=refuse):
        yield from (Path(parent, name) for name in (*folders, *files))


def _by_name(tree: Any) -> dict[str, Any]:
    """The leaves of a tree, in its order, by their place in it."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _equal(arrays: dict[str, Any], others: dict[str, np.ndarray]) -> bool:
    """Whether all of them are the same, bit by bit."""
    return arrays.keys() == others.keys() and all(
        _kind(arrays, n) == _kind(others, n) and arrays[n].tobytes() == others[n].tobytes()
        for n in arrays
    )


def _kind(arrays: dict[str, Any], name: str) -> str:
    return f"{arrays[name].dtype}{list(arrays[name].shape)}" if name in arrays else "nothing"


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    # TensorStore raises ValueError with the system's error number in its text.
    number = re.search(r"os_error_code='(\d+)'", str(error))
    if number:
        return os.strerror(int(number[1]))
    return str(error).partition("\n")[0].partition(" [tensorstore_spec")[0]
