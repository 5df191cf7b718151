"""Start-up of a command: a message while JAX is imported, and a clean exit on Ctrl-C.

The imports take seconds and can't be interrupted cleanly, so a command sets this up before it
imports the rest. Nothing happens in a process that is not a command of these packages.
"""

import contextlib
import os
import signal
import sys
from types import FrameType

from mnist_jax.cli import streams

# The descriptor: the stream object may be missing, and is not safe in a signal handler.
_STDERR = 2

_ERASE_LINE = "\r\x1b[K"


def begin() -> None:
    """On a terminal, shows that the command is starting, until `end`."""
    if not _is_command():
        return
    streams.reserve()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupted)
        _show("Starting ...")


def end() -> None:
    """Restores the default: Ctrl-C raises KeyboardInterrupt."""
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
    # Not an exception: in the middle of an import, libraries swallow it or break.
    del number, frame
    _show(_ERASE_LINE)
    _write("Interrupted.\n")
    os._exit(130)


def _unraisable(what: "sys.UnraisableHookArgs") -> None:
    # Where Python can't propagate an exception, such as in JAX's garbage-collector callback, the
    # command would print a traceback and continue.
    if issubclass(what.exc_type, KeyboardInterrupt):
        _interrupted(signal.SIGINT, None)
    # When a file can't be written, Orbax raises and closes the event loop that TensorStore's other
    # threads still use; their errors end up here.
    if str(what.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(what)


def _show(text: str) -> None:
    if os.isatty(_STDERR):
        _write(text)


def _write(text: str) -> None:
    with contextlib.suppress(OSError):  # The terminal may have closed.
        os.write(_STDERR, text.encode())
