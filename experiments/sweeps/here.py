"""Workers on this machine: a process for every core or GPU."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console

from mnist_jax.cli.signals import Stop
from mnist_jax.errors import Failure
from mnist_jax.training import devices

# How often a worker that was killed gets a successor: what kills it may be what it trains.
_SUCCESSORS = 3
# Seconds between two looks at the workers.
_PERIOD = 0.2
# What of this machine JAX computes on, and how many there are of it.
_ASK = "import jax; print(jax.default_backend(), jax.local_device_count())"


@dataclass(frozen=True)
class Place:
    """What a worker has to itself.

    Attributes:
      core: the CPU core that it runs on; None for any.
      variables: of its environment.
    """

    core: int | None
    variables: Mapping[str, str]


def places() -> list[Place]:
    """One for every GPU that JAX would use, else one for every core of a CPU.

    Raises:
      Failure: JAX does not start here.
    """
    # In a process of its own, because whoever asks takes a GPU's memory.
    asked = subprocess.run(
        [sys.executable, "-c", _ASK], capture_output=True, text=True, check=False
    )
    if asked.returncode:
        last = asked.stderr.strip().rpartition("\n")[2]
        raise Failure(f"JAX does not start here ({last}); repair its installation.")
    platform, count = asked.stdout.split()
    if platform == "gpu":
        return [Place(None, _gpu(number)) for number in range(int(count))]
    if platform != "cpu":  # A TPU's chips belong to one process.
        return [Place(None, {})]
    if not hasattr(os, "sched_getaffinity"):  # On macOS.
        return [Place(None, {})] * devices.cores()
    return [Place(core, {}) for core in sorted(os.sched_getaffinity(0))]


def _gpu(number: int) -> dict[str, str]:
    # The networks are small: several workers find room on one.
    return {
        "JAX_CUDA_VISIBLE_DEVICES": str(number),
        "JAX_ROCM_VISIBLE_DEVICES": str(number),
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }


class Worker:
    """A process that works, with a session of its own: the terminal's Ctrl-C is not for it."""

    def __init__(self, command: Sequence[str], place: Place):
        self._command, self._place = command, place
        self._successors = _SUCCESSORS
        self._start()

    def _start(self) -> None:
        environment = {**os.environ, **self._place.variables}
        if self._place.core is None:
            self._process = subprocess.Popen(self._command, env=environment, start_new_session=True)
            return
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, [self._place.core])  # Is inherited.
        try:
            self._process = subprocess.Popen(self._command, env=environment, start_new_session=True)
        finally:
            os.sched_setaffinity(0, before)

    def stop(self) -> None:
        """Has it save and end."""
        self._process.terminate()

    def ended(self, out: Console, stopping: bool) -> bool:
        """Whether it has, after a successor was started where it was killed."""
        code = self._process.poll()
        if code is None:
            return False
        if code >= 0 or stopping:
            return True
        what = f"A worker was killed by {signal.Signals(-code).name}"
        if not self._successors:
            out.print(f"{what} again, and has no successor.")
            return True
        self._successors -= 1
        out.print(f"{what}; another goes on.")
        self._start()
        return False


def work(out: Console, command: Sequence[str], places: Sequence[Place], stop: Stop) -> None:
    """Has workers work until all have ended, or until `stop`, which has them save first."""
    workers = [Worker(command, place) for place in places]
    asked = False
    while workers:
        if stop() and not asked:
            asked = True
            for worker in workers:
                worker.stop()
        workers = [worker for worker in workers if not worker.ended(out, asked)]
        time.sleep(_PERIOD)
