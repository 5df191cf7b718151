"""A command before it does anything: what it says on a terminal, and how Ctrl-C ends it there."""

import os
import pty
import signal
import subprocess
import sys
import time

import pytest
from commands import run

import mnist_jax


def _until(terminal: int, text: str) -> str:
    """Reads what a terminal shows until a text is in it, or its process has ended."""
    shown = ""
    while text not in shown:
        try:
            shown += os.read(terminal, 1024).decode()
        except OSError:  # Linux's way to say that nobody writes any more.
            break
    return shown


@pytest.mark.parametrize("module", ["mnist_jax.evaluate", "experiments.nielsen"])
@pytest.mark.parametrize("later", [0.0, 0.7])
def test_ctrl_c_while_importing_is_one_word(module: str, later: float) -> None:
    terminal, stderr = pty.openpty()
    command = [sys.executable, "-m", module]
    process = subprocess.Popen(command, stderr=stderr, stdout=subprocess.DEVNULL)
    os.close(stderr)
    assert "Starting ..." in _until(terminal, "Starting ...")
    time.sleep(later)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    assert _until(terminal, "\0") == "\r\x1b[KInterrupted.\r\n"


def test_starting_is_not_said_in_files_and_not_left_on_terminals() -> None:
    terminal, stderr = pty.openpty()
    command = [sys.executable, "-m", "mnist_jax.convert"]
    process = subprocess.Popen(command, stderr=stderr)
    os.close(stderr)
    shown = _until(terminal, "\0")
    assert process.wait() == 2
    assert shown.startswith("Starting ...\r\x1b[K")
    piped = subprocess.run(command, capture_output=True, text=True, check=False)
    assert piped.stderr == shown.partition("\x1b[K")[2].replace("\r", "")
    assert piped.stdout == ""


@pytest.mark.parametrize("flag", ["--help", "-h", "-help"])
@pytest.mark.parametrize(
    ("module", "flags"),
    [
        ("mnist_jax.train", ["--model", "--learning_rate", "--workdir"]),
        ("mnist_jax.evaluate", ["--step"]),
        ("mnist_jax.predict", ["--show"]),
        ("mnist_jax.report", ["--images"]),
        ("mnist_jax.convert", ["--from"]),
        ("experiments.nielsen", ["--experiment", "--num_seeds"]),
        ("experiments.compare", ["--report"]),
    ],
)
def test_help_shows_the_command_s_flags(
    tmp_path_factory: pytest.TempPathFactory, module: str, flags: list[str], flag: str
) -> None:
    done = run(tmp_path_factory.getbasetemp(), module, flag)
    assert done.returncode == 0, done.stderr
    for name in flags:
        assert f"\n  {name}:" in done.stdout or f"\n  --[no]{name[2:]}:" in done.stdout
    assert "alsologtostderr" not in done.stdout


def test_version_and_the_list_of_commands() -> None:
    for module in ("mnist_jax", "mnist_jax.convert"):
        command = [sys.executable, "-m", module, "--version"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout == f"mnist_jax {mnist_jax.__version__}\n"
    command = [sys.executable, "-m", "mnist_jax"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for door in ("train", "evaluate", "predict", "report", "convert"):
        assert f"python -m mnist_jax.{door} " in listed
    assert "__main__" not in listed
