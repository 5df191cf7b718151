"""Commands whose output can't be written, and terminals that close while a command runs."""

import contextlib
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import Command, environment, run
from PIL import Image
from runs_compared import assert_same_run

from mnist_jax.cli import signals, streams
from mnist_jax.data import Dataset

ROOT = Path(__file__).parents[1]

PROGRAM = """
import os, sys
from absl import logging
from rich.console import Console
from rich.progress import Progress
from mnist_jax import cli
from mnist_jax.cli import streams
from mnist_jax.errors import Failure
def main(argv):
    out = Console(force_terminal=True)
    with Progress(console=out, transient=True) as bar:
        bar.add_task("", total=1)
        out.print("a line")
    sys.stdout.write("another × " * 9999)
    logging.warning("a warning")
    if "needs_output" in argv:
        streams.delivered()
    if "fails" in argv:
        raise Failure("A sentence.")
cli.run(main, operands=True)
"""

OUTPUT = "Standard output"
UNWRITABLE = ["full", "pipe", "terminal", "closed"]


@contextlib.contextmanager
def _unwritable(kind: str) -> Iterator[int]:
    """A descriptor of a full disk, of a pipe without a reader, or of a closed terminal."""
    if kind == "full":
        descriptor = os.open("/dev/full", os.O_WRONLY)
    else:
        other, descriptor = pty.openpty() if kind == "terminal" else os.pipe()
        os.close(other)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _run(number: int, kind: str, *arguments: str) -> tuple[int, str]:
    """Runs Python with a standard output (1) or error (2) that can't be written.

    Returns:
      The exit code, and the output to the other stream.
    """
    command = [sys.executable, *arguments]
    with contextlib.ExitStack() as stack:
        unwritable = subprocess.DEVNULL
        if kind == "closed":
            command = ["sh", "-c", f'"$@" {number}>&-', "sh", *command]
        else:
            unwritable = stack.enter_context(_unwritable(kind))
        pair = (unwritable, subprocess.PIPE)
        stdout, stderr = pair if number == 1 else pair[::-1]
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, stdout=stdout, stderr=stderr, text=True, env=env)
    return done.returncode, done.stderr if number == 1 else done.stdout


@pytest.mark.parametrize("kind", UNWRITABLE)
def test_unwritable_standard_output_is_dropped(kind: str) -> None:
    assert _run(1, kind, "-c", PROGRAM) == (0, "a warning\n")
    assert _run(1, kind, "-c", PROGRAM, "fails") == (1, "a warning\nA sentence.\n")


@pytest.mark.parametrize("kind", UNWRITABLE)
def test_unwritable_standard_error_is_dropped(kind: str) -> None:
    for arguments, code in (((), 0), (("fails",), 1)):
        got, output = _run(2, kind, "-c", PROGRAM, *arguments)
        assert got == code
        assert "a line" in output
        assert output.count("another × ") == 9999


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("full", "No space left on device); make room or"),
        ("terminal", "Input/output error);"),
        ("closed", "Bad file descriptor);"),
        ("pipe", None),
    ],
)
def test_unwritable_output_that_is_the_only_result_is_a_failure(kind: str, why: str | None) -> None:
    sentence = f"{OUTPUT} can't be written ({why} give another place for it.\n"
    code, error = (1, sentence) if why else (0, "")
    assert _run(1, kind, "-c", PROGRAM, "needs_output") == (code, f"a warning\n{error}")
    assert _run(1, kind, "-c", PROGRAM, "--help") == (code, error)
    assert _run(1, kind, "-m", "mnist_jax") == (code, error.replace(OUTPUT, "The list"))


@pytest.mark.parametrize("flag", ["--overwrite", "-overwrite", "--overwrite=true"])
def test_the_command_that_resumes_does_not_overwrite(
    flag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["x", "--workdir=w", flag, "--epochs=2"])
    assert signals.same_command().endswith(" --workdir=w --epochs=2")


def test_full_non_blocking_pipe_is_a_failed_write() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with streams._Descriptor(writer, "w") as stream, os.fdopen(reader, "rb"):
        for _ in range(100):  # Far more than a pipe's capacity.
            assert stream.write(b"x" * 5000) > 0
        assert isinstance(stream.failure, BlockingIOError)


def test_library_s_message_to_a_closed_stream_does_not_reach_a_file(tmp_path: Path) -> None:
    program = f"""
import os, sys
sys.orig_argv[1:] = ["-m", "mnist_jax.train"]
from mnist_jax import cli
with open({str(tmp_path / "file")!r}, "w") as file:
    try:
        os.write(2, b"a library's message")
    except OSError:
        file.write(str(file.fileno() > 2))
"""
    for closed in ("2>&-", "<&- >&- 2>&-"):
        command = ["sh", "-c", f'"$@" {closed}', "sh", sys.executable, "-c", program]
        subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)
        assert (tmp_path / "file").read_text() == "True"


TRAINING = (
    *("--model=dense", "--dataset=digits", "--epochs=12", "--num_devices=1"),
    *("--save_every=1000", "--workdir=run"),
)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("alone")
    done = run(folder, "mnist_jax.train", *TRAINING, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "run"


def _start(alone: Path, folder: Path, output: str = "", *ignored: signal.Signals) -> Command:
    env = environment(alone.parent) | {"TERM": "xterm", "COLUMNS": "100"}
    return Command(
        "mnist_jax.train", *TRAINING, env=env, cwd=folder, output=output, ignored=ignored
    )


def _close_its_terminal(alone: Path, folder: Path, *ignored: signal.Signals) -> int | None:
    """Trains on a terminal that closes in the second epoch; returns the exit code."""
    master, slave = pty.openpty()
    command = _start(alone, folder, os.ttyname(slave), *ignored)
    shown = b""
    while b"epoch 2/" not in shown:
        assert select.select([master], [], [], 60)[0], shown
        shown += os.read(master, 1024)
    os.close(slave)
    os.close(master)
    return command.end(60).returncode


def test_run_resumes_after_its_terminal_closed(alone: Path, tmp_path: Path) -> None:
    assert _close_its_terminal(alone, tmp_path) == 129
    steps = [int(path.name) for path in (tmp_path / "run/checkpoints").iterdir()]
    assert 150 < max(steps) < 1800
    done = _start(alone, tmp_path).end()
    assert done.returncode == 0, done.stderr
    assert f"Resuming at step {max(steps)}," in done.stdout
    assert_same_run(tmp_path / "run", alone)


def test_training_under_nohup_outlives_its_terminal(alone: Path, tmp_path: Path) -> None:
    assert _close_its_terminal(alone, tmp_path, signal.SIGHUP) == 0
    assert_same_run(tmp_path / "run", alone)


def test_training_continues_when_its_output_is_unwritable(alone: Path, tmp_path: Path) -> None:
    assert _start(alone, tmp_path, "/dev/full").end().returncode == 0
    assert_same_run(tmp_path / "run", alone)


@pytest.fixture
def default_sighup() -> Iterator[None]:
    """The default handler of SIGHUP, which may be ignored where the tests were started."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("default_sighup")
def test_ctrl_c_after_sighup_is_acknowledged_and_another_sighup_ignored(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = list[tuple[int, Any]]()
    real = signal.signal

    def install(number: int, handler: Any) -> Any:
        installed.append((number, handler))
        return real(number, handler)

    monkeypatch.setattr(signal, "signal", install)
    with signals.stopping() as stop:
        for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGINT):
            os.kill(os.getpid(), number)
        assert stop.received == signal.SIGHUP
    assert capfd.readouterr().err.splitlines() == [
        "SIGHUP: stopping once the current steps are saved.",
        "SIGINT: stopping once the current steps are saved; a second one stops at once.",
    ]
    # The previous handler, which would end the process, is never reinstalled, even briefly.
    of_sighup = [handler for number, handler in installed if number == signal.SIGHUP]
    assert of_sighup[-1:] == [signal.SIG_IGN]
    assert signal.SIG_DFL not in of_sighup


def test_signal_that_does_not_wake_the_main_thread_is_noticed() -> None:
    def work() -> bool:
        # The main thread is asleep by now, and a signal to another thread does not wake it.
        time.sleep(0.5)
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
        end = time.monotonic() + 10
        while not stop() and time.monotonic() < end:
            time.sleep(0.01)
        return bool(stop())

    with signals.stopping() as stop:
        assert signals.in_thread(work)


def test_repeated_sighup_stops_a_run_and_says_how_to_resume(alone: Path, tmp_path: Path) -> None:
    command = _start(alone, tmp_path)
    while not (tmp_path / "run/metrics.jsonl").exists():
        assert command.poll() is None
        time.sleep(0.01)
    while command.poll() is None:  # The terminal, its shell, and the shell's exit each send one.
        command.send_signal(signal.SIGHUP)
        time.sleep(0.001)
    done = command.end()
    assert done.returncode == 129, done.stderr
    first, last = done.stderr.splitlines()
    assert first == "SIGHUP: stopping once the current steps are saved."
    continued = r"Stopped by SIGHUP after step \d+ of 1800, which is saved; resume with python .*"
    assert re.fullmatch(continued, last)


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("mnist_jax.train", ["--list"]),
        ("experiments.nielsen", ["--list"]),
        ("mnist_jax.evaluate", ["--workdir=run"]),
        ("mnist_jax.predict", ["--workdir=run", "digit.png"]),
    ],
)
def test_result_that_cannot_be_printed_is_a_failure(
    module: str, arguments: list[str], alone: Path, digits: Dataset
) -> None:
    Image.fromarray(digits.test.images[0]).save(alone.parent / "digit.png")
    env = environment(alone.parent)
    assert Command(module, *arguments, env=env, cwd=alone.parent).end().returncode == 0
    full = Command(module, *arguments, env=env, cwd=alone.parent, output="/dev/full")
    assert full.end().returncode == 1
