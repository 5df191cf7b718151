"""The seconds in which a command imports JAX: it says so, and Ctrl-C ends it without a word more.

What is imported can neither be interrupted cleanly nor be kept short, so a command arranges this
before it imports the rest. It does nothing in a process that is no command of these packages.
"""

import contextlib
import os
import signal
import sys
from types import FrameType

from mnist_jax.cli import streams

# Its descriptor: the stream itself may be missing, and is of no use to a signal handler.
_STDERR = 2

_ERASE_LINE = "\r\x1b[K"


def begin() -> None:
    """On a terminal, says that the command is starting, until `end`."""
    if not _is_command():
        return
    streams.reserve()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupted)
        _show("Starting ...")


def end() -> None:
    """From here on Ctrl-C raises KeyboardInterrupt, as always."""
    sys.unraisablehook = _unraisable
    if signal.getsignal(signal.SIGINT) is _interrupted:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _show(_ERASE_LINE)


def _is_command() -> bool:
    """Whether the interpreter was started with -m and a module of these packages."""
    # Not `sys.modules["__main__"]`, which is not known yet while the packages are imported.
    before, _, after = " ".join(sys.orig_argv).partition(" -m ")
    return bool(before) and after.split(".")[0] in ("mnist_jax", "experiments")


def _interrupted(number: int, frame: FrameType | None) -> None:
    # Not an exception: libraries swallow it in the middle of an import, or break by it.
    del number, frame
    _show(_ERASE_LINE)
    _write("Interrupted.\n")
    os._exit(130)


def _unraisable(what: "sys.UnraisableHookArgs") -> None:
    # Where Python lets no exception out, such as JAX's callback of the garbage collector, the
    # command would print a traceback and go on.
    if issubclass(what.exc_type, KeyboardInterrupt):
        _interrupted(signal.SIGINT, None)
    # Where a file can't be written, Orbax raises and no longer listens to TensorStore's other
    # threads, which then complain here.
    if str(what.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(what)


def _show(text: str) -> None:
    if os.isatty(_STDERR):
        _write(text)


def _write(text: str) -> None:
    with contextlib.suppress(OSError):  # The terminal may have closed.
        os.write(_STDERR, text.encode())
