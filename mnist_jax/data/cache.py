"""Our own folder for datasets, and writing to it safely."""

import contextlib
import os
import uuid
from pathlib import Path

from absl import logging


def folder() -> Path:
    """`$XDG_CACHE_HOME/mnist_jax`, or `~/.cache/mnist_jax`."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "mnist_jax"


def store(path: Path, data: bytes) -> None:
    """Writes a file of the cache in one step, so that no reader ever sees half of it.

    A cache that cannot be written costs time, not the result: the reason is logged.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        logging.log_first_n(
            logging.WARNING, "Cannot keep %s for the next time: %s", 1, path, error.strerror
        )
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
