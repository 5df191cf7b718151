"""Commands as child processes that need not import JAX first.

They are forked from a server process that has imported it. Otherwise they run as `python -m` would
run them: with their own arguments, environment, working directory, output and exit code.
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

# The suite's compilation cache, shared by the tests and the commands that they run.
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
    """The environment of a user without datasets, who shares the suite's compilation cache."""
    compiled = home / ".cache" / "mnist_jax" / "compiled"
    if not compiled.is_symlink():
        compiled.parent.mkdir(parents=True, exist_ok=True)
        COMPILED.mkdir(parents=True, exist_ok=True)
        compiled.symlink_to(COMPILED)
    env = {name: value for name, value in os.environ.items() if not name.endswith("_DATA_DIR")}
    env["MPLCONFIGDIR"] = matplotlib.get_cachedir()  # Looking for fonts takes seconds.
    return env | {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache")}


class Command:
    """A running command, with the part of `Popen`'s interface that tests need.

    Its output goes to files, or all of it to `output`, a device. If that is a terminal, it becomes
    the command's controlling terminal.
    """

    def __init__(
        self,
        module: str,
        *arguments: str,
        env: Mapping[str, str],
        cwd: Path | None = None,
        output: str = "",
        ignored: Sequence[signal.Signals] = (),
        stdin: bytes | None = None,
    ):
        self._folder = Path(tempfile.mkdtemp())
        what = (self._folder, module, arguments, dict(env), cwd or Path.cwd())
        self._process = _FORKS.Process(
            target=_run,
            args=(*what, output, ignored, stdin),
            daemon=True,  # Does not outlive the tests.
        )
        self._process.start()

    @property
    def pid(self) -> int:
        """The process ID."""
        assert self._process.pid
        return self._process.pid

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        """Sends a signal; does nothing if the process has ended."""
        if self.poll() is None and self._process.pid:
            # It is the fork server's child, which may report its end only later.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    def wait(self, seconds: float) -> int | None:
        """Waits at most this long for it to end; returns the exit code, or None."""
        self._process.join(seconds)
        return self.poll()

    def end(self, seconds: float = 600) -> subprocess.CompletedProcess[str]:
        """Waits for it to end; returns its exit code and output."""
        code = self.wait(seconds)
        assert code is not None, f"still running after {seconds} s"
        output, errors = (
            path.read_text() if (path := self._folder / name).exists() else ""
            for name in ("stdout", "stderr")
        )
        shutil.rmtree(self._folder)
        return subprocess.CompletedProcess([], code, output, errors)


def run(
    home: Path,
    module: str,
    *arguments: str | Path,
    cwd: Path | None = None,
    stdin: bytes | None = None,
) -> subprocess.CompletedProcess[str]:
    """Runs a command and waits for it to end; `stdin` is piped to it, and must fit into a pipe."""
    env = environment(home)
    return Command(module, *map(str, arguments), env=env, cwd=cwd, stdin=stdin).end()


def _run(
    folder: Path,
    module: str,
    arguments: tuple[str, ...],
    env: dict[str, str],
    cwd: Path,
    output: str,
    ignored: Sequence[signal.Signals],
    stdin: bytes | None,
) -> None:
    os.setsid()  # The first terminal that a session leader opens becomes its controlling one.
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(output or folder / name, os.O_RDWR | os.O_CREAT), number)
    if stdin is not None:
        reader, writer = os.pipe()
        os.write(writer, stdin)
        os.close(writer)
        os.dup2(reader, 0)
    # Whether or not the process that started the tests ignores it.
    signal.signal(signal.SIGHUP, signal.SIG_IGN if signal.SIGHUP in ignored else signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
