"""The training command's time to its first step, as seen at a terminal."""

import os
import pty
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mnist_jax.errors import Failure

# The progress bar shows a loss from the first step on; before that, `nan`.
_FIRST_LOSS = re.compile(rb"loss \d")


def seconds_to_first_step(model: str, dataset: str, cache: Path) -> float:
    """Starts the training command in its own pseudo-terminal and stops it after its first step.

    `cache` is the folder for datasets and compiled programs; an empty one means a cold start.

    Raises:
      Failure: the command ended before its first step.
    """
    with tempfile.TemporaryDirectory() as workdir:
        arguments = [f"--model={model}", f"--dataset={dataset}", f"--workdir={workdir}/run"]
        controller, terminal = pty.openpty()
        environment = {"XDG_CACHE_HOME": str(cache), "TERM": "xterm", "COLUMNS": "120"}
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "mnist_jax.train", *arguments],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            env=os.environ | environment,
        )
        os.close(terminal)
        shown = b""
        try:
            while not _FIRST_LOSS.search(shown):
                shown += os.read(controller, 4096)
            return time.perf_counter() - started
        except OSError as error:  # The other end of the terminal is closed.
            last = shown.decode(errors="replace").strip()
            raise Failure(f"The training command ended before its first step: {last}") from error
        finally:
            process.kill()
            process.wait()
            os.close(controller)
