"""One run on two nodes of a real Slurm cluster, where one task is killed midway."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import cluster
import commands
import pytest
from runs_compared import assert_same_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(cluster.missing()),
        reason="There is no Slurm here; install Debian's slurm-wlm and munge.",
    ),
]

TRAIN = "mnist_jax.train"
RUN = (
    *("--model=basic_conv", "--dataset=digits", "--batch_size=50", "--num_devices=2"),
    *("--epochs=6", "--eval_every=10", "--save_every=0"),
)


@pytest.fixture
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    # A short path: a Unix socket's path has at most 108 bytes.
    with cluster.running(tmp_path_factory.mktemp("s")) as env:
        yield env


def srun(env: Mapping[str, str], path: Path) -> subprocess.Popen[str]:
    """Starts the run as a job step of two tasks, one on each node."""
    # The nodes' names are no host names, so the coordinator's address is given.
    port = cluster.free_ports(1)[0]
    command = [
        "srun",
        "--nodes=2",
        "--ntasks=2",
        "--kill-on-bad-exit=0",
        sys.executable,
        "-m",
        TRAIN,
    ]
    flags = [*RUN, f"--coordinator=127.0.0.1:{port}", f"--workdir={path}"]
    return subprocess.Popen([*command, *flags], env=env, text=True, stderr=subprocess.PIPE)


def test_a_run_on_two_nodes_resumes_after_one_task_was_killed(
    tmp_path: Path, slurm: Mapping[str, str]
) -> None:
    alone = commands.run(tmp_path, TRAIN, *RUN, f"--workdir={tmp_path / 'alone'}")
    assert alone.returncode == 0, alone.stderr
    env = commands.environment(tmp_path) | {name: slurm[name] for name in ("PATH", "SLURM_CONF")}
    env["PYTHONPATH"] = str(Path.cwd())
    path = tmp_path / "run"

    first = srun(env, path)
    while not (path / "metrics.jsonl").exists():
        assert first.poll() is None
        time.sleep(0.05)
    os.kill(_task(env, rank=1), signal.SIGKILL)
    _, errors = first.communicate(timeout=400)
    assert first.returncode != 0
    assert errors.count("start all of them again with the same command") == 1, errors

    second = srun(env, path)
    _, errors = second.communicate(timeout=400)
    assert second.returncode == 0, errors
    assert_same_run(tmp_path / "alone", path)


def _task(env: Mapping[str, str], rank: int) -> int:
    """The process ID of the training task of this rank on this cluster."""
    marks = (f"SLURM_PROCID={rank}\0", f"SLURM_CONF={env['SLURM_CONF']}\0")
    for process in Path("/proc").glob("[0-9]*"):
        try:
            variables = (process / "environ").read_bytes()
            command = (process / "cmdline").read_bytes()
        except OSError:
            continue
        mine = all(mark.encode() in variables for mark in marks)
        if mine and TRAIN.encode() in command:
            return int(process.name)
    raise AssertionError(f"There is no task {rank}.")
