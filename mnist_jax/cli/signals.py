"""Graceful shutdown on SIGTERM, SIGINT (Ctrl-C) and SIGHUP (a closed terminal)."""

import contextlib
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from types import FrameType
from typing import ParamSpec, TypeVar

from mnist_jax import hosts
from mnist_jax.errors import Interrupted
from mnist_jax.training.session import Stopped

P = ParamSpec("P")
T = TypeVar("T")

_ERASE_LINE_AND_SHOW_CURSOR = "\r\x1b[K\x1b[?25h"


class Stop:
    """The state of a request to stop.

    Attributes:
      received: the first signal received, or None.
    """

    received: signal.Signals | None = None

    def __call__(self) -> int:
        """The signal's number; 0 if none was received."""
        return self.received or 0


@contextlib.contextmanager
def stopping() -> Iterator[Stop]:
    """Records the first SIGTERM, SIGINT or SIGHUP, and reports it on standard error.

    A second SIGTERM or SIGINT ends the process. A closed terminal sends SIGHUP more than once,
    itself and through its shell; if SIGHUP was ignored, as under nohup, it stays ignored.

    Raises:
      Interrupted: training stopped because of the signal; the message says how to resume.
    """
    stop = Stop()

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        if stop.received is not None and number == signal.SIGHUP:
            return
        stop.received = stop.received or signal.Signals(number)
        second = ""
        if number != signal.SIGHUP:
            second = "; a second one stops at once"
            for either in (signal.SIGTERM, signal.SIGINT):
                signal.signal(either, signal.SIG_DFL)
        # The bar has hidden the cursor; show it now, since a second signal leaves no time for that.
        cursor = _ERASE_LINE_AND_SHOW_CURSOR if sys.stderr.isatty() else ""
        name = signal.Signals(number).name
        sentence = f"{cursor}{name}: stopping once the current steps are saved{second}.\n"
        if not (hosts.is_first() or sys.stderr.isatty()):
            return  # The launcher sends the signal to all processes.
        with contextlib.suppress(OSError):  # Ctrl-C may have ended the reader of stderr, too.
            os.write(sys.stderr.fileno(), sentence.encode())

    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield stop
    except Stopped as stopped:
        # Another process may have received it.
        received = signal.Signals(stopped.reason)
        raise Interrupted(
            f"Stopped by {received.name} after step {stopped.step} of"
            f" {stopped.total_steps}, which is saved; resume with {same_command()}",
            received,
        ) from None
    finally:
        if stop.received is not None:
            before[signal.SIGHUP] = signal.SIG_IGN  # The rest takes no time.
        for number, handler in before.items():
            signal.signal(number, handler)


def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Calls a function in a separate thread, so that signals are handled meanwhile.

    Python runs signal handlers in the main thread, which would be blocked while XLA compiles.
    """
    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(function, *args, **kwargs)
        # With a timeout, since a signal that arrives just before the wait would not end it.
        while not wait([future], timeout=0.1).done:
            pass
        return future.result()


def same_command() -> str:
    """The command line that resumes what this one began."""
    again = re.compile("--?overwrite(=|$)")
    arguments = [argument for argument in sys.argv[1:] if not again.match(argument)]
    return shlex.join(["python", *program(), *arguments])


def program() -> list[str]:
    """What comes between `python` and the arguments."""
    spec = sys.modules["__main__"].__spec__
    return ["-m", spec.name] if spec else [sys.argv[0]]
