"""Command lines as processes of their own that need not import JAX first.

They are forked from a process that has, as `python -m` would start them but for that: with their
own arguments, environment, folder and output, and with an exit code.
"""

import contextlib
import multiprocessing
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

from mnist_jax.files import cache_folder

# Programs that the suite compiled before, in this process and in command lines.
COMPILED = cache_folder() / "tests"

# Whether a test may mount a small file system.
MOUNTS = (
    subprocess.run(
        ["unshare", "-rm", "sh", "-c", "mount -t tmpfs none /mnt"], capture_output=True, check=False
    ).returncode
    == 0
    if shutil.which("unshare")
    else False
)

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    ["jax", "flax.nnx", "optax", "orbax.checkpoint", "rich.console", "sklearn.datasets"]
)


def environment(home: Path) -> dict[str, str]:
    """The environment of somebody without datasets, who has compiled what the suite has."""
    compiled = home / ".cache" / "mnist_jax" / "compiled"
    if not compiled.is_symlink():
        compiled.parent.mkdir(parents=True, exist_ok=True)
        COMPILED.mkdir(parents=True, exist_ok=True)
        compiled.symlink_to(COMPILED)
    env = {name: value for name, value in os.environ.items() if not name.endswith("_DATA_DIR")}
    env["MPLCONFIGDIR"] = matplotlib.get_cachedir()  # Looking for fonts takes seconds.
    return env | {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache")}


class Command:
    """A command line that has been started, with the part of `Popen` that tests need.

    It writes into files, or all of it to `output`: a device, and if that is a terminal, it is the
    command's own.
    """

    def __init__(
        self,
        module: str,
        *arguments: str,
        env: Mapping[str, str],
        cwd: Path | None = None,
        output: str = "",
        ignored: Sequence[signal.Signals] = (),
    ):
        self._folder = Path(tempfile.mkdtemp())
        self._process = _FORKS.Process(
            target=_run,
            args=(self._folder, module, arguments, dict(env), cwd or Path.cwd(), output, ignored),
            daemon=True,  # Does not outlive the tests.
        )
        self._process.start()

    @property
    def pid(self) -> int:
        """Its number."""
        assert self._process.pid
        return self._process.pid

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        """Nothing happens if it has ended."""
        if self.poll() is None and self._process.pid:
            # It is the fork server's child, and may be gone before that says so.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    def wait(self, seconds: float) -> int | None:
        """Waits for it to end, so many seconds at most."""
        self._process.join(seconds)
        return self.poll()

    def end(self, seconds: float = 600) -> subprocess.CompletedProcess[str]:
        """Waits for it to end."""
        code = self.wait(seconds)
        assert code is not None, f"no end after {seconds} s"
        output, errors = (
            path.read_text() if (path := self._folder / name).exists() else ""
            for name in ("stdout", "stderr")
        )
        shutil.rmtree(self._folder)
        return subprocess.CompletedProcess([], code, output, errors)


def run(
    home: Path, module: str, *arguments: str | Path, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs a command line to its end."""
    return Command(module, *map(str, arguments), env=environment(home), cwd=cwd).end()


def _run(
    folder: Path,
    module: str,
    arguments: tuple[str, ...],
    env: dict[str, str],
    cwd: Path,
    output: str,
    ignored: Sequence[signal.Signals],
) -> None:
    os.setsid()  # A session without a terminal takes the first that it opens to read.
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(output or folder / name, os.O_RDWR | os.O_CREAT), number)
    # Whatever started the tests ignores.
    signal.signal(signal.SIGHUP, signal.SIG_IGN if signal.SIGHUP in ignored else signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
