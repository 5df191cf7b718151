"""Workers on this machine: one process per core or GPU."""

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

# How often a killed worker is restarted: what it trains may be what kills it.
_RESTARTS = 3
# Polling interval in seconds.
_PERIOD = 0.2
# Prints the backend that JAX uses here and its number of devices.
_ASK = "import jax; print(jax.default_backend(), jax.local_device_count())"


@dataclass(frozen=True)
class Place:
    """Resources for one worker.

    Attributes:
      core: the CPU core it is pinned to; None for any.
      variables: environment variables.
    """

    core: int | None
    variables: Mapping[str, str]


def places() -> list[Place]:
    """One per GPU that JAX would use, otherwise one per CPU core.

    Raises:
      Failure: JAX does not start here.
    """
    # In a process of its own, because JAX allocates a GPU's memory when asked.
    asked = subprocess.run(
        [sys.executable, "-c", _ASK], capture_output=True, text=True, check=False
    )
    if asked.returncode:
        last = asked.stderr.strip().rpartition("\n")[2]
        raise Failure(f"JAX does not start here ({last}); repair its installation.")
    platform, count = asked.stdout.split()
    if platform == "gpu":
        return [Place(None, _gpu(number)) for number in range(int(count))]
    if platform != "cpu":  # Only one process can use a TPU's chips.
        return [Place(None, {})]
    if not hasattr(os, "sched_getaffinity"):  # On macOS.
        return [Place(None, {})] * devices.cores()
    return [Place(core, {}) for core in sorted(os.sched_getaffinity(0))]


def _gpu(number: int) -> dict[str, str]:
    # The networks are small: several workers fit on one GPU.
    return {
        "JAX_CUDA_VISIBLE_DEVICES": str(number),
        "JAX_ROCM_VISIBLE_DEVICES": str(number),
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }


class Worker:
    """A worker process in a session of its own, so the terminal's Ctrl-C does not reach it."""

    def __init__(self, command: Sequence[str], place: Place):
        self._command, self._place = command, place
        self._restarts = _RESTARTS
        self._start()

    def _start(self) -> None:
        environment = {**os.environ, **self._place.variables}
        if self._place.core is None:
            self._process = subprocess.Popen(self._command, env=environment, start_new_session=True)
            return
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, [self._place.core])  # Inherited by the child.
        try:
            self._process = subprocess.Popen(self._command, env=environment, start_new_session=True)
        finally:
            os.sched_setaffinity(0, before)

    def stop(self) -> None:
        """Asks it to save and exit."""
        self._process.terminate()

    def ended(self, out: Console, stopping: bool) -> bool:
        """Whether it has exited; restarts it first if it was killed."""
        code = self._process.poll()
        if code is None:
            return False
        if code >= 0 or stopping:
            return True
        what = f"A worker was killed by {signal.Signals(-code).name}"
        if not self._restarts:
            out.print(f"{what} again and is not restarted.")
            return True
        self._restarts -= 1
        out.print(f"{what} and is restarted.")
        self._start()
        return False


def work(out: Console, command: Sequence[str], places: Sequence[Place], stop: Stop) -> None:
    """Runs workers until all have exited; on `stop`, asks them to save and exit."""
    workers = [Worker(command, place) for place in places]
    asked = False
    while workers:
        if stop() and not asked:
            asked = True
            for worker in workers:
                worker.stop()
        workers = [worker for worker in workers if not worker.ended(out, asked)]
        time.sleep(_PERIOD)
