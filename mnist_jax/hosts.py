"""Coordination of the processes that train one run: start-up, communication and shutdown.

With a single process, the usual case, none of these functions has an effect. Otherwise the first
process reads and writes the run's files, and sends the others what they need from them.
"""

import atexit
import contextlib
import importlib
import json
import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from absl import logging

from mnist_jax import launchers
from mnist_jax.errors import Failure, UsageError

T = TypeVar("T")

# Milliseconds that a process polls for the end of the run before it checks its own state.
_POLL_MS = 300
# Timeouts in seconds: for all processes to connect; for a message from a live process; for a
# heartbeat; for all to read that the run ends. Then the delay that lets the first process report.
_CONNECT_TIMEOUT = 300
_MESSAGE_TIMEOUT = 3600
_HEARTBEAT_TIMEOUT = 30
_SHUTDOWN_TIMEOUT = 5
_REPORT_DELAY = 2

# What JAX's errors about an unreachable process contain.
_SIGNS = ("distributed service", "Gloo", "NCCL", "coordination service", "Connection reset")

# Key of the exit code with which the run ends.
_END = "mnist_jax/end"


@dataclass
class _ProcessGroup:
    """A process's state in a run of several processes.

    Attributes:
      index: this process's index; 0 is the first.
      count: the number of processes.
      client: JAX's client of the coordination service, which the first process runs.
      ending: set once this process is ending, for a known reason.
      reporting: held by the thread that reports the reason.
      messages: the number of messages so far.
      pending: broadcast keys that the first process has yet to delete, once all have read them.
    """

    index: int
    count: int
    client: Any = None
    ending: threading.Event = field(default_factory=threading.Event)
    reporting: threading.Lock = field(default_factory=threading.Lock)
    messages: int = 0
    pending: list[str] = field(default_factory=list)

    def next_key(self) -> str:
        """The key of the next message, the same in all processes."""
        self.messages += 1
        return f"mnist_jax/{self.messages}"


_group: _ProcessGroup | None = None


def count() -> int:
    """The number of processes that train together."""
    return _group.count if _group else 1


def index() -> int:
    """The index of this process."""
    return _group.index if _group else 0


def is_first() -> bool:
    """Whether this process reads and writes the run's files and shows its progress."""
    return index() == 0


def launched_as() -> int:
    """This process's index according to its launcher, which gives the same command to all."""
    launched = launchers.launched()
    return launched[2] if launched else 0


def connect(
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    *,
    before: Callable[[], None] = lambda: None,
) -> None:
    """Waits for the other processes of this run, if there are any, before a device is touched.

    Values that are not given come from the launcher: srun, mpirun, or a TPU pod.

    Args:
      coordinator: HOST:PORT at which the first process can be reached.
      num_processes: the number of processes.
      process_id: the index of this process.
      before: called if there are other processes, before JAX connects to them.

    Raises:
      UsageError: a value is missing or invalid.
      Failure: the processes can't connect.
    """
    launcher, launched_count, launched_index = launchers.launched() or ("", None, None)
    total = launched_count if num_processes is None else num_processes
    mine = launched_index if process_id is None else process_id
    if total == 1:
        return
    if total is None and coordinator is None and process_id is None:
        if "SLURM_JOB_ID" in os.environ and int(os.environ.get("SLURM_NTASKS") or 1) > 1:
            logging.warning(
                "The job has several tasks, but srun did not start this one: running as one"
                " process."
            )
        if not launchers.on_tpu():
            return
    elif total is None or mine is None:
        raise UsageError("Give --coordinator, --num_processes and --process_id together.")
    elif not 0 <= mine < total:
        raise UsageError(f"--process_id is {mine}; give 0 to {total - 1} for {total} processes.")
    in_step = launchers.in_slurm_step() and launcher != "Open MPI"
    if coordinator is None and total is not None and in_step:
        coordinator = launchers.slurm_coordinator()
    if coordinator is not None:
        launchers.check_address(coordinator, is_here=mine == 0)
    before()
    _initialize(coordinator, total, mine, detect=in_step or launcher == "Open MPI")


def _initialize(coordinator: str | None, total: int | None, mine: int | None, detect: bool) -> None:
    global _group
    import jax

    _group = _ProcessGroup(mine or 0, total or 0)
    try:
        jax.distributed.initialize(
            coordinator,
            total,
            mine,
            # Detection adds something only under a launcher or on a pod.
            cluster_detection_method=None if detect or total is None else "deactivate",
            initialization_timeout=_CONNECT_TIMEOUT,
            heartbeat_timeout_seconds=_HEARTBEAT_TIMEOUT,
        )
    except (RuntimeError, ValueError) as error:
        _group = None
        if total is None and isinstance(error, ValueError):
            return  # A single machine with its own TPUs.
        reason = str(error).partition("\n")[0].rstrip(".")
        raise Failure(
            f"The processes of this run can't connect ({reason}); give --coordinator=HOST:PORT,"
            " --num_processes and --process_id."
        ) from error
    # There is no public API for the key-value store that JAX's processes share.
    state = importlib.import_module("jax._src.distributed").global_state
    _group = _ProcessGroup(state.process_id, state.num_processes, state.client)
    if _group.count == 1:
        _group = None
    else:
        _start_watch(_group, jax.distributed.shutdown)


def broadcast(value: T) -> T:
    """Broadcasts the first process's value, of JSON types; all processes must call it."""
    if _group is None:
        return value
    name = _group.next_key()
    if is_first():
        _group.client.key_value_set(name, json.dumps(value))
        _group.pending.append(name)
    answer: T = json.loads(_group.client.blocking_key_value_get(name, 1000 * _MESSAGE_TIMEOUT))
    return answer


def gather(value: T) -> list[T]:
    """Gathers every process's value, of JSON types, in the first; returns [] in the others."""
    if _group is None:
        return [value]
    name = _group.next_key()
    if not is_first():
        _group.client.key_value_set(f"{name}/{index()}", json.dumps(value))
        return []
    values = [value]
    for other in range(1, _group.count):
        text = _group.client.blocking_key_value_get(f"{name}/{other}", 1000 * _MESSAGE_TIMEOUT)
        values.append(json.loads(text))
    for old in (*_group.pending, name):  # Who sent this has read all earlier messages.
        _group.client.key_value_delete(old)
    _group.pending.clear()
    return values


def barrier() -> None:
    """Waits until all processes have reached this point.

    Collectives on CPUs fail if a process reaches them half a minute before another, for example
    because it found in its cache what the other has to compile.
    """
    if _group is not None:
        _group.client.wait_at_barrier(_group.next_key(), 1000 * _MESSAGE_TIMEOUT)


def check_same(facts: Mapping[str, Any], difference: Callable[[Any, Any], str]) -> None:
    """Checks that all processes have the same facts, of JSON types.

    Args:
      facts: those of this process.
      difference: describes how its first argument differs from its second.

    Raises:
      UsageError: in the first process, if another process's facts differ.
    """
    for place, other in enumerate(gather(facts)):
        if other != facts:
            raise UsageError(
                f"Process {place} has {difference(other, facts)}, not"
                f" {difference(facts, other)}; start all processes with the same command,"
                " versions and code."
            )


def _start_watch(group: _ProcessGroup, shutdown: Callable[[], None]) -> Callable[[], None]:
    """Starts a thread that watches for the end of the run; returns a function that stops it.

    The function is also called when this process exits.

    Args:
      group: the state of this process.
      shutdown: waits for the other processes, any of which may still end the run.
    """
    watching = threading.Thread(target=_watch, args=(group,), daemon=True)
    watching.start()

    def end() -> None:
        try:
            shutdown()
        finally:
            group.ending.set()
            watching.join()

    # A thread inside JAX's client when Python exits may crash the process.
    atexit.register(end)
    return end


def _watch(group: _ProcessGroup) -> None:
    """Ends this process as soon as another one has announced the end of the run."""
    while not group.ending.is_set():
        # Not yet; or the first process is lost, which JAX will report.
        with contextlib.suppress(Exception):
            code = int(group.client.blocking_key_value_get(_END, _POLL_MS))
            if not group.ending.is_set():
                _leave(group, code)
            return
        group.ending.wait(0.1)


def announce_end(code: int) -> bool:
    """Announces the end of the run; returns whether this process is to report the reason.

    The process that fails first reports it; the others learn of it and end silently.
    """
    if _group is None:
        return True
    _group.ending.set()
    if not is_first():
        time.sleep(_REPORT_DELAY)  # The first process reports what fails in all of them.
    try:
        _group.client.key_value_set(_END, str(code))
    except RuntimeError as error:
        # If the first process is lost, the second one reports.
        if "ALREADY_EXISTS" in str(error) or index() != 1:
            return False
    return _group.reporting.acquire(blocking=False)


def leave(code: int) -> None:
    """Ends this process after `announce_end`, once the others know; does nothing if alone."""
    if _group is None:
        return
    if is_first():  # The coordination service that informs the others ends with it.
        until = time.monotonic() + _SHUTDOWN_TIMEOUT
        for other in range(1, _group.count):
            left = max(1, round(1000 * (until - time.monotonic())))
            with contextlib.suppress(RuntimeError):
                _group.client.blocking_key_value_get(f"mnist_jax/left/{other}", left)
    _leave(_group, code)


def _leave(group: _ProcessGroup, code: int) -> None:
    with contextlib.suppress(RuntimeError):
        group.client.key_value_set(f"mnist_jax/left/{group.index}", "")
    os._exit(code)  # JAX would wait for all others to end as well.


def lost_process_message(text: str) -> str | None:
    """The error message for a JAX error about a process that is lost or has not connected.

    Args:
      text: an exception's text, or what JAX writes before it aborts the process.

    Returns:
      The message, or None if the text is about something else.
    """
    if _group is None or not any(sign in text for sign in _SIGNS):
        return None
    if _group.client is None:
        state = importlib.import_module("jax._src.distributed").global_state
        return (
            f"Not all {_group.count} processes connected to {state.coordinator_address} within"
            f" {_CONNECT_TIMEOUT} s; start each one where this address can be reached, with the"
            " same command except for --process_id."
        )
    silent = re.search(r"heartbeats\):\s*(\d+)", text)
    who = (
        f"Process {silent[1]}" if silent else "Process 0" if "leader" in text else "Another process"
    )
    reason = text.partition("\n")[0].rpartition("] ")[2].rstrip(".") if "Gloo" in text else ""
    return (
        f"{who} of this run's {_group.count} has ended or can't be reached"
        f"{f' ({reason})' if reason else ''};"
        " start all of them again with the same command to resume from the last checkpoint."
    )


def abort_message(text: str) -> str | None:
    """The error message for what JAX has written before it aborts, when its API is unusable.

    Args:
      text: what JAX has written.

    Returns:
      The message; None if the text is about something else; empty if another process reports it.
    """
    sentence = lost_process_message(text)
    if _group is None or sentence is None:
        return None
    _group.ending.set()
    # If processes never connected, one or two report it; if the first is lost, the second does.
    reports = is_first() or (index() == 1 and (_group.client is None or "leader" in text))
    if not _group.reporting.acquire(blocking=False):
        time.sleep(_REPORT_DELAY)  # Another thread is reporting it.
        return ""
    return sentence if reports else ""
