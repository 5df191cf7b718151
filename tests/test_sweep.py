"""Sweeps: what they train, who trains it, what stops them and what they say."""

import dataclasses
import os
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
from runs_compared import assert_same_run
from toy_records import ARTICLE, record, results_of

from experiments.evidence import durations, records
from experiments.evidence.rows import all_articles, find
from experiments.evidence.training import Places
from experiments.sweeps import clusters, plan, status
from experiments.sweeps.plan import Seeds, Sweep
from mnist_jax.errors import UsageError
from mnist_jax.runs.directory import RunDirectory

LONG = "other/long seed 0"


def environment(home: Path) -> dict[str, str]:
    """As for any command; workers are started by Python itself and must find the toys, too."""
    paths = os.pathsep.join(map(str, (Path(__file__).parent, Path.cwd())))
    return commands.environment(home) | {"PYTHONPATH": paths, "JAX_PLATFORMS": "cpu"}


def start(home: Path, *arguments: str) -> commands.Command:
    places = (f"--workdir={home}/runs", f"--results={home}/results")
    return commands.Command("toy_sweep", *arguments, *places, env=environment(home))


def recorded(home: Path, article: str) -> list[tuple[str, int]]:
    found = records.load(article, home / "results")
    return sorted((record.row, record.seed) for record in found)


def wait_for(condition: Callable[[], object], *commands: commands.Command) -> None:
    end = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < end
        assert all(command.poll() is None for command in commands)
        time.sleep(0.05)


def evaluations(home: Path, seed: int = 0) -> int:
    path = home / f"runs/other/long/seed-{seed}/metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The longer row, of which one worker trained a seed without a disturbance."""
    home = tmp_path_factory.mktemp("alone")
    done = start(home, "other/long", "--num_seeds=1", "--worker=alone").end()
    assert (done.returncode, done.stderr) == (0, "")
    return home


def test_workers_of_several_sweeps_double_nothing(tmp_path: Path) -> None:
    flags = ("toy/row", "--num_seeds=6")
    workers = [start(tmp_path, *flags, f"--worker={name}") for name in ("one", "one", "other")]
    done = [worker.end() for worker in workers]
    assert [one.returncode for one in done] == [0, 0, 0], [one.stderr for one in done]
    assert recorded(tmp_path, "toy") == [("row", seed) for seed in range(6)]
    said = "".join(one.stdout for one in done)
    for seed in range(6):
        assert said.count(f"toy/row seed {seed}: 28 steps\n") == 1
        assert said.count(f"toy/row seed {seed}: ") == 2
    device = records.load("toy", tmp_path / "results")[0].environment["device"]
    assert device["threads"] == 1
    assert device["mesh"] == {"seed": 1, "data": 1}


def test_a_run_that_fails_is_tried_once_by_all_workers_of_a_sweep(tmp_path: Path) -> None:
    workers = [start(tmp_path, "toy/bad", "--num_seeds=4", "--worker=one") for _ in range(2)]
    said = "".join(worker.end().stdout for worker in workers)
    for seed in range(4):
        assert said.count(f"toy/bad seed {seed}: 28 steps\n") == 1
        assert said.count(f"toy/bad seed {seed} failed: Training diverged") == 1


def test_a_run_whose_worker_was_killed_goes_on(tmp_path: Path, alone: Path) -> None:
    flags = ("other/long", "--num_seeds=1")
    first = start(tmp_path, *flags, "--worker=first")
    wait_for(lambda: evaluations(tmp_path) > 5, first)
    assert "0: " in start(tmp_path, *flags, "--status").end().stdout
    first.send_signal(signal.SIGKILL)
    assert first.end().returncode == -signal.SIGKILL
    told = start(tmp_path, *flags, "--status").end().stdout
    assert "0 done, 0 running, 1 waiting, 0 failed" in told
    second = start(tmp_path, *flags, "--worker=second").end()
    assert f"{LONG}: continues at step " in second.stdout
    assert recorded(tmp_path, "other") == [("long", 0)]
    assert_same_run(tmp_path / "runs/other/long/seed-0", alone / "runs/other/long/seed-0")


def test_a_worker_that_is_stopped_saves_and_says_where(tmp_path: Path) -> None:
    worker = start(tmp_path, "other/long", "--num_seeds=1", "--worker=one")
    wait_for(lambda: evaluations(tmp_path) > 1, worker)
    worker.send_signal(signal.SIGTERM)
    done = worker.end()
    assert done.returncode == 128 + signal.SIGTERM
    assert "Saved after step" in done.stdout
    assert "failed" not in done.stdout


def test_a_sweep_outlives_a_killed_worker_and_a_row_that_fails(tmp_path: Path) -> None:
    command = start(tmp_path, "toy/bad", "other/long", "--num_seeds=1", "--workers=2")
    wait_for(lambda: evaluations(tmp_path) > 5, command)
    workers = [int(pid) for pid in children(command.pid)]
    killed = 0
    for worker in workers:
        # Every one has a core to itself.
        assert len(os.sched_getaffinity(worker)) == 1
        # The one of the row that fails may have ended by itself, if this machine is slow.
        killed += stopped(worker)
        os.kill(worker, signal.SIGKILL)
    assert killed
    done = command.end()
    assert done.returncode == 1
    assert done.stdout.startswith("2 runs of 2 rows: no record says how long they take.\n")
    assert done.stdout.count("A worker was killed by SIGKILL and is restarted.") == killed
    assert f"{LONG}: continues at step " in done.stdout
    assert recorded(tmp_path, "other") == [("long", 0)]
    # By one of the workers, and at the end.
    assert done.stdout.count("toy/bad seed 0 failed: Training diverged") == 2
    assert done.stderr.startswith("1 of 2 runs were not completed")
    # The next sweep tries it again.
    told = start(tmp_path, "toy/bad", "--num_seeds=1", "--status").end().stdout
    assert "toy/bad seed 0 failed: Training diverged" in told
    assert "0 done, 0 running, 0 waiting, 1 failed; nothing is left." in told
    again = start(tmp_path, "toy/bad", "--num_seeds=1", "--worker=next").end()
    assert again.returncode == 1
    assert "toy/bad seed 0: 28 steps" in again.stdout


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def stopped(pid: int) -> bool:
    """Stops a process; whether it had not ended."""
    os.kill(pid, signal.SIGSTOP)

    def state() -> str:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]

    wait_for(lambda: state() in "TZ")
    return state() == "T"


@pytest.mark.slow
def test_a_sweep_that_is_stopped_says_how_to_go_on(tmp_path: Path, alone: Path) -> None:
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
    _, same = done.stderr.rstrip("\n").split("Continue with python -m toy_sweep ")
    assert shlex.split(same)[: len(arguments)] == list(arguments)
    on = commands.Command("toy_sweep", *shlex.split(same), env=environment(tmp_path)).end()
    assert on.returncode == 0, on.stderr
    assert f"{LONG}: continues at step " in on.stdout
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
def test_misuse_is_said_in_a_sentence(arguments: tuple[str, ...], sentence: str) -> None:
    everything = "--all" in arguments
    with pytest.raises(UsageError) as caught:
        plan.chosen(toy_sweep.ARTICLES, [a for a in arguments if a != "--all"], everything)
    assert str(caught.value) == sentence


def test_an_ensemble_is_its_members_row_and_every_row_comes_once() -> None:
    found = plan.chosen(toy_sweep.ARTICLES, ["toy/vote", "other/long", "toy/row"], False)
    assert [plan.row_name(*pair) for pair in found] == ["toy/row", "other/long"]


def test_which_seeds_are_missing() -> None:
    row = dataclasses.replace(ARTICLE.rows[0], seeds=3)
    assert Seeds(0, 5, fill=False).missing(row, {1, 7}) == [0, 2, 3, 4]
    assert Seeds(2, 2, fill=False).missing(row, set()) == [2, 3]
    assert Seeds(0, 5, fill=True).missing(row, {1, 7}) == [0, 2, 3]
    assert Seeds(0, 2, fill=True).missing(row, {5, 6, 7}) == []
    # Whichever of them is done first, the others stay the same.
    assert Seeds(0, 5, fill=True).missing(row, {1, 2, 7}) == [0, 3]
    # As many as the row is to have.
    assert Seeds(0, None, fill=False).missing(row, {1, 7}) == [0, 2]
    assert Seeds(0, None, fill=True).missing(row, {7}) == [0, 1]


def test_a_row_is_to_have_as_many_seeds_as_vote() -> None:
    votes = [(article, vote) for article in all_articles() for vote in article.ensembles]
    assert votes
    for article, vote in votes:
        (row,) = (row for row in article.rows if row.id == vote.members)
        assert row.seeds >= vote.size, vote.id


def test_how_long_workers_take() -> None:
    # The longest first: 5 and 3 + 2, instead of 2 + 5.
    assert plan.makespan([2.0, 3.0, 5.0], 2) == 5.0
    assert plan.makespan([2.0, 3.0, 5.0], 1) == 10.0
    assert plan.makespan([2.0, 3.0, 5.0], 8) == 5.0


def test_the_operations_of_training_are_those_that_source_g_takes() -> None:
    # 329,276,416 multiply-adds an image, three times of it to train, for 660,000 images.
    by_hand = 6 * 329_276_416 * 660_000 / 1e15
    assert durations.petaflops(find("ttdoucet/residual_cnn").recipe) == pytest.approx(by_hand)


def test_how_long_a_seed_takes_on_a_core(tmp_path: Path) -> None:
    plain, variant = ARTICLE.rows
    nothing = results_of(tmp_path / "nothing")
    assert durations.on_a_core(nothing, plain) is None
    # Two seeds on two cores in 60 s; with the other pooling as much work for an image.
    results = results_of(tmp_path, record(), dataclasses.replace(record(1), seconds=90.0))
    assert durations.on_a_core(results, plain) == pytest.approx(60.0)
    assert durations.on_a_core(results, variant) == pytest.approx(60.0)
    # Half of the epochs in 40 s is no quicker.
    ended = dataclasses.replace(record(2), seconds=40.0, ended_after=1)
    beside = results_of(tmp_path / "ended", record(), ended)
    assert durations.on_a_core(beside, plain) == pytest.approx(60.0)
    # Another network, of 79,400 multiplications an image instead of 416,520, and 60 epochs of
    # 50,000 images instead of 2 of 60,000.
    (one,) = (article for article in all_articles() if article.letter == "A")
    expected = 60 * 79_400 / 416_520 * 3_000_000 / 120_000
    assert durations.on_a_core(results, one.row("shallow")) == pytest.approx(expected)


def sweep_of(home: Path, *names: str) -> Sweep:
    rows = plan.chosen(toy_sweep.ARTICLES, names, False)
    return Sweep(rows, Seeds(0, 2, False), Places(home / "runs", home / "results"))


def test_longest_runs_come_first_and_unknown_ones_before_them(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, "toy/row", "toy/bad", "other/long")
    missing = sweep.missing(sweep.recorded())
    whole = {"toy/row": 3600.0, "toy/bad": None, "other/long": 36000.0}
    order = [run.row_name for run in status.longest_first(missing, whole)]
    assert order == 2 * ["toy/bad"] + 2 * ["other/long"] + 2 * ["toy/row"]
    assert status.outlook(missing, whole, 3) == (
        "6 runs of 3 rows: 22.0 h of one core, 10.0 h on 3 workers, and 2 runs of unknown length"
    )


def test_a_directory_is_busy_as_long_as_a_process_trains_in_it(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    assert not run.busy()
    with run.locked():
        assert RunDirectory(tmp_path / "run").busy()
    assert not run.busy()


def test_a_run_that_cannot_begin_is_told_to_the_others(tmp_path: Path) -> None:
    run = sweep_of(tmp_path, "toy/row").missing({"toy/row": {0}})[0]
    assert run.name == "toy/row seed 1"
    assert plan.standing(run, 5.0) == plan.Standing(run, "waiting", 0.0, 5.0)
    plan.note_failure(run, "one", "It does not fit.")
    assert plan.failure_of(run) == {"sweep": "one", "why": "It does not fit."}
    assert plan.standing(run, 5.0).why == "It does not fit."
    (run.directory.path / "failure.json").write_text("[")
    assert plan.standing(run, None).state == "waiting"


def test_the_script_for_slurm_runs_a_worker(tmp_path: Path) -> None:
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
def test_the_script_for_slurm_requeues_what_was_killed(
    tmp_path: Path, code: int, restarts: int, requeued: bool
) -> None:
    (tmp_path / "scontrol").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "scontrol").chmod(0o755)
    script = clusters.slurm("", ["-c", f"import os; os._exit({code})"], 1)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_RESTART_COUNT": str(restarts)}
    done = run_script(tmp_path, script, **env)
    assert done.returncode == code
    assert done.stdout == ("requeue 7_8\n" if requeued else "")


def test_an_empty_image_is_refused_and_nothing_trained(tmp_path: Path) -> None:
    done = start(tmp_path, "--all", "--kubernetes=").end()
    assert done.returncode == 2
    assert done.stderr == "--kubernetes is empty; give the image of the pods.\n"
    assert recorded(tmp_path, "toy") == []


def test_the_manifest_for_kubernetes_has_a_worker_in_every_pod(tmp_path: Path) -> None:
    arguments = ("toy/row", "toy/bad", "--num_seeds=3", "--workers=4", "--kubernetes=registry/i:1")
    printed = start(tmp_path, *arguments).end()
    assert printed.returncode == 0, printed.stderr
    job: Mapping = yaml.safe_load(printed.stdout)
    # The version named in it, and the newest that is known.
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
