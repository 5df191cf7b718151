"""Compiled programs for later processes: each is written whole, and verified when it is read.

JAX's own store never replaces a program that is damaged, so that every start is a slow one, and
runs another program under the name that was asked for if that is what the file holds.
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
    """A folder of programs, with the methods of JAX's store.

    A file holds a program and then the SHA-256 of its name and content. Where that is wrong or
    lacking the program counts as missing: JAX compiles it, and the file is replaced.
    """

    def __init__(self, folder: Path):
        self._path = folder  # By this name JAX's log asks for it.

    def get(self, key: str) -> bytes | None:
        """The program of this name, or None."""
        path = self._file(key)
        try:
            if not path.is_file():  # Anything else, such as a pipe, might keep us waiting.
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
        """Keeps a program; if it can't be written, the reason is logged."""
        store(self._file(key), value + _digest(key, value))

    def _file(self, key: str) -> Path:
        return self._path / f"{key}-cache"


def keep_in(folder: Path) -> None:
    """Has JAX keep the programs it compiles in a folder, and load them from there."""
    # JAX makes the path a part of every program's name: one path, whichever link leads there.
    jax.config.update("jax_compilation_cache_dir", os.path.realpath(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    # There is no public way to give JAX a store; a version without this one keeps its own.
    try:
        internals: Any = importlib.import_module("jax._src.compilation_cache")
    except ImportError:
        return
    internals.get_file_cache = lambda path: (Programs(Path(path)), path)


def _digest(key: str, program: bytes) -> bytes:
    digest = hashlib.sha256(key.encode())
    digest.update(program)  # Copying it would take longer.
    return digest.digest()
