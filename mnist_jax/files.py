"""Atomic file writes, bounded JSON parsing, and the cache folder."""

import contextlib
import errno
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import logging

from mnist_jax.errors import Failure, UsageError

# Nesting of objects and arrays: far deeper than ours, far less than Python's recursion limit.
_DEEPEST = 100


def expanded(path: Path | str) -> Path:
    """Expands `~` and `~NAME` in a path.

    Raises:
      UsageError: there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UsageError(f"{path} names a home folder, but there is no such user.") from error


@contextlib.contextmanager
def _replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yields a temporary path whose file atomically replaces `path` on success."""
    # A unique name, since several processes may write the same file.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        if durable:
            synchronize(temporary)
        temporary.replace(path)
        if durable:
            synchronize(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def unwritable(path: object, error: OSError, instead: str) -> Failure:
    """The error for a path that can't be written; the message says to give another `instead`."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    what_to_do = f"{'make room or ' if full else ''}give another {instead}"
    return Failure(f"{path} can't be written ({error.strerror}); {what_to_do}.")


def write_output(path: Path, content: bytes, instead: str) -> None:
    """Writes a file that a user requested, whole or not at all; follows symbolic links.

    Raises:
      Failure: it can't be written; the message says to give another `instead`.
    """
    try:
        target = Path(os.path.realpath(path))
        if target.exists() and not target.is_file():
            # Replacing it by a file would remove what other programs write to.
            raise OSError(errno.EINVAL, "it is not a regular file")
        write_bytes(target, content)
    except OSError as error:
        raise unwritable(path, error, instead) from error


def write_bytes(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Writes a file, whole or not at all.

    If `durable`, it survives a power failure.

    Raises:
      OSError: it can't be written; `path` is then unchanged.
    """
    with _replacing(path, durable=durable) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Writes a text file as `write_bytes` does, durably."""
    with _replacing(path) as temporary:
        temporary.write_text(text)


def make_folder(path: Path) -> None:
    """Makes a folder and its parents, durably: they survive a power failure."""
    missing = [folder for folder in path.parents if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    # Also if it existed: a process may have been killed before it synchronised.
    for folder in (path, *missing):
        synchronize(folder.parent)


def parse_json(text: str | bytes) -> Any:
    """Parses untrusted JSON.

    Raises:
      ValueError: it is not JSON, or is nested too deeply to be processed.
    """
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    level = [value]
    for _ in range(_DEEPEST):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    if level:
        raise ValueError("it is nested too deeply")
    return value


def synchronize(path: Path) -> None:
    """Waits until a file's content, or a folder's entries, would survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def home_folder() -> Path | None:
    """The user's home folder; None if there is none, as for some users of a container."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/mnist_jax`, or `~/.cache/mnist_jax`.

    Raises:
      UsageError: there is neither of them.
    """
    if root := os.environ.get("XDG_CACHE_HOME"):
        return Path(root) / "mnist_jax"
    if home := home_folder():
        return home / ".cache" / "mnist_jax"
    raise UsageError("This user has no home folder for a cache; set $XDG_CACHE_HOME to a folder.")


def store(path: Path, data: bytes) -> None:
    """Writes a cache file; readers verify what they read.

    If the cache can't be written, that only costs time, so the reason is logged.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, data, durable=False)
    except OSError as error:
        logging.log_first_n(
            logging.WARNING, "Can't cache %s for later use: %s", 1, path, error.strerror
        )
