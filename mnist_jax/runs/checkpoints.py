"""Checkpoints of a run, written in the background and verified before use; the only Orbax code."""

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

# Folder of Orbax's files in a checkpoint, where its CheckpointManager would look for them.
_ARRAYS = "default"
_MANIFEST = "SHA256SUMS"

# Concurrent saves of two seeds would corrupt Orbax's process-wide counters.
_ORBAX = threading.Lock()


class Checkpoints:
    """The checkpoints of a run: the latest two, and one to be kept.

    Two, because the latest may turn out damaged. Beside Orbax's files every checkpoint has a
    manifest, `SHA256SUMS`, in the format of `sha256sum` with paths relative to `directory`. It is
    written last and removed first: a folder without one is not a checkpoint.

    Used as a context manager, which waits for the last save to end.

    Args:
      directory: the folder of the checkpoints; made by the first save.
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
        """The steps of all checkpoints, damaged ones included, in order."""
        try:
            entries = list(self._directory.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise Failure(f"{self._directory} can't be read ({error.strerror}).") from error
        return sorted(int(e.name) for e in entries if e.name.isdecimal() and e.is_dir())

    def complete(self) -> list[int]:
        """The steps of the checkpoints written to their end, damaged ones included, in order."""
        return [step for step in self.steps() if (self._folder(step) / _MANIFEST).exists()]

    def save(self, step: int, tree: Any, *, keep: int | None = None) -> None:
        """Writes a checkpoint in the background, then removes all but the latest two and `keep`.

        The arrays of `tree` may change as soon as this returns. Checkpoints of later steps are
        removed: they belong to an abandoned continuation of the run.

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
          step: its step; by default that of the latest intact one, with a warning about later ones.

        Returns:
          Its step, and the tree with NumPy arrays, bit for bit as they were saved.

        Raises:
          Failure: it is missing, damaged, or of another network.
        """
        if step is None:
            step = max(self.intact(), default=None)
            if step is None:
                raise Failure(f"{self._directory} has no intact checkpoint; train again.")
        elif step not in self.steps():
            there = ", ".join(map(str, self.steps())) or "none"
            raise Failure(
                f"{self._directory} has no checkpoint of step {step}; available: {there}."
            )
        elif damage := self._damage(step):
            raise Failure(f"The checkpoint {self._folder(step)} is damaged: {damage}.")
        return step, self._read(step, like)

    def intact(self) -> list[int]:
        """The steps of the intact checkpoints, in order; warns of damaged ones.

        One whose writing or removal is in progress, or was interrupted, is skipped silently.
        """
        intact = []
        for step in self.complete():
            path, damage = self._folder(step), self._damage(step)
            if damage is None:
                intact.append(step)
            elif (path / _MANIFEST).exists():  # Otherwise it has just been removed.
                logging.warning("The checkpoint %s is damaged: %s; skipping it.", path, damage)
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
                " remove it to resume from an earlier one."
            ) from error
        # Not left to Orbax, which silently accepts another shape or dtype.
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
            if step in self.complete():
                return
            if step in self.steps():  # A save that failed.
                self._remove(step)
            with _ORBAX, _orbax() as orbax:
                orbax.save(self._folder(step) / _ARRAYS, arrays)
                # If a folder temporarily can't be listed, Orbax silently omits all arrays.
                if not _equal(orbax.restore(self._folder(step) / _ARRAYS), arrays):
                    raise ValueError("what was read back differs from what was written")
            self._write_manifest(step)
            for other in self.steps()[:-2]:
                if other != keep:
                    self._remove(other)
        except (OSError, ValueError) as error:
            raise Failure(
                f"The checkpoint of step {step} can't be written to {self._directory}"
                f" ({_reason(error)}); earlier checkpoints are kept."
            ) from error

    def _prepare(self, step: int) -> None:
        """Removes leftovers of interrupted processes, and checkpoints that are not of this run."""
        make_folder(self._directory)
        # Left behind by earlier versions.
        for unnamed in self._directory.glob("*.orbax-checkpoint-tmp"):
            shutil.rmtree(unnamed)
        for other in self.steps():
            # Not one that temporarily can't be read, which may be intact.
            if other > step or self._difference(other):
                self._remove(other)
        self._prepared = True

    def _remove(self, step: int) -> None:
        """Removes a checkpoint, manifest first: if interrupted, it must not look damaged."""
        (self._folder(step) / _MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(self._folder(step))

    def _write_manifest(self, step: int) -> None:
        """Completes a checkpoint: from here on it is valid, and survives a power failure."""
        folder = self._folder(step)
        for path in (*_below(folder), folder, self._directory):
            synchronize(path)
        lines = "".join(f"{d}  {name}\n" for name, d in sorted(self._digests(step).items()))
        write_text(folder / _MANIFEST, lines)

    def _damage(self, step: int) -> str | None:
        """What is wrong with a checkpoint, as a clause, or None."""
        try:
            return self._difference(step)
        except OSError as error:
            return f"it can't be read ({error.strerror})"

    def _difference(self, step: int) -> str | None:
        """How a checkpoint differs from its manifest, as a clause; None if it does not.

        Raises:
          OSError: it can't be read.
        """
        try:
            lines = (self._folder(step) / _MANIFEST).read_text("ascii").splitlines()
            expected = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
        except FileNotFoundError:
            return f"it has no {_MANIFEST}, so it was never finished, or is half removed"
        except ValueError:
            return f"its {_MANIFEST} is malformed"
        found = self._digests(step)
        wrong = sorted(n for n in expected.keys() | found if expected.get(n) != found.get(n))
        if wrong or not found:
            return f"{wrong[0]} is not what was saved" if wrong else "it is empty"
        return None

    def _digests(self, step: int) -> dict[str, str]:
        """The SHA-256 of every file of a checkpoint except its manifest."""
        return {
            path.relative_to(self._directory).as_posix(): hashlib.sha256(
                path.read_bytes()
            ).hexdigest()
            for path in _below(self._folder(step))
            if path.is_file() and path.name != _MANIFEST
        }


@contextlib.contextmanager
def _orbax() -> Iterator["Checkpointer"]:
    """Orbax's synchronous checkpointer.

    Background writing uses a thread of our own: if Orbax's can't make a folder, it takes five
    minutes to report that.
    """
    import orbax.checkpoint as ocp

    # Only the first process gets here, with all arrays, and must not wait for others.
    alone = ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0})
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
    with ocp.Checkpointer(handler, multiprocessing_options=alone) as checkpointer:
        yield checkpointer


def _below(folder: Path) -> Iterator[Path]:
    """All folders and files in a folder, at any depth.

    Unlike `Path.rglob`, it does not skip folders that can't be listed: a manifest would lack their
    files.

    Raises:
      OSError: a folder can't be listed.
    """

    def refuse(error: OSError) -> None:
        raise error

    for parent, folders, files in os.walk(folder, onerror=refuse):
        yield from (Path(parent, name) for name in (*folders, *files))


def _by_name(tree: Any) -> dict[str, Any]:
    """The leaves of a tree, in its order, by their path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _equal(arrays: dict[str, Any], others: dict[str, np.ndarray]) -> bool:
    """Whether all arrays are equal, bit for bit."""
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
