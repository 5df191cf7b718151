"""A persistent compilation cache whose entries are written atomically and verified when read.

JAX's own cache never replaces a damaged entry, so that every start is slow, and runs whatever
program a file holds, even one that was compiled under another key.
"""

import hashlib
import importlib
import os
from pathlib import Path
from typing import Any

import jax
from absl import logging

from mnist_jax.files import store

_DIGEST_BYTES = hashlib.sha256().digest_size


class Programs:
    """A folder of compiled programs, with the interface of JAX's cache.

    A file holds a program and then the SHA-256 of its key and content. If that is wrong or missing,
    the program counts as missing: JAX compiles it, and the file is replaced.
    """

    def __init__(self, folder: Path):
        self._path = folder  # JAX's logging reads this attribute.

    def get(self, key: str) -> bytes | None:
        """The program with this key, or None."""
        path = self._file(key)
        try:
            if not path.is_file():  # Reading anything else, such as a pipe, might block.
                return None
            with path.open("rb") as file:
                program = file.read(max(0, os.fstat(file.fileno()).st_size - _DIGEST_BYTES))
                digest = file.read()
        except OSError:
            return None
        if digest != _digest(key, program):
            what = "Compiling again what is damaged or of an older version in %s"
            logging.log_first_n(logging.WARNING, what, 1, self._path)
            return None
        return program

    def put(self, key: str, value: bytes) -> None:
        """Stores a program; if it can't be written, the reason is logged."""
        store(self._file(key), value + _digest(key, value))

    def _file(self, key: str) -> Path:
        return self._path / f"{key}-cache"


def keep_in(folder: Path) -> None:
    """Makes JAX keep the programs it compiles in a folder, and load them from there."""
    # The path is part of every program's key: resolve links, so that there is only one path.
    jax.config.update("jax_compilation_cache_dir", os.path.realpath(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    # There is no public API to replace JAX's cache; a version without this module keeps its own.
    try:
        internals: Any = importlib.import_module("jax._src.compilation_cache")
    except ImportError:
        return
    internals.get_file_cache = lambda path: (Programs(Path(path)), path)


def _digest(key: str, program: bytes) -> bytes:
    digest = hashlib.sha256(key.encode())
    digest.update(program)  # Copying it would take longer.
    return digest.digest()
