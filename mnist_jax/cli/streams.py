"""Standard output and error that end no command: what has nowhere to go is dropped.

A terminal closes, the reader of a pipe ends, a disk is full: a command whose results are in files
goes on, and one whose only result is its output asks with `delivered`.
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
    # What the system said to the first write that failed.
    failure: OSError | None = None

    def write(self, data: "ReadableBuffer", /) -> int:
        try:
            count = super().write(data)
        except OSError as error:
            self.failure = self.failure or error
            count = 0
        if count is None:  # The descriptor does not block, and its reader is slow.
            self.failure = self.failure or BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return count or memoryview(data).nbytes


def reserve() -> None:
    """Keeps the numbers of standard streams that are closed from the next files that are opened.

    What a library reports by such a number would be written into a file of ours.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)  # Takes the lowest; writing to it fails as before.


def guard() -> None:
    """Puts streams that never fail into the place of the process's own."""
    reserve()
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is not getattr(sys, f"__{name}__"):
            continue  # A notebook's, or whoever's else.
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
    """Leaves the streams to this program; gives the file into which libraries write from now on."""
    libraries = tempfile.TemporaryFile()  # noqa: SIM115 - it stays open
    for number, name in ((1, "stdout"), (2, "stderr")):
        getattr(sys, name).flush()
        _put(name, os.dup(number))
        os.dup2(libraries.fileno(), number)
    return libraries


def delivered() -> None:
    """Makes sure that standard output took what was written, where that is the only result.

    Where its reader has ended it wants no more, and nothing is said.

    Raises:
      Failure: it did not.
    """
    sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    error = raw.failure if isinstance(raw, _Descriptor) else None
    if error is not None and not isinstance(error, BrokenPipeError):
        raise unwritable("Standard output", error, "place for it")
