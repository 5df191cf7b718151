"""Connecting the processes of a run, and replacing JAX's abort by an error message."""

import ctypes
import os
import signal
import sys
from types import TracebackType

from absl import flags
from absl import logging as absl_logging

from mnist_jax import hosts
from mnist_jax.cli import streams

_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0; not needed if a launcher provides it."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Number of processes of the run.", 1)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Index of this process, from 0.", 0)

# Keeps callbacks that C may call from being collected.
_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int)
_KEPT = list[object]()


def connect() -> None:
    """Waits for the other processes, if the flags or a launcher specify any.

    Raises:
      Failure: as `hosts.connect`.
    """
    interrupt = signal.getsignal(signal.SIGINT)
    hosts.connect(
        _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value, before=_before_waiting
    )
    signal.signal(signal.SIGINT, interrupt)
    if hosts.count() > 1:
        sys.excepthook = _unexpected
    if not hosts.is_first():
        absl_logging.set_verbosity(absl_logging.ERROR)  # The first process logs warnings.


def _unexpected(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Ends the other processes too, so that none waits for one that a bug has ended."""
    sys.__excepthook__(kind, error, trace)
    hosts.announce_end(1)
    hosts.leave(1)


def _before_waiting() -> None:
    """Replaces JAX's abort, when another process is lost, by an error message."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's would run only once all have connected.
    libraries = streams.divert()
    absl_logging.get_absl_handler().python_handler.setStream(sys.stderr)

    def aborted(number: int) -> None:
        text = os.pread(libraries.fileno(), 1 << 20, 0).decode(errors="replace")
        if (words := hosts.abort_message(text)) is not None:
            sys.stderr.write(words and f"{words}\n")
            os._exit(1)
        sys.stderr.write(text)
        system.signal(number, ctypes.c_void_p(0))
        os.abort()

    # Python's own handlers wait for the interpreter, which does not run again here.
    system = ctypes.CDLL(None)
    system.signal.restype = ctypes.c_void_p
    handler = _HANDLER(aborted)
    _KEPT.append(handler)
    system.signal(signal.SIGABRT, handler)
