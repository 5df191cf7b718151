"""A sweep as a job array on a real Slurm, disturbed in every way that Slurm knows."""

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
        reason="There is no Slurm here; install Debian's slurm-wlm and munge.",
    ),
]


@pytest.fixture
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    # A short path: that of a socket has 108 characters.
    with cluster.running(tmp_path_factory.mktemp("s")) as env:
        yield env


def environment(tmp_path: Path, slurm: Mapping[str, str]) -> dict[str, str]:
    """In which a sweep's script runs as a job."""
    env = commands.environment(tmp_path) | {name: slurm[name] for name in ("PATH", "SLURM_CONF")}
    env["PYTHONPATH"] = os.pathsep.join(map(str, (Path(__file__).parents[1], Path.cwd())))
    return env


def script(tmp_path: Path, env: Mapping[str, str], *flags: str) -> str:
    """The job array of a sweep."""
    places = [f"--workdir={tmp_path}/runs", f"--results={tmp_path}/results"]
    printed = commands.Command("toy_sweep", *flags, *places, "--slurm", env=env, cwd=tmp_path).end()
    assert printed.returncode == 0, printed.stderr
    return printed.stdout


def submitted(tmp_path: Path, env: Mapping[str, str], seeds: int) -> str:
    """The number of a job array of so many seeds, the first two of which are under way."""
    array = script(tmp_path, env, "other/long", f"--num_seeds={seeds}")
    job = cluster.call(env, "sbatch", "--parsable", stdin=array).strip()
    assert job.isdigit()
    cluster.wait_for("two runs begin", lambda: rows(tmp_path, 0) > 2 and rows(tmp_path, 1) > 2)
    return job


def rows(tmp_path: Path, seed: int) -> int:
    """How many evaluations a run has so far."""
    path = tmp_path / f"runs/other/long/seed-{seed}/metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def assert_trained_once(tmp_path: Path, seeds: range) -> str:
    """Every seed has one record and the run that one worker makes; returns what was said."""
    log = "".join(path.read_text() for path in tmp_path.glob("sweep-*.log"))
    found = records.load("other", tmp_path / "results")
    assert sorted(record.seed for record in found) == list(seeds)
    said = Counter(line for line in log.splitlines() if line.startswith("other/long"))
    for record in found:
        assert said[f"other/long seed {record.seed}: {record.accuracy:.2f}%"] == 1, log
    alone = [f"--workdir={tmp_path}/alone", f"--results={tmp_path}/alone"]
    flags = ("other/long", f"--num_seeds={len(seeds)}", "--worker=alone")
    done = commands.run(tmp_path, "toy_sweep", *flags, *alone)
    assert done.returncode == 0, done.stderr
    for seed in seeds:
        path = f"other/long/seed-{seed}"
        assert_same_run(tmp_path / "runs" / path, tmp_path / "alone" / path)
    return log


def test_an_array_that_is_requeued_stopped_and_killed_trains_every_run_once(
    tmp_path: Path, slurm: Mapping[str, str]
) -> None:
    env = environment(tmp_path, slurm)
    # Two nodes: two of the three tasks run, each with a seed.
    job = submitted(tmp_path, env, 3)

    def worker(task: int) -> int:
        """The process of a task's worker."""
        number = cluster.call(env, "squeue", "--noheader", f"--job={job}_{task}", "--format=%A")
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                variables = path.read_bytes()
                command = (path.parent / "cmdline").read_bytes()
            except OSError:
                continue
            # Another test's cluster has the same numbers.
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
    # As before the end of its time.
    cluster.call(env, "scancel", "--signal=USR1", "--batch", f"{job}_2")
    show = ("scontrol", "show", "job", job)
    cluster.wait_for(
        "the array ends", lambda: cluster.call(env, *show).count("JobState=COMPLETED") == 3
    )

    # Every task once, though the number of one is also that of the array.
    restarts = re.findall(r"Restarts=(\d+)", cluster.call(env, *show))
    assert restarts == ["1", "1", "1"]
    log = assert_trained_once(tmp_path, range(3))
    # One of each disturbance; two may have been of the same seed.
    assert sum("continues at step" in line for line in log.splitlines()) >= 3, log


def test_an_array_goes_on_without_a_node_that_is_lost(
    tmp_path: Path, slurm: Mapping[str, str]
) -> None:
    env = environment(tmp_path, slurm)
    job = submitted(tmp_path, env, 2)
    cluster.lose(env, "node2")
    show = ("scontrol", "show", "job", job)
    cluster.wait_for(
        "the array ends", lambda: cluster.call(env, *show).count("JobState=COMPLETED") == 2
    )

    shown = cluster.call(env, *show)
    assert sorted(re.findall(r"Restarts=(\d+)", shown)) == ["0", "1"]
    assert set(re.findall(r" BatchHost=(\w+)", shown)) == {"node1"}
    log = assert_trained_once(tmp_path, range(2))
    assert log.count("continues at step") == 1, log


def test_a_row_that_fails_fails_one_task(tmp_path: Path, slurm: Mapping[str, str]) -> None:
    env = environment(tmp_path, slurm)
    array = script(tmp_path, env, "toy/bad", "toy/row", "--num_seeds=1")
    done = subprocess.run(["sbatch", "--wait"], env=env, input=array, text=True, check=False)
    assert done.returncode == 1
    log = "".join(path.read_text() for path in tmp_path.glob("sweep-*.log"))
    assert log.count("toy/bad seed 0 failed: ") == 1
    assert [record.row for record in records.load("toy", tmp_path / "results")] == ["row"]
