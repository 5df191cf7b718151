"""Files that are whole or absent, whatever interrupts their writing, JSON, the cache's folder."""

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

# Objects and arrays within one another: far more than ours are, far less than Python can take.
_DEEPEST = 100


def expanded(path: Path | str) -> Path:
    """A path with a home folder in the place of `~` or `~NAME`.

    Raises:
      UsageError: there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UsageError(f"{path} names a home folder, but there is no such user.") from error


@contextlib.contextmanager
def _replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Gives a temporary path whose file takes `path`'s place on success, at once."""
    # A name of its own, since several processes may write the same file.
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
    """The sentence for what the system won't write, with `instead` of it to be given."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    what_to_do = f"{'make room or ' if full else ''}give another {instead}"
    return Failure(f"{path} can't be written ({error.strerror}); {what_to_do}.")


def write_output(path: Path, content: bytes, instead: str) -> None:
    """Writes the file that somebody asked for, whole or not at all; through a link to another.

    Raises:
      Failure: it can't be written; `instead` of it is to be given.
    """
    try:
        target = Path(os.path.realpath(path))
        if target.exists() and not target.is_file():
            # A file would take its place, and what other programs write to would be gone.
            raise OSError(errno.EINVAL, "it is no regular file")
        write_bytes(target, content)
    except OSError as error:
        raise unwritable(path, error, instead) from error


def write_bytes(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Writes a file, whole or not at all.

    If `durable`, it will be found there after a loss of power.

    Raises:
      OSError: it can't be written; then `path` is as it was.
    """
    with _replacing(path, durable=durable) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Writes a text file as `write_bytes` does, durably."""
    with _replacing(path) as temporary:
        temporary.write_text(text)


def make_folder(path: Path) -> None:
    """Makes a folder, with those above it, that will be found there after a loss of power."""
    missing = [folder for folder in path.parents if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    # Also where it was there: a process may have been killed before it came to this.
    for folder in (path, *missing):
        synchronize(folder.parent)


def parse_json(text: str | bytes) -> Any:
    """Reads JSON that somebody else may have written.

    Raises:
      ValueError: it is none, or nested so deeply that nothing here could go through it.
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
    """Waits until a file's content, or what a folder lists, would survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/mnist_jax`, or `~/.cache/mnist_jax`."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "mnist_jax"


def store(path: Path, data: bytes) -> None:
    """Writes a file of the cache, whose readers verify what they read.

    A cache that cannot be written costs time, not the result: the reason is logged.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, data, durable=False)
    except OSError as error:
        logging.log_first_n(
            logging.WARNING, "Can't keep %s for the next time: %s", 1, path, error.strerror
        )
