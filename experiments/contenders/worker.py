"""One variant of the benchmark in a process of its own.

`python -m experiments.contenders.worker JOB` compiles and then waits. Every line on its standard
input is a number of steps to run, answered by a line of JSON with the number of images, the seconds
taken and the peak memory. The benchmark can thus take turns among its contenders while only one of
them is busy.
"""

import contextlib
import json
import os
import re
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.contenders.job import FLAX, TORCH, Job, Work, whole_batches
from mnist_jax.data import load_dataset
from mnist_jax.errors import Failure

# A round ends once this fraction of its time has passed.
_LEAST = 0.8


class Reading(NamedTuple):
    """One round of one contender.

    Attributes:
      rate: images per second.
      memory: peak memory so far, in MiB, summed over its processes.
    """

    rate: float
    memory: float


class _Turn(NamedTuple):
    """One worker's turn: images, seconds taken, and peak memory in MiB."""

    images: float
    seconds: float
    memory: float


class Contender:
    """The worker processes of one variant, which run the same number of steps in parallel."""

    def __init__(self, job: Job, processes: int = 1):
        command = [sys.executable, "-m", "experiments.contenders.worker"]
        self._name = f"{job.variant} on {job.recipe.model}"
        self._steps_per_second = 1.0
        self._workers = [
            subprocess.Popen(
                [*command, replace(job, place=place).to_json()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for place in range(processes)
        ]

    def measure(self, seconds: float) -> Reading:
        """Works for about this many seconds. The first call calibrates and should not be counted.

        Raises:
          Failure: a worker has ended.
        """
        images, elapsed = np.zeros((2, len(self._workers)))
        while elapsed.max() < _LEAST * seconds:
            steps = max(1, round(self._steps_per_second * (seconds - elapsed.max())))
            turns = self._turns(steps)
            images += [turn.images for turn in turns]
            elapsed += [turn.seconds for turn in turns]
            self._steps_per_second = steps / max(turn.seconds for turn in turns)
        return Reading(float((images / elapsed).sum()), sum(turn.memory for turn in turns))

    def close(self) -> None:
        """Ends all workers before waiting for any: connected ones end together."""
        for worker in self._workers:
            assert worker.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # It has already ended.
                worker.stdin.close()
        for worker in self._workers:
            with worker:  # Closes the pipes and waits.
                pass

    def _turns(self, steps: int) -> list[_Turn]:
        for worker in self._workers:
            assert worker.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # It has ended, and will not answer.
                worker.stdin.write(f"{steps}\n")
                worker.stdin.flush()
        return [self._answer(worker) for worker in self._workers]

    def _answer(self, worker: subprocess.Popen[str]) -> _Turn:
        assert worker.stdout is not None
        if line := worker.stdout.readline():
            return _Turn(**json.loads(line))
        raise Failure(f"The worker of {self._name} ended; its own message is above.")


def _build(job: Job) -> Work:
    dataset = whole_batches(load_dataset(job.recipe.dataset), job.recipe.batch_size)
    # Each side imports its own framework, which counts in its peak memory, as do JAX's modules.
    if job.variant in TORCH:
        from experiments.contenders import pytorch

        return pytorch.build(job, dataset)
    if job.variant in FLAX:
        from experiments.contenders import stock_flax

        return stock_flax.build(job, dataset)
    from experiments.contenders import ours

    return ours.build(job, dataset)


def main() -> None:
    """Runs the steps requested on standard input until it closes."""
    # Output printed by a library must not be mistaken for an answer.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    work = _build(Job.from_json(sys.argv[1]))
    work(1)  # Compiles.
    for line in sys.stdin:
        started = time.perf_counter()
        images = work(int(line))
        seconds = time.perf_counter() - started
        answers.write(json.dumps(_Turn(images, seconds, _peak_memory())._asdict()) + "\n")


def _peak_memory() -> float:
    """The peak resident memory of this process in MiB."""
    status = Path("/proc/self/status")
    if not status.exists():  # macOS, where it is in bytes.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    # On Linux, that of getrusage would include the parent's from before the fork.
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())
    return int(peak) / 1024


if __name__ == "__main__":
    try:
        main()
    except Failure as error:
        sys.exit(str(error))
