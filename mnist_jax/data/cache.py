"""Our own folder for datasets, and writing to it safely."""

import os
import tempfile
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
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
            temporary = Path(file.name)
            try:
                file.write(data)
                file.close()
                temporary.chmod(0o644)
                temporary.replace(path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
    except OSError as error:
        logging.warning("Cannot keep %s for the next time: %s", path, error.strerror)
