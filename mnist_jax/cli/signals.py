"""Ending on SIGTERM and Ctrl-C at a moment of our own choosing."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


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
    """Takes note of the first SIGTERM or SIGINT; a second one ends the process at once."""
    stop = Stop()

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        stop.received = signal.Signals(number)
        for either in before:
            signal.signal(either, signal.SIG_DFL)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
