"""A sweep as a job array on a real Slurm cluster: requeued, signalled, killed, losing a node."""

import os
import re
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import cluster
import commands
import pytest
from runs_compared import assert_same_run

from experiments.evidence import records

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(cluster.missing()),
        reason="Slurm is not installed (Debian's slurm-wlm and munge)",
    ),
]


@pytest.fixture
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    # A short path: a Unix socket's path has at most 108 bytes.
    with cluster.running(tmp_path_factory.mktemp("s")) as env:
        yield env


def environment(tmp_path: Path, slurm: Mapping[str, str]) -> dict[str, str]:
    """The environment in which a sweep's job script runs."""
    env = commands.environment(tmp_path) | {name: slurm[name] for name in ("PATH", "SLURM_CONF")}
    env["PYTHONPATH"] = os.pathsep.join(map(str, (Path(__file__).parents[1], Path.cwd())))
    return env


def script(tmp_path: Path, env: Mapping[str, str], *flags: str) -> str:
    """The job script of a sweep."""
    places = [f"--workdir={tmp_path}/runs", f"--results={tmp_path}/results"]
    printed = commands.Command("toy_sweep", *flags, *places, "--slurm", env=env, cwd=tmp_path).end()
    assert printed.returncode == 0, printed.stderr
    return printed.stdout


def submit(tmp_path: Path, env: Mapping[str, str], seeds: int) -> str:
    """Submits a job array; returns its ID once its first two seeds are being trained."""
    array = script(tmp_path, env, "other/long", f"--num_seeds={seeds}")
    job = cluster.call(env, "sbatch", "--parsable", stdin=array).strip()
    assert job.isdigit()
    cluster.wait_for(
        "two runs are trained", lambda: all(evaluations(tmp_path, seed) > 2 for seed in (0, 1))
    )
    return job


def evaluations(tmp_path: Path, seed: int) -> int:
    """The number of evaluations of a run so far."""
    path = tmp_path / f"runs/other/long/seed-{seed}/metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def assert_trained_once(tmp_path: Path, seeds: range) -> str:
    """Asserts that each seed has one record and a single worker's run; returns the tasks' logs."""
    log = "".join(path.read_text() for path in tmp_path.glob("sweep-*.log"))
    found = records.load("other", tmp_path / "results")
    assert sorted(record.seed for record in found) == list(seeds)
    lines = Counter(line for line in log.splitlines() if line.startswith("other/long"))
    for record in found:
        assert lines[f"other/long seed {record.seed}: {record.accuracy:.2f}%"] == 1, log
    alone = [f"--workdir={tmp_path}/alone", f"--results={tmp_path}/alone"]
    flags = ("other/long", f"--num_seeds={len(seeds)}", "--worker=alone")
    done = commands.run(tmp_path, "toy_sweep", *flags, *alone)
    assert done.returncode == 0, done.stderr
    for seed in seeds:
        path = f"other/long/seed-{seed}"
        assert_same_run(tmp_path / "runs" / path, tmp_path / "alone" / path)
    return log


def test_requeued_killed_and_signalled_tasks_train_every_run_once(
    tmp_path: Path, slurm: Mapping[str, str]
) -> None:
    env = environment(tmp_path, slurm)
    # Two nodes: two of the three tasks run at first, one seed each.
    job = submit(tmp_path, env, 3)

    def worker(task: int) -> int:
        """The process ID of a task's worker; 0 if there is none."""
        number = cluster.call(env, "squeue", "--noheader", f"--job={job}_{task}", "--format=%A")
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                variables = path.read_bytes()
                command = (path.parent / "cmdline").read_bytes()
            except OSError:
                continue
            # Another test's cluster has the same job IDs.
            marks = (f"SLURM_JOB_ID={number.strip()}\0", f"SLURM_CONF={env['SLURM_CONF']}\0")
            mine = all(mark.encode() in variables for mark in marks)
            if mine and b"--worker=" in command and b"bash" not in command:
                return int(path.parent.name)
        return 0

    # SIGTERM, and later SIGKILL, as a preempted job gets them.
    cluster.call(env, "scontrol", "requeue", f"{job}_0")
    killed = worker(1)
    assert killed
    os.kill(killed, signal.SIGKILL)
    third = tmp_path / f"sweep-{job}_2.log"
    cluster.wait_for(
        "the third task begins", lambda: third.exists() and " steps\n" in third.read_text()
    )
    # As Slurm does shortly before a job's time limit.
    cluster.call(env, "scancel", "--signal=USR1", "--batch", f"{job}_2")
    show = ("scontrol", "show", "job", job)
    cluster.wait_for(
        "the array ends", lambda: cluster.call(env, *show).count("JobState=COMPLETED") == 3
    )

    # Each task was requeued once, although one task's job ID is also that of the array.
    restarts = re.findall(r"Restarts=(\d+)", cluster.call(env, *show))
    assert restarts == ["1", "1", "1"]
    log = assert_trained_once(tmp_path, range(3))
    # One for each disturbance; two of them may have hit the same seed.
    assert sum("continues at step" in line for line in log.splitlines()) >= 3, log


def test_job_array_survives_the_loss_of_a_node(tmp_path: Path, slurm: Mapping[str, str]) -> None:
    env = environment(tmp_path, slurm)
    job = submit(tmp_path, env, 2)
    cluster.fail_node(env, "node2")
    show = ("scontrol", "show", "job", job)
    cluster.wait_for(
        "the array ends", lambda: cluster.call(env, *show).count("JobState=COMPLETED") == 2
    )

    shown = cluster.call(env, *show)
    assert sorted(re.findall(r"Restarts=(\d+)", shown)) == ["0", "1"]
    assert set(re.findall(r" BatchHost=(\w+)", shown)) == {"node1"}
    log = assert_trained_once(tmp_path, range(2))
    assert log.count("continues at step") == 1, log


def test_failing_row_fails_only_its_task(tmp_path: Path, slurm: Mapping[str, str]) -> None:
    env = environment(tmp_path, slurm)
    array = script(tmp_path, env, "toy/bad", "toy/row", "--num_seeds=1")
    done = subprocess.run(["sbatch", "--wait"], env=env, input=array, text=True, check=False)
    assert done.returncode == 1
    log = "".join(path.read_text() for path in tmp_path.glob("sweep-*.log"))
    assert log.count("toy/bad seed 0 failed: ") == 1
    assert [record.row for record in records.load("toy", tmp_path / "results")] == ["row"]
