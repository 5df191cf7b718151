"""Ending on SIGTERM and Ctrl-C at a moment of our own choosing."""

import contextlib
import re
import shlex
import signal
import sys
from collections.abc import Iterator
from types import FrameType

from mnist_jax.errors import Interrupted
from mnist_jax.training.session import Stopped


class Stop:
    """What has been asked for.

    Attributes:
      received: the first signal that came, or None.
    """

    received: signal.Signals | None = None

    def __call__(self) -> bool:
        """Whether to stop."""
        return self.received is not None


@contextlib.contextmanager
def stopping() -> Iterator[Stop]:
    """Takes note of the first SIGTERM or SIGINT; a second one ends the process at once.

    Raises:
      Interrupted: training stopped for the first; the sentence says how to go on.
    """
    stop = Stop()

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        stop.received = signal.Signals(number)
        for either in before:
            signal.signal(either, signal.SIG_DFL)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    except Stopped as stopped:
        assert stop.received is not None
        raise Interrupted(
            f"Stopped by {stop.received.name} after step {stopped.step} of"
            f" {stopped.total_steps}, which is saved; continue with {_same_command()}",
            stop.received,
        ) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _same_command() -> str:
    """The command line that goes on with what this one began."""
    program = sys.modules["__main__"].__spec__
    again = re.compile("--?overwrite(=|$)")
    arguments = [argument for argument in sys.argv[1:] if not again.match(argument)]
    name = ["-m", program.name] if program else [sys.argv[0]]
    return shlex.join(["python", *name, *arguments])
