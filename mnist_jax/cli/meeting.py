"""Meeting the other processes of a run, and ending with a sentence where JAX would abort."""

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
    "coordinator", None, "HOST:PORT of process 0, where no launcher says who trains together."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many train together.", 1)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this one is, from 0 on.", 0)

# What C calls has to stay.
_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int)
_KEPT = list[object]()


def meet() -> None:
    """Waits for the others, if the flags or a launcher say that there are any.

    Raises:
      Failure: as `hosts.meet`.
    """
    interrupt = signal.getsignal(signal.SIGINT)
    hosts.meet(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value, before=_before_waiting)
    signal.signal(signal.SIGINT, interrupt)
    if hosts.count() > 1:
        sys.excepthook = _unexpected
    if not hosts.is_first():
        absl_logging.set_verbosity(absl_logging.ERROR)  # The first one warns.


def _unexpected(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """No process is to wait for one that a bug has ended."""
    sys.__excepthook__(kind, error, trace)
    hosts.is_to_say_why(1)
    hosts.leave(1)


def _before_waiting() -> None:
    """Where JAX ends the process because another one is gone, has it say so in a sentence."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's would come when all are there.
    libraries = streams.divert()
    absl_logging.get_absl_handler().python_handler.setStream(sys.stderr)

    def aborted(number: int) -> None:
        text = os.pread(libraries.fileno(), 1 << 20, 0).decode(errors="replace")
        if (words := hosts.last_words(text)) is not None:
            sys.stderr.write(words and f"{words}\n")
            os._exit(1)
        sys.stderr.write(text)
        system.signal(number, ctypes.c_void_p(0))
        os.abort()

    # Python's own handlers run when the interpreter comes to it; this process won't.
    system = ctypes.CDLL(None)
    system.signal.restype = ctypes.c_void_p
    handler = _HANDLER(aborted)
    _KEPT.append(handler)
    system.signal(signal.SIGABRT, handler)
