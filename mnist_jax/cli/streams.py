"""Standard output and error that never raise: output that can't be written is dropped.

If a terminal closes, the reader of a pipe exits or a disk is full, a command whose results are in
files continues; one whose only result is its output checks with `delivered`.
"""

import errno
import io
import os
import sys
import tempfile
from typing import IO, TYPE_CHECKING

from mnist_jax.files import unwritable

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class _Descriptor(io.FileIO):
    # The error of the first write that failed.
    failure: OSError | None = None

    def write(self, data: "ReadableBuffer", /) -> int:
        try:
            count = super().write(data)
        except OSError as error:
            self.failure = self.failure or error
            count = 0
        if count is None:  # The descriptor is non-blocking, and its reader is slow.
            self.failure = self.failure or BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return count or memoryview(data).nbytes


def reserve() -> None:
    """Opens `os.devnull` for closed standard streams, so that no file takes their descriptors.

    Otherwise a library that writes to such a descriptor would write into that file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)  # Takes the lowest; writing to it fails as before.


def guard() -> None:
    """Replaces the process's standard output and error by streams that never raise."""
    reserve()
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is not getattr(sys, f"__{name}__"):
            continue  # Already replaced, for example by a notebook.
        _put(name, number)


def _put(name: str, number: int) -> None:
    output = io.TextIOWrapper(
        io.BufferedWriter(_Descriptor(number, "w", closefd=False)),
        encoding=(stream := getattr(sys, name)) and stream.encoding,
        errors="backslashreplace",
        line_buffering=True,
    )
    setattr(sys, name, output)


def divert() -> IO[bytes]:
    """Redirects what libraries write to standard output and error into a file, and returns it."""
    libraries = tempfile.TemporaryFile()  # noqa: SIM115 - it stays open
    for number, name in ((1, "stdout"), (2, "stderr")):
        getattr(sys, name).flush()
        _put(name, os.dup(number))
        os.dup2(libraries.fileno(), number)
    return libraries


def delivered() -> None:
    """Checks that standard output was written; for commands whose only result is their output.

    A reader that has exited wants no more output, so that is not an error.

    Raises:
      Failure: a write failed.
    """
    sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    error = raw.failure if isinstance(raw, _Descriptor) else None
    if error is not None and not isinstance(error, BrokenPipeError):
        raise unwritable("Standard output", error, "place for it")
