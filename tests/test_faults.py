"""Training processes that are killed, stopped or denied disk space: no run is lost or wrong.

`make faults` runs the long version: every network family, many more faults. Disturbed runs are
compared with an uninterrupted one, bit for bit.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import commands
import pytest
from runs_compared import assert_same_run

from mnist_jax.runs.checkpoints import Checkpoints
from mnist_jax.training import devices

LONG = os.environ.get("MNIST_JAX_FAULTS") == "long"

# One or two of every family; a small eval_every makes saves follow one another closely.
NETWORKS = {
    "double_fc_dropout": ("--epochs=1", "--eval_every=25", "--num_devices=1"),
    "batchnorm_cnn": ("--epochs=4", "--eval_every=5"),
    "dbl_conv_relu": ("--epochs=5", "--eval_every=40"),
    "dense": ("--epochs=10", "--num_seeds=2"),
    "cmu_cnn": ("--epochs=8", "--optimizer=adam", "--momentum=0"),
    "lenet": ("--epochs=15", "--eval_every=3"),
    "dropout_cnn": ("--epochs=3", "--eval_every=10"),
    "simple_cnn": ("--epochs=8",),
}
CHOSEN = list(NETWORKS) if LONG else ["dense"]
# Quick tests in test_checkpoint.py and test_resume.py do the same within one process.
SLOW = pytest.mark.slow
# For tests in which the network makes no difference.
FEW = pytest.mark.parametrize("reference", ["dense"], indirect=True)
KILLS = 7 if LONG else 3


@dataclass(frozen=True)
class Command:
    """A command line that trains on scikit-learn's digits."""

    model: str
    arguments: tuple[str, ...]
    home: Path

    def flags(self, workdir: Path) -> list[str]:
        return [
            *(f"--model={self.model}", "--dataset=digits", f"--workdir={workdir}"),
            *("--save_every=0", *self.arguments),
        ]

    def start(self, workdir: Path) -> commands.Command:
        env = commands.environment(self.home)
        return commands.Command("mnist_jax.train", *self.flags(workdir), env=env)

    def finish(self, workdir: Path) -> float:
        """Trains to the end; returns the seconds that this took."""
        started = time.monotonic()
        done = self.start(workdir).end()
        assert done.returncode == 0, done.stderr
        return time.monotonic() - started

    def under(self, script: str, workdir: Path) -> "subprocess.CompletedProcess[str]":
        """Runs a shell script whose arguments are the command line."""
        line = [sys.executable, "-m", "mnist_jax.train", *self.flags(workdir)]
        return subprocess.run(
            ["sh", "-c", script, "sh", *line],
            env=commands.environment(self.home),
            capture_output=True,
            text=True,
            timeout=600,
        )

    def assert_same(self, workdir: Path, reference: Path) -> None:
        runs = sorted(path.parent for path in reference.rglob("config.json"))
        assert len(runs) == (2 if "--num_seeds=2" in self.arguments else 1)
        for run in runs:
            assert_same_run(workdir / run.relative_to(reference), run)


@dataclass(frozen=True)
class Reference:
    """An uninterrupted run, and its duration once everything is compiled."""

    command: Command
    path: Path
    seconds: float


@pytest.fixture(scope="module", params=CHOSEN)
def reference(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Reference:
    folder = tmp_path_factory.mktemp(request.param)
    command = Command(request.param, NETWORKS[request.param], folder)
    command.finish(folder / "compiled")
    seconds = command.finish(folder / "reference")
    command.assert_same(folder / "compiled", folder / "reference")
    return Reference(command, folder / "reference", seconds)


def _unfinished_saves(workdir: Path) -> int:
    """The number of checkpoints whose save was interrupted."""
    folders = [path for path in workdir.rglob("checkpoints/*") if path.is_dir()]
    return sum(not (path / "SHA256SUMS").exists() for path in folders)


@SLOW
def test_killed_run_resumes_to_the_same_result(
    reference: Reference, tmp_path: Path, tally: Counter[str]
) -> None:
    generator = random.Random(reference.command.model)
    command, workdir = reference.command, tmp_path / "run"
    kills = 0
    while kills < KILLS:
        process = command.start(workdir)
        # In about the first third, nothing has been saved yet.
        if process.wait(generator.uniform(0.3, 1.0) * reference.seconds) is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
            tally["processes killed"] += 1
        done = process.end()
        tally["of them during a save"] += bool(_unfinished_saves(workdir))
        if done.returncode == 0:
            command.assert_same(workdir, reference.path)
            tally["runs compared after kills"] += 1
            shutil.rmtree(workdir)
        else:
            assert done.returncode == -signal.SIGKILL
    command.finish(workdir)
    command.assert_same(workdir, reference.path)
    tally["runs compared after kills"] += 1


def test_stopped_run_resumes_to_the_same_result(
    reference: Reference, tmp_path: Path, tally: Counter[str]
) -> None:
    command, workdir = reference.command, tmp_path / "run"
    generator = random.Random(reference.command.model)
    for number in (signal.SIGTERM, signal.SIGINT):
        process = command.start(workdir)
        _wait_for_training(process, workdir)
        time.sleep(generator.uniform(0, 0.3) * reference.seconds)
        process.send_signal(number)
        done = process.end(120)
        if done.returncode == 0:
            command.assert_same(workdir, reference.path)
            shutil.rmtree(workdir)
            continue
        tally[f"processes stopped by {number.name}"] += 1
        assert done.returncode == 128 + number
        assert f"Stopped by {number.name} after step" in done.stderr
        assert f"--workdir={workdir}" in done.stderr
        assert not _unfinished_saves(workdir)
    command.finish(workdir)
    command.assert_same(workdir, reference.path)
    tally["runs compared after signals"] += 1


@SLOW
@FEW
def test_run_resumes_after_a_second_signal(
    reference: Reference, tmp_path: Path, tally: Counter[str]
) -> None:
    command, workdir = reference.command, tmp_path / "run"
    process = command.start(workdir)
    _wait_for_training(process, workdir)
    while process.poll() is None:
        process.send_signal(signal.SIGTERM)
        time.sleep(0.001)
    code = process.end().returncode
    assert code in (-signal.SIGTERM, 128 + signal.SIGTERM)
    tally["processes stopped by a second signal"] += code < 0
    command.finish(workdir)
    command.assert_same(workdir, reference.path)
    tally["runs compared after signals"] += 1


@SLOW
@FEW
def test_second_process_in_a_directory_is_refused(reference: Reference, tmp_path: Path) -> None:
    command, workdir = reference.command, tmp_path / "run"
    first = command.start(workdir)
    _wait_for_training(first, workdir)
    first.send_signal(signal.SIGSTOP)  # So that it can't end before the second one begins.
    second = command.start(workdir).end(120)
    first.send_signal(signal.SIGCONT)
    first.send_signal(signal.SIGKILL)
    first.end()
    assert second.returncode == 1
    assert "Another process is training in" in second.stderr
    command.finish(workdir)
    command.assert_same(workdir, reference.path)


@SLOW
@pytest.mark.skipif(devices.cores() < 2, reason="needs two cores")
@pytest.mark.parametrize("model", ["cmu_cnn", "dbl_conv_relu"])
def test_run_resumes_on_fewer_cores_to_the_same_result(model: str, tmp_path: Path) -> None:
    """One network splits its matrix products over threads, the other its batches."""
    short = Command(model, ("--epochs=1",), tmp_path)
    whole = Command(model, ("--epochs=2",), tmp_path)
    whole.finish(tmp_path / "reference")
    short.finish(tmp_path / "run")
    done = whole.under('exec taskset -c 0 "$@"', tmp_path / "run")
    assert (done.returncode, done.stderr) == (0, "")
    whole.assert_same(tmp_path / "run", tmp_path / "reference")


@SLOW
@FEW
def test_run_resumes_after_a_file_exceeded_the_size_limit(
    reference: Reference, tmp_path: Path, tally: Counter[str]
) -> None:
    """No file may grow beyond half the size of a checkpoint's largest one."""
    command, workdir = reference.command, tmp_path / "run"
    files = [path for path in reference.path.rglob("checkpoints/*/**/*") if path.is_file()]
    blocks = max(path.stat().st_size for path in files) // 2 // 1024
    failed = command.under(f'ulimit -f {blocks}; exec "$@"', workdir)
    assert failed.returncode == 1
    assert "can't be written to" in failed.stderr
    assert "File too large" in failed.stderr
    tally["disks full"] += 1
    command.finish(workdir)
    command.assert_same(workdir, reference.path)
    tally["runs compared after full disks"] += 1


@SLOW
@FEW
@pytest.mark.skipif(not commands.MOUNTS, reason="needs to mount a small file system")
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 1.2, 1.5, 1.8, 2.1, 2.4] if LONG else [0.7])
def test_run_resumes_after_a_full_disk(
    reference: Reference, share: float, tmp_path: Path, tally: Counter[str]
) -> None:
    """The disk first has room for `share` of one seed's files, and then for everything."""
    command, mount = reference.command, tmp_path / "mount"
    mount.mkdir()
    one = sum(p.stat().st_size for p in reference.path.rglob("*") if p.is_file()) / 2
    script = f"""
        mount -t tmpfs -o size={int(share * one / 4096) * 4096} none {mount} &&
        {{ "$@"; first=$?; mount -o remount,size=100m {mount}; "$@"; second=$?
        cp -r {mount}/run {tmp_path}; echo $first $second; }}
    """
    done = command.under(f"exec unshare -rm sh -c '{script}' sh \"$@\"", mount / "run")
    first, second = done.stdout.split()[-2:]
    assert second == "0", done.stderr
    assert first == "1" or (first == "0" and share > 1)
    if first != "0":
        assert "can't be written" in done.stderr
        assert "No space left" in done.stderr
        tally["disks full"] += 1
    command.assert_same(tmp_path / "run", reference.path)
    tally["runs compared after full disks"] += 1


@SLOW
@FEW
@pytest.mark.skipif(not commands.MOUNTS, reason="needs to mount a small file system")
def test_read_only_disk_is_one_sentence(reference: Reference, tmp_path: Path) -> None:
    script = f'mount -t tmpfs -o ro none {tmp_path} && exec "$@"'
    command = f"exec unshare -rm sh -c '{script}' sh \"$@\""
    done = reference.command.under(command, tmp_path / "run")
    assert done.returncode == 1
    assert "can't be written (Read-only file system); give another --workdir." in done.stderr


@FEW
def test_evaluate_reads_any_checkpoint(reference: Reference) -> None:
    run = reference.path / "seed-0"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    accuracies = {row["step"]: row["test_accuracy"] for row in rows}

    evaluate = partial(
        commands.run, reference.command.home, "mnist_jax.evaluate", f"--workdir={run}"
    )

    steps = Checkpoints(run / "checkpoints").steps()
    before = max(step for step in steps[:-1] if step in accuracies)
    assert (
        f"step {before}: test accuracy {accuracies[before]:.2%}"
        in evaluate(f"--step={before}").stdout
    )
    assert f"step {steps[-1]}: test accuracy {accuracies[steps[-1]]:.2%}" in evaluate().stdout
    missing = evaluate("--step=7")
    assert missing.returncode == 1
    assert f"no checkpoint of step 7; available: {', '.join(map(str, steps))}." in missing.stderr


def _wait_for_training(process: commands.Command, workdir: Path) -> None:
    """Waits until the process has written metrics or has ended."""
    started = time.time()
    while process.poll() is None:
        if any(path.stat().st_mtime > started for path in workdir.rglob("metrics.jsonl")):
            return
        time.sleep(0.02)
