"""One variant of the benchmark in a process of its own.

`python -m experiments.contenders.worker JOB` compiles and then waits. Every line on its standard
input is a number of seconds to work for, answered by a line of JSON: what it did per second, and
its peak memory. So the benchmark can go round its contenders while only one of them is busy.
"""

import json
import os
import resource
import subprocess
import sys
import time
from typing import NamedTuple

from experiments.contenders.job import FLAX, TORCH, Job, Work, whole_batches
from mnist_jax.data import load_dataset
from mnist_jax.errors import Failure

# The part of a round's time that has to be over before it ends.
_LEAST = 0.8


class Reading(NamedTuple):
    """One round of one contender.

    Attributes:
      rate: images per second.
      memory: the most memory in use so far, in MiB, of all its processes together.
    """

    rate: float
    memory: float


class Contender:
    """The running workers of one variant, told to work at the same time."""

    def __init__(self, job: Job, processes: int = 1):
        command = [sys.executable, "-m", "experiments.contenders.worker", job.to_json()]
        self._name = f"{job.variant} on {job.recipe.model}"
        self._workers = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in range(processes)
        ]

    def measure(self, seconds: float) -> Reading:
        """Works for about so many seconds. The first call calibrates: not to be counted.

        Raises:
          Failure: a worker has ended.
        """
        for worker in self._workers:
            assert worker.stdin is not None
            worker.stdin.write(f"{seconds}\n")
            worker.stdin.flush()
        answers = [self._answer(worker) for worker in self._workers]
        return Reading(*map(sum, zip(*answers, strict=True)))

    def close(self) -> None:
        """Ends the workers and waits for their end."""
        for worker in self._workers:
            worker.communicate()

    def _answer(self, worker: subprocess.Popen[str]) -> Reading:
        assert worker.stdout is not None
        if line := worker.stdout.readline():
            return Reading(**json.loads(line))
        raise Failure(f"The worker of {self._name} ended; its own message is above.")


def _build(job: Job) -> Work:
    dataset = whole_batches(load_dataset(job.recipe.dataset), job.recipe.batch_size)
    # Each side loads its own framework only, which is part of its peak memory.
    if job.variant in TORCH:
        from experiments.contenders import pytorch

        return pytorch.build(job, dataset)
    if job.variant in FLAX:
        from experiments.contenders import stock_flax

        return stock_flax.build(job, dataset)
    from experiments.contenders import ours

    return ours.build(job, dataset)


def _work_for(seconds: float, work: Work, speed: float) -> tuple[float, float]:
    """Works for about so many seconds, given the steps per second so far; returns both rates."""
    images = elapsed = 0.0
    while elapsed < _LEAST * seconds:
        steps = max(1, round(speed * (seconds - elapsed)))
        started = time.perf_counter()
        images += work(steps)
        took = time.perf_counter() - started
        elapsed += took
        speed = steps / took
    return images / elapsed, speed


def main() -> None:
    """Serves the rounds asked for on standard input until it closes."""
    # Whatever a library prints shall not be taken for an answer.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    work = _build(Job.from_json(sys.argv[1]))
    work(1)  # Compiles.
    speed = 1.0
    for line in sys.stdin:
        rate, speed = _work_for(float(line), work, speed)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        answers.write(json.dumps(Reading(rate, memory)._asdict()) + "\n")


if __name__ == "__main__":
    try:
        main()
    except Failure as error:
        sys.exit(str(error))
