"""Several processes on this machine train one run: they connect, agree, stop and end together."""

import atexit
import os
import signal
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from commands import Command, environment, run
from runs_compared import assert_same_run

from mnist_jax import hosts
from mnist_jax.errors import Failure, UsageError
from mnist_jax.runs.directory import RunDirectory

TRAIN = "mnist_jax.train"
# The run uses two devices, of one process or one each of two processes.
RUN = ("--model=basic_conv", "--dataset=digits", "--batch_size=50", "--num_devices=2")
LONG = ("--epochs=6", "--eval_every=10", "--save_every=0.5")

pytestmark = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="There is only one core.")


class Together:
    """Two processes of one run; `second` has flags of the second process alone."""

    def __init__(self, home: Path, *flags: str, second: Sequence[str] = ()):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            address = f"localhost:{free.getsockname()[1]}"
        self._env = environment(home)
        self._flags = (*RUN, f"--coordinator={address}", "--num_processes=2", *flags)
        self.both = [self.start(0), self.start(1, *second)]

    def start(self, index: int, *flags: str) -> Command:
        return Command(TRAIN, *self._flags, f"--process_id={index}", *flags, env=self._env)

    def wait_for_more(self, path: Path) -> None:
        """Waits until a file exists and has grown."""
        before = path.stat().st_size if path.exists() else 0
        while not path.exists() or path.stat().st_size <= before:
            assert [process.poll() for process in self.both] == [None, None], self.end()
            time.sleep(0.01)

    def end(self) -> tuple[list[int], str, str]:
        """Waits for both; returns exit codes, and their combined output and error output."""
        ends = [process.end(300) for process in self.both]
        errors = "".join(end.stderr for end in ends)
        return [end.returncode for end in ends], "".join(end.stdout for end in ends), errors


def test_the_watching_thread_has_left_jax_before_python_exits() -> None:
    waiting, ended, order = threading.Event(), threading.Event(), []

    class Client:
        def blocking_key_value_get(self, _: str, milliseconds: int) -> str:
            waiting.set()
            assert ended.wait(60), milliseconds
            order.append("timed out")
            raise RuntimeError("DEADLINE_EXCEEDED")

    before = set(threading.enumerate())
    group = hosts._ProcessGroup(index=1, count=2, client=Client())

    def shutdown() -> None:
        order.append("shut down")
        ended.set()

    end = hosts._start_watch(group, shutdown)
    assert waiting.wait(5)
    end()
    assert order == ["shut down", "timed out"]
    assert set(threading.enumerate()) <= before
    atexit.unregister(end)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process with two devices."""
    home = tmp_path_factory.mktemp("alone")
    done = run(home, TRAIN, *RUN, *LONG, f"--workdir={home / 'run'}")
    assert done.returncode == 0, done.stderr
    return home / "run"


def test_two_processes_equal_one_with_two_devices_bit_for_bit(alone: Path, tmp_path: Path) -> None:
    """Even though they are interrupted and resumed."""
    path = tmp_path / "run"
    stopped = Together(tmp_path, *LONG, f"--workdir={path}")
    stopped.wait_for_more(path / "metrics.jsonl")
    stopped.both[1].send_signal(signal.SIGTERM)
    codes, output, errors = stopped.end()
    assert codes == [143, 143], errors
    assert errors.count("\n") == errors.count("Stopped by SIGTERM after step") == 1
    assert output.count("compiling") == 1  # Only the first process shows progress.

    codes, output, errors = Together(tmp_path, *LONG, f"--workdir={path}").end()
    assert codes == [0, 0], errors
    assert output.count("Resuming at step") == 1
    assert_same_run(alone, path)
    assert RunDirectory(path).environment()["device"]["processes"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_is_reported_by_the_other_and_the_run_resumes(
    victim: int, alone: Path, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    killed = Together(tmp_path, *LONG, f"--workdir={path}")
    killed.wait_for_more(path / "metrics.jsonl")
    killed.both[victim].send_signal(signal.SIGKILL)
    start = time.monotonic()
    codes, _, errors = killed.end()
    assert time.monotonic() - start < 60
    assert (codes[victim], codes[1 - victim]) == (-signal.SIGKILL, 1)
    assert errors.count("\n") == errors.count("start all of them again with the same command") == 1

    codes, _, errors = Together(tmp_path, *LONG, f"--workdir={path}").end()
    assert codes == [0, 0], errors
    assert_same_run(alone, path)


@pytest.mark.slow
def test_each_process_trains_a_seed_and_waits_for_a_process_that_starts_late(
    tmp_path: Path,
) -> None:
    flags = ("--epochs=1", "--num_seeds=2")
    alone = run(tmp_path, TRAIN, *RUN, *flags, f"--workdir={tmp_path / 'alone'}")
    assert alone.returncode == 0, alone.stderr
    together = Together(
        tmp_path, *flags, f"--workdir={tmp_path / 'together'}", second=["--no_such_flag=1"]
    )
    mistaken = together.both[1].end()
    assert mistaken.returncode == 2
    assert "Unknown command line flag 'no_such_flag'" in mistaken.stderr
    together.both[1] = together.start(1)
    codes, _, errors = together.end()
    assert codes == [0, 0], errors
    for seed in ("seed-0", "seed-1"):
        assert_same_run(tmp_path / "alone" / seed, tmp_path / "together" / seed)


def test_processes_with_different_recipes_are_refused(tmp_path: Path) -> None:
    second = ["--learning_rate=0.5"]
    codes, _, errors = Together(tmp_path, f"--workdir={tmp_path / 'run'}", second=second).end()
    assert codes == [2, 2]
    assert errors == (
        "Process 1 has learning_rate 0.5, not learning_rate 0.1; start all processes with the same"
        " command, versions and code.\n"
    )
    assert not (tmp_path / "run").exists()


def test_a_failure_of_the_first_process_ends_both_with_one_sentence(tmp_path: Path) -> None:
    run_directory = RunDirectory(tmp_path / "run")
    with run_directory.locked():
        start = time.monotonic()
        codes, _, errors = Together(tmp_path, f"--workdir={run_directory.path}").end()
    assert codes == [1, 1]
    assert errors.count("\n") == errors.count("Another process is training in") == 1
    assert time.monotonic() - start < 60


def no_connection() -> None:
    pytest.fail("It would have connected to other processes.")


@pytest.mark.parametrize(
    ("variables", "flags", "words"),
    [
        ({}, (None, 2, None), "--coordinator, --num_processes and --process_id together"),
        ({}, ("localhost:1", 2, 2), "--process_id is 2; give 0 to 1"),
        ({}, ("localhost", 2, 1), "give HOST:PORT"),
        ({}, ("no.such.host.invalid:1234", 2, 1), "has no address here"),
        (
            {
                "SLURM_JOB_ID": "4097",
                "SLURM_STEP_NODELIST": "no-such-node[07-09],other",
                "SLURM_STEP_NUM_TASKS": "2",
                "SLURM_PROCID": "1",
            },
            (None, None, None),
            "The host of process 0, no-such-node07, has no address here",
        ),
        (
            {
                "JAX_COORDINATOR_PORT": "x",
                "SLURM_JOB_ID": "4097",
                "SLURM_STEP_NODELIST": "localhost",
                "SLURM_STEP_NUM_TASKS": "2",
                "SLURM_PROCID": "1",
            },
            (None, None, None),
            "--coordinator is 'localhost:x'; give HOST:PORT",
        ),
    ],
)
def test_invalid_addresses_and_counts_are_refused_before_connecting(
    variables: dict[str, str],
    flags: tuple[str | None, int | None, int | None],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=words):
        hosts.connect(*flags, before=no_connection)


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1", "SLURM_PROCID": "0"},
        {"SLURM_JOB_ID": "7", "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_NODELIST": "a"},
    ],
)
def test_a_single_process_does_not_connect(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    hosts.connect(None, None, None, before=no_connection)
    hosts.connect("localhost:1", 1, 0, before=no_connection)
    assert (hosts.count(), hosts.is_first()) == (1, True)


def test_a_process_that_srun_did_not_start_warns_that_it_is_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("SLURM_NTASKS", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.setenv(name, "4")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_PROCID", "0")
    hosts.connect(None, None, None, before=no_connection)
    assert "srun did not start this one: running as one process" in caplog.text


def test_a_port_in_use_is_refused() -> None:
    with socket.create_server(("localhost", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Failure, match=rf"^Port {port} can't be used here \(Address already"):
            hosts.connect(f"localhost:{port}", 2, 0, before=no_connection)
