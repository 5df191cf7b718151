"""Sweeps: which runs they train, by which workers, how they stop, and what they report."""

import dataclasses
import io
import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import commands
import kubernetes_validate
import pytest
import toy_sweep
import yaml
from rich.console import Console
from runs_compared import assert_same_run
from toy_records import ARTICLE, record, results_of

from experiments.evidence import durations, records
from experiments.evidence.rows import all_articles, find
from experiments.evidence.training import Places
from experiments.sweeps import clusters, here, plan, status
from experiments.sweeps.plan import Seeds, Sweep
from mnist_jax.errors import UsageError
from mnist_jax.runs.directory import RunDirectory

LONG = "other/long seed 0"


def environment(home: Path) -> dict[str, str]:
    """That of any command, in which workers, which are new Python processes, find `toy_sweep`."""
    paths = os.pathsep.join(map(str, (Path(__file__).parent, Path.cwd())))
    return commands.environment(home) | {"PYTHONPATH": paths, "JAX_PLATFORMS": "cpu"}


def start(home: Path, *arguments: str) -> commands.Command:
    places = (f"--workdir={home}/runs", f"--results={home}/results")
    return commands.Command("toy_sweep", *arguments, *places, env=environment(home))


def recorded(home: Path, article: str) -> list[tuple[str, int]]:
    loaded = records.load(article, home / "results")
    return sorted((record.row, record.seed) for record in loaded)


def wait_for(condition: Callable[[], object], *running: commands.Command) -> None:
    """Waits while these commands run; fails when one ends, or after five minutes."""
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        assert all(command.poll() is None for command in running)
        time.sleep(0.05)


def evaluations(home: Path, seed: int = 0) -> int:
    path = home / f"runs/other/long/seed-{seed}/metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A seed of the longer row, trained by one undisturbed worker."""
    home = tmp_path_factory.mktemp("alone")
    done = start(home, "other/long", "--num_seeds=1", "--worker=alone").end()
    assert (done.returncode, done.stderr) == (0, "")
    return home


def test_workers_of_several_sweeps_train_no_run_twice(tmp_path: Path) -> None:
    flags = ("toy/row", "--num_seeds=6")
    workers = [start(tmp_path, *flags, f"--worker={name}") for name in ("one", "one", "other")]
    done = [worker.end() for worker in workers]
    assert [one.returncode for one in done] == [0, 0, 0], [one.stderr for one in done]
    assert recorded(tmp_path, "toy") == [("row", seed) for seed in range(6)]
    output = "".join(one.stdout for one in done)
    for seed in range(6):
        assert output.count(f"toy/row seed {seed}: 28 steps\n") == 1
        assert output.count(f"toy/row seed {seed}: ") == 2
    device = records.load("toy", tmp_path / "results")[0].environment["device"]
    assert device["threads"] == 1
    assert device["mesh"] == {"seed": 1, "data": 1}


def test_a_run_that_fails_is_tried_only_once_per_sweep(tmp_path: Path) -> None:
    workers = [start(tmp_path, "toy/bad", "--num_seeds=4", "--worker=one") for _ in range(2)]
    output = "".join(worker.end().stdout for worker in workers)
    for seed in range(4):
        assert output.count(f"toy/bad seed {seed}: 28 steps\n") == 1
        assert output.count(f"toy/bad seed {seed} failed: Training diverged") == 1


def test_a_run_whose_worker_was_killed_is_resumed(tmp_path: Path, alone: Path) -> None:
    flags = ("other/long", "--num_seeds=1")
    first = start(tmp_path, *flags, "--worker=first")
    wait_for(lambda: evaluations(tmp_path) > 5, first)
    first.send_signal(signal.SIGSTOP)  # Or the run might end first.
    status = start(tmp_path, *flags, "--status").end().stdout
    assert re.search(r"^ *other/long +0 +0: \d+% ", status, re.MULTILINE), status
    first.send_signal(signal.SIGKILL)
    assert first.end().returncode == -signal.SIGKILL
    status = start(tmp_path, *flags, "--status").end().stdout
    assert "0 done, 0 running, 1 waiting, 0 failed" in status
    second = start(tmp_path, *flags, "--worker=second").end()
    assert f"{LONG}: continues at step " in second.stdout
    assert recorded(tmp_path, "other") == [("long", 0)]
    assert_same_run(tmp_path / "runs/other/long/seed-0", alone / "runs/other/long/seed-0")


def test_a_stopped_worker_saves_and_reports_the_step(tmp_path: Path) -> None:
    worker = start(tmp_path, "other/long", "--num_seeds=1", "--worker=one")
    wait_for(lambda: evaluations(tmp_path) > 1, worker)
    worker.send_signal(signal.SIGTERM)
    done = worker.end()
    assert done.returncode == 128 + signal.SIGTERM
    assert "Saved after step" in done.stdout
    assert "failed" not in done.stdout


def test_a_sweep_survives_killed_workers_and_a_failing_row(tmp_path: Path) -> None:
    command = start(tmp_path, "toy/bad", "other/long", "--num_seeds=1", "--workers=2")
    wait_for(lambda: evaluations(tmp_path) > 5, command)
    workers = [int(pid) for pid in children(command.pid)]
    killed = 0
    for worker in workers:
        # Each worker is pinned to one core.
        assert len(os.sched_getaffinity(worker)) == 1
        # On a slow machine, the worker of the failing row may already have ended.
        killed += stopped(worker)
        os.kill(worker, signal.SIGKILL)
    assert killed
    done = command.end()
    assert done.returncode == 1
    assert done.stdout.startswith("2 runs of 2 rows: no record says how long they take.\n")
    assert done.stdout.count("A worker was killed by SIGKILL and is restarted.") == killed
    assert f"{LONG}: continues at step " in done.stdout
    assert recorded(tmp_path, "other") == [("long", 0)]
    # Once by a worker, and once in the summary.
    assert done.stdout.count("toy/bad seed 0 failed: Training diverged") == 2
    assert done.stderr.startswith("1 of 2 runs were not completed")
    # The next sweep tries it again.
    status = start(tmp_path, "toy/bad", "--num_seeds=1", "--status").end().stdout
    assert "toy/bad seed 0 failed: Training diverged" in status
    assert "0 done, 0 running, 0 waiting, 1 failed; nothing is left." in status
    again = start(tmp_path, "toy/bad", "--num_seeds=1", "--worker=next").end()
    assert again.returncode == 1
    assert "toy/bad seed 0: 28 steps" in again.stdout


@pytest.mark.parametrize(
    ("script", "stopping", "restarts"),
    [("kill -9 $$", False, 3), ("kill -9 $$", True, 0), ("exit 1", False, 0)],
)
def test_a_worker_that_is_always_killed_is_given_up(
    script: str, *, stopping: bool, restarts: int
) -> None:
    text = io.StringIO()
    worker = here.Worker(["sh", "-c", script], here.Place(None, {}))
    wait_for(lambda: worker.ended(Console(file=text), stopping))
    killed = "A worker was killed by SIGKILL"
    lines = [f"{killed} and is restarted."] * restarts
    lines += [f"{killed} again and is not restarted."] * (restarts > 0)
    assert text.getvalue().splitlines() == lines


def test_a_damaged_record_of_another_article_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results/other.jsonl").write_text("{\n")
    done = start(tmp_path, "toy/row", "--num_seeds=1", "--status").end()
    assert (done.returncode, done.stderr) == (0, "")
    done = start(tmp_path, "other/long", "--num_seeds=1", "--status").end()
    assert done.returncode == 1
    assert "Line 1 of " in done.stderr


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def stopped(pid: int) -> bool:
    """Suspends a process; returns whether it had not ended yet."""
    os.kill(pid, signal.SIGSTOP)

    def state() -> str:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]

    wait_for(lambda: state() in "TZ")
    return state() == "T"


@pytest.mark.slow
def test_a_stopped_sweep_prints_the_command_that_resumes_it(tmp_path: Path, alone: Path) -> None:
    arguments = ("other/long", "toy/row", "--num_seeds=1", "--workers=1")
    command = start(tmp_path, *arguments)
    wait_for(lambda: evaluations(tmp_path) > 1, command)
    (worker,) = children(command.pid)
    command.send_signal(signal.SIGINT)
    done = command.end()
    assert done.returncode == 128 + signal.SIGINT
    assert not Path(f"/proc/{worker}").exists()
    assert "Saved after step" in done.stdout
    assert "Stopped by SIGINT; what was trained is saved." in done.stderr
    _, printed = done.stderr.rstrip("\n").split("Continue with python -m toy_sweep ")
    assert shlex.split(printed)[: len(arguments)] == list(arguments)
    resumed = commands.Command("toy_sweep", *shlex.split(printed), env=environment(tmp_path)).end()
    assert resumed.returncode == 0, resumed.stderr
    assert f"{LONG}: continues at step " in resumed.stdout
    assert recorded(tmp_path, "other") + recorded(tmp_path, "toy") == [("long", 0), ("row", 0)]
    assert_same_run(tmp_path / "runs/other/long/seed-0", alone / "runs/other/long/seed-0")
    assert "All of these seeds are recorded" in start(tmp_path, *arguments).end().stdout


def test_status_of_a_sweep_is_a_table(alone: Path) -> None:
    done = start(alone, "--all", "--num_seeds=2", "--status", "--workers=2").end()
    assert done.returncode == 0, done.stderr
    head, row, bad, long, last = (line.split() for line in done.stdout.splitlines())
    assert head[:5] == ["row", "done", "running", "waiting", "failed"]
    assert row[:3] == ["toy/row", "0", "2"]
    assert bad[:3] == ["toy/bad", "0", "2"]
    assert long[:3] == ["other/long", "1", "1"]
    assert " ".join(last).startswith("1 done, 0 running, 5 waiting, 0 failed; ")
    assert " ".join(last).endswith("on 2 workers.")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "Give rows as ARTICLE/ROW, or --all or --missing for every row."),
        (("--all", "toy/row"), "Give rows as ARTICLE/ROW, or --all or --missing for every row."),
        (("toy",), "'toy' is no row; give ARTICLE/ROW, of one of toy (T), other (U)."),
        (("T/row",), "'T/row' is no row; give ARTICLE/ROW, of one of toy (T), other (U)."),
        (("toy/none",), "toy has no row 'none'; its rows are row, bad."),
    ],
)
def test_invalid_rows_are_refused_in_one_sentence(
    arguments: tuple[str, ...], sentence: str
) -> None:
    everything = "--all" in arguments
    with pytest.raises(UsageError) as caught:
        plan.chosen(toy_sweep.ARTICLES, [a for a in arguments if a != "--all"], everything)
    assert str(caught.value) == sentence


def test_an_ensemble_stands_for_its_members_row_without_duplicates() -> None:
    found = plan.chosen(toy_sweep.ARTICLES, ["toy/vote", "other/long", "toy/row"], False)
    assert [plan.row_name(*pair) for pair in found] == ["toy/row", "other/long"]


def test_which_seeds_are_missing() -> None:
    row = dataclasses.replace(ARTICLE.rows[0], seeds=3)
    assert Seeds(0, 5, fill=False).missing(row, {1, 7}) == [0, 2, 3, 4]
    assert Seeds(2, 2, fill=False).missing(row, set()) == [2, 3]
    assert Seeds(0, 5, fill=True).missing(row, {1, 7}) == [0, 2, 3]
    assert Seeds(0, 2, fill=True).missing(row, {5, 6, 7}) == []
    # Whichever seed is recorded first, the others stay the same.
    assert Seeds(0, 5, fill=True).missing(row, {1, 2, 7}) == [0, 3]
    # By default as many seeds as the row should have.
    assert Seeds(0, None, fill=False).missing(row, {1, 7}) == [0, 2]
    assert Seeds(0, None, fill=True).missing(row, {7}) == [0, 1]


def test_a_row_has_at_least_as_many_seeds_as_its_ensemble() -> None:
    pairs = [(article, ensemble) for article in all_articles() for ensemble in article.ensembles]
    assert pairs
    for article, ensemble in pairs:
        (row,) = (row for row in article.rows if row.id == ensemble.members)
        assert row.seeds >= ensemble.size, ensemble.id


def test_the_makespan_schedules_the_longest_runs_first() -> None:
    # 5 and 3 + 2, instead of 2 + 5 and 3.
    assert plan.makespan([2.0, 3.0, 5.0], 2) == 5.0
    assert plan.makespan([2.0, 3.0, 5.0], 1) == 10.0
    assert plan.makespan([2.0, 3.0, 5.0], 8) == 5.0


def test_the_operations_of_training_match_those_of_source_g() -> None:
    # 329,276,416 multiply-adds per image, three times as many to train on it, 660,000 images.
    expected = 6 * 329_276_416 * 660_000 / 1e15
    assert durations.petaflops(find("ttdoucet/residual_cnn").recipe) == pytest.approx(expected)


def test_the_time_of_a_seed_on_one_core_is_estimated_from_records(tmp_path: Path) -> None:
    plain, variant = ARTICLE.rows
    empty = results_of(tmp_path / "empty")
    assert durations.on_a_core(empty, plain) is None
    # Two seeds on two cores in 60 s; the other pooling takes as many operations per image.
    results = results_of(tmp_path, record(), dataclasses.replace(record(1), seconds=90.0))
    assert durations.on_a_core(results, plain) == pytest.approx(60.0)
    assert durations.on_a_core(results, variant) == pytest.approx(60.0)
    # Half of the epochs in 40 s is no faster.
    ended = dataclasses.replace(record(2), seconds=40.0, ended_after=1)
    beside = results_of(tmp_path / "ended", record(), ended)
    assert durations.on_a_core(beside, plain) == pytest.approx(60.0)
    # Another network, with 79,400 multiply-adds per image instead of 416,520, for 60 epochs of
    # 50,000 images instead of 2 epochs of 60,000.
    (one,) = (article for article in all_articles() if article.letter == "A")
    expected = 60 * 79_400 / 416_520 * 3_000_000 / 120_000
    assert durations.on_a_core(results, one.row("shallow")) == pytest.approx(expected)


def sweep_of(home: Path, *names: str) -> Sweep:
    rows = plan.chosen(toy_sweep.ARTICLES, names, False)
    return Sweep(rows, Seeds(0, 2, False), Places(home / "runs", home / "results"))


def test_runs_of_unknown_length_come_first_then_the_longest(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, "toy/row", "toy/bad", "other/long")
    missing = sweep.missing(sweep.recorded())
    whole = {"toy/row": 3600.0, "toy/bad": None, "other/long": 36000.0}
    order = [run.row_name for run in status.longest_first(missing, whole)]
    assert order == 2 * ["toy/bad"] + 2 * ["other/long"] + 2 * ["toy/row"]
    assert status.outlook(missing, whole, 3) == (
        "6 runs of 3 rows: 22.0 h of one core, 10.0 h on 3 workers, and 2 runs of unknown length"
    )


def test_a_directory_is_busy_while_it_is_locked(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    assert not run.busy()
    with run.locked():
        assert RunDirectory(tmp_path / "run").busy()
    assert not run.busy()


def test_a_failure_is_stored_for_the_other_workers(tmp_path: Path) -> None:
    run = sweep_of(tmp_path, "toy/row").missing({"toy/row": {0}})[0]
    assert run.name == "toy/row seed 1"
    assert plan.standing(run, 5.0) == plan.Standing(run, "waiting", 0.0, 5.0)
    plan.note_failure(run, "one", "It does not fit.")
    assert plan.failure_of(run) == {"sweep": "one", "why": "It does not fit."}
    assert plan.standing(run, 5.0).why == "It does not fit."
    (run.directory.path / "failure.json").write_text("[")
    assert plan.standing(run, None).state == "waiting"


def test_the_slurm_script_runs_a_worker(tmp_path: Path) -> None:
    printed = start(tmp_path, "toy/row", "--missing", "--num_seeds=2", "--slurm").end()
    assert printed.returncode == 0, printed.stderr
    options = dict(
        line.removeprefix("#SBATCH ").split("=", 1)
        for line in printed.stdout.splitlines()
        if line.startswith("#SBATCH --") and "=" in line
    )
    assert options["--array"] == "0-1"
    assert options["--cpus-per-task"] == "1"
    assert options["--chdir"] == f'"{Path.cwd()}"'
    assert "#SBATCH --requeue\n" in printed.stdout
    assert "# 2 runs of 1 row: " in printed.stdout
    done = run_script(tmp_path, printed.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert recorded(tmp_path, "toy") == [("row", 0), ("row", 1)]


def run_script(home: Path, script: str, **env: str) -> subprocess.CompletedProcess[str]:
    env = environment(home) | {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "8"} | env
    return subprocess.run(
        ["bash"], input=script, env=env, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("code", "restarts", "requeued"),
    [(0, 0, False), (1, 0, False), (143, 0, False), (137, 9, True), (137, 10, False)],
)
def test_the_slurm_script_requeues_a_killed_task(
    tmp_path: Path, code: int, restarts: int, requeued: bool
) -> None:
    (tmp_path / "scontrol").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "scontrol").chmod(0o755)
    script = clusters.slurm("", ["-c", f"import os; os._exit({code})"], 1)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_RESTART_COUNT": str(restarts)}
    done = run_script(tmp_path, script, **env)
    assert done.returncode == code
    assert done.stdout == ("requeue 7_8\n" if requeued else "")


def test_an_empty_image_name_is_refused_before_training(tmp_path: Path) -> None:
    done = start(tmp_path, "--all", "--kubernetes=").end()
    assert done.returncode == 2
    assert done.stderr == "--kubernetes is empty; give the image of the pods.\n"
    assert recorded(tmp_path, "toy") == []


def test_the_kubernetes_manifest_runs_a_worker_in_every_pod(tmp_path: Path) -> None:
    arguments = ("toy/row", "toy/bad", "--num_seeds=3", "--workers=4", "--kubernetes=registry/i:1")
    printed = start(tmp_path, *arguments).end()
    assert printed.returncode == 0, printed.stderr
    job: Mapping = yaml.safe_load(printed.stdout)
    # The version that it names, and the newest one that can be validated.
    for version in ("1.33", "1.37"):
        kubernetes_validate.validate(job, version, strict=True)
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    spec = job["spec"]
    assert spec["completionMode"] == "Indexed"
    assert (spec["completions"], spec["parallelism"]) == (4, 4)
    ignored, fails = spec["podFailurePolicy"]["rules"]
    assert ignored["action"] == "Ignore"
    assert ignored["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert fails["onExitCodes"]["values"] == [1, 2]
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    (container,) = pod["containers"]
    assert container["image"] == "registry/i:1"
    assert container["command"] == [
        *("python", "-m", "toy_sweep", "toy/row", "toy/bad", "--num_seeds=3"),
        *("--workdir=/shared/runs", "--results=/shared/results", "--data_dir=/shared/data"),
        "--worker=$(SWEEP)",
    ]
    assert [variable["name"] for variable in container["env"]] == ["SWEEP"]
    assert container["volumeMounts"] == [{"name": "shared", "mountPath": "/shared"}]
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"]
