"""The output of commands on a terminal and in a file, from start-up to Ctrl-C."""

import dataclasses
import io
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

import pytest
from commands import run
from rich.console import Console

import mnist_jax
from mnist_jax.cli import display
from mnist_jax.data import Dataset
from mnist_jax.recipe import Recipe
from mnist_jax.runs.directory import RunDirectory
from mnist_jax.runs.metrics import Evaluation
from mnist_jax.training.session import Evaluated, Progress, Resumed
from mnist_jax.training.trainer import Trainer

ROOT = Path(__file__).parents[1]


class _Terminal:
    """A command in a pseudo-terminal, and the output there."""

    def __init__(self, module: str, *arguments: str, cwd: Path | None = None):
        self._master, slave = pty.openpty()
        command = [sys.executable, "-m", module, *arguments]
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(command, stdout=slave, stderr=slave, cwd=cwd, env=env)
        os.close(slave)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)

    def until(self, text: str) -> str:
        """Reads the output up to a text."""
        shown = self._read(text)
        assert text in shown
        return shown

    def rest(self) -> str:
        """Reads the output until the command ends."""
        return self._read("\0")

    def _read(self, text: str) -> str:
        shown = b""
        while text.encode() not in shown:
            try:
                shown += os.read(self._master, 1024)
            except OSError:  # On Linux, the end of the output.
                break
        return shown.decode(errors="replace")  # It may end within a character.


@pytest.mark.parametrize("module", ["mnist_jax.evaluate", "experiments.nielsen"])
@pytest.mark.parametrize("delay", [0.0, 0.2])
def test_ctrl_c_during_imports_prints_one_word(module: str, delay: float) -> None:
    with _Terminal(module) as terminal:
        terminal.until("Starting ...")
        time.sleep(delay)
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.rest() == "\r\x1b[KInterrupted.\r\n"
        assert terminal.process.wait() == 130


def test_ctrl_c_where_python_cannot_propagate_exceptions_ends_the_command() -> None:
    program = """
import gc, signal, sys
sys.orig_argv[1:] = ["-m", "mnist_jax.train"]
from mnist_jax import cli
def main(_):
    gc.callbacks.append(lambda *_: signal.raise_signal(signal.SIGINT))
    gc.collect()
    print("It went on.")
cli.run(main)
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "Interrupted.\n")


def test_the_start_up_message_is_erased_on_terminals_and_absent_in_files() -> None:
    with _Terminal("mnist_jax.convert") as terminal:
        start, _, after = terminal.rest().partition("\r\x1b[K")
        assert terminal.process.wait() == 2
    assert start == "Starting ..."
    command = [sys.executable, "-m", "mnist_jax.convert"]
    piped = subprocess.run(command, capture_output=True, text=True, check=False)
    assert piped.stderr == after.replace("\r", "")
    assert piped.stdout == ""


def test_ctrl_c_during_training_is_acknowledged_at_once(tmp_path: Path) -> None:
    arguments = ("--model=dense", "--dataset=digits", "--epochs=100000", "--workdir=run")
    with _Terminal("mnist_jax.train", *arguments, cwd=tmp_path) as terminal:
        assert "\x1b[?25l" in terminal.until("compiling")  # The bar hides the cursor ...
        terminal.process.send_signal(signal.SIGINT)
        shown = terminal.until("a second one stops at once.")
        assert "Stopped by" not in shown
        assert "nan" not in shown
        # ... and a second signal leaves no time to show it again.
        assert "\x1b[?25h" in shown.rpartition("SIGINT: stopping")[0]
        assert "Stopped by SIGINT after step" in terminal.rest()
        assert terminal.process.wait() == 130


def test_ctrl_c_that_also_ends_the_reader_of_the_output_loses_no_steps(tmp_path: Path) -> None:
    arguments = ["--model=dense", "--dataset=digits", "--epochs=100000", "--workdir=run"]
    command = [sys.executable, "-m", "mnist_jax.train", *arguments, "--save_every=1000"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=tmp_path, env=env
    )
    assert process.stdout
    with process:
        while not process.stdout.readline().startswith(b"epoch 2/"):
            assert process.poll() is None
        process.stdout.close()
        process.send_signal(signal.SIGINT)
    assert process.returncode == 130
    steps = [int(path.name) for path in (tmp_path / "run/checkpoints").iterdir()]
    assert max(steps) >= 300


ROWS = [
    # Step, loss, accuracy, images per second.
    (2, 2.0, 0.1, 50.0),
    (4, 1.0, 0.4, 100.0),
    (5, 0.5, 0.7, 200.0),
]


def _rows(loss: float = 0.0) -> list[Evaluation]:
    return [
        Evaluation(
            epoch=1 + step / 5,
            step=5 + step,
            train_loss=train_loss + loss,
            train_accuracy=accuracy,
            validation_accuracy=0.25,
            test_loss=1.0,
            test_accuracy=0.5,
            images_per_second=speed,
            seconds=1.0,
        )
        for step, train_loss, accuracy, speed in ROWS
    ]


@pytest.mark.parametrize("seeds", [1, 2])
def test_the_line_of_an_epoch_averages_over_its_evaluations(
    seeds: int, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mnist_jax.cli.display._SILENCE", 0.0)
    # 1,500 images: four batches of 320 and one of 220.
    recipe = Recipe(
        model="dense", dataset="digits", batch_size=320, epochs=30, learning_rate=0.1, eval_every=2
    )
    trainer = Trainer(recipe, digits, seeds=range(seeds), num_devices=1)
    runs = [RunDirectory(tmp_path / str(seed)) for seed in range(seeds)]
    rows = [_rows(loss=seed) for seed in range(seeds)]
    for directory, of_seed in zip(runs, rows, strict=True):
        directory.path.mkdir()
        directory.append_metrics(dataclasses.replace(of_seed[0], step=5, train_loss=99.0))
        directory.append_metrics(of_seed[0])
    file = io.StringIO()
    with display.training(Console(file=file, width=120), trainer, runs) as listener:
        listener(Resumed(7))  # Between two evaluations of the second epoch.
        listener(Progress(8, 1.25, 1000.0))
        listener(Evaluated([of_seed[1] for of_seed in rows]))
        listener(Evaluated([of_seed[2] for of_seed in rows]))
    lines = file.getvalue().splitlines()
    assert lines[:3] == [
        "compiling",
        "Resuming at step 7, after 1.40 of 30 epochs.",
        "step 8/150  loss 1.2500  1,000 images/s",
    ]
    # (640 · 2 + 640 · 1 + 220 · 0.5) / 1500 and so on; the time is 640/50 + 640/100 + 220/200.
    expected = "loss 1.3533  train 31.60%  val 25.00%  test 50.00%"
    if seeds == 1:
        assert "step 9/150  loss 1.0000  train 40.00%  val 25.00%  test 50.00%" in lines[3]
        assert lines[4:] == [f"epoch 2/30  {expected}  74 img/s"]
    else:
        assert lines[5] == f"seed 0  epoch 2/30  {expected}"
        assert lines[6] == "seed 1  " + lines[5][8:].replace("loss 1", "loss 2")
    assert max(map(len, lines)) <= 80


def test_markup_in_a_path_is_printed_literally(capsys: pytest.CaptureFixture[str]) -> None:
    display.console().print("a[b]c[/b]:smile:")
    assert capsys.readouterr().out == "a[b]c[/b]:smile:\n"


@pytest.mark.parametrize(
    ("module", "flag", "own"),
    [
        ("mnist_jax.train", "--help", ["--model", "--learning_rate", "--workdir"]),
        ("mnist_jax.evaluate", "-h", ["--step"]),
        ("mnist_jax.predict", "-help", ["--show"]),
        ("mnist_jax.report", "--help", ["--images"]),
        ("mnist_jax.convert", "-h", ["--from"]),
        ("experiments.nielsen", "--helpshort", ["--experiment", "--num_seeds"]),
        ("experiments.compare", "--helpfull", ["--[no]report"]),
    ],
)
def test_help_shows_the_command_s_flags(
    tmp_path_factory: pytest.TempPathFactory, module: str, flag: str, own: list[str]
) -> None:
    done = run(tmp_path_factory.getbasetemp(), module, flag)
    assert done.returncode == 0, done.stderr
    for name in own:
        assert f"\n  {name}:" in done.stdout
    assert "alsologtostderr" not in done.stdout


def test_version_and_the_list_of_commands(tmp_path: Path) -> None:
    version = f"mnist_jax {mnist_jax.__version__}\n"
    command = [sys.executable, "-m", "mnist_jax"]
    # The last one executes the command of that name.
    for arguments in (["--version"], ["convert", "--version"]):
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=True)
        assert done.stdout == version
    assert run(tmp_path, "mnist_jax.convert", "--version").stdout == version
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for name in ("train", "evaluate", "predict", "report", "convert", "export"):
        assert f"python -m mnist_jax.{name} " in listed
    assert "__main__" not in listed
    assert all(line.endswith(".") for line in listed.splitlines() if line.startswith("  python"))
    with Path("/dev/full").open("w") as full:
        assert subprocess.run([*command, "trian"], stderr=full).returncode == 2
    mistaken = subprocess.run([*command, "trian"], capture_output=True, text=True, check=False)
    assert (mistaken.returncode, mistaken.stdout) == (2, "")
    assert mistaken.stderr == f"There is no command 'trian'.\n{listed}"
    refused = run(tmp_path, "mnist_jax.train", "extra")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == "'extra' is not a flag; flags begin with --.\n"
