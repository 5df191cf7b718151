"""The processes that train one run together: how they meet, agree, and end.

One process, which is the usual case, meets nobody: then nothing here does anything. Of several,
the first reads and writes the run's files and tells the others what is in them.
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

# Milliseconds in which a process may not notice that it is to end.
_GLANCE = 300
# Seconds: for all to come; for what one has to tell, if it lives; without a sign of life from one;
# for all to read that the run ends; for the first process to say why itself.
_MEETING = 300
_PATIENCE = 3600
_SILENCE = 30
_FAREWELL = 5
_TURN = 2

# What JAX says of a process that is not there.
_SIGNS = ("distributed service", "Gloo", "NCCL", "coordination service", "Connection reset")

# Where it is written that the run ends: the exit code.
_END = "mnist_jax/end"


@dataclass
class _Meeting:
    """What a process knows of a run of several.

    Attributes:
      index: which one it is; 0 is the first.
      count: how many there are.
      client: JAX's, of the coordination service that the first one runs.
      ending: whether this process ends, and knows why.
      speaking: held by the thread that says so.
      talks: how often they have talked.
      heard: what the first one has told since it last heard of all others.
    """

    index: int
    count: int
    client: Any = None
    ending: threading.Event = field(default_factory=threading.Event)
    speaking: threading.Lock = field(default_factory=threading.Lock)
    talks: int = 0
    heard: list[str] = field(default_factory=list)

    def next_name(self) -> str:
        """For what they say to each other next, the same in all of them."""
        self.talks += 1
        return f"mnist_jax/{self.talks}"


_meeting: _Meeting | None = None


def count() -> int:
    """How many processes train together."""
    return _meeting.count if _meeting else 1


def index() -> int:
    """Which of them this one is."""
    return _meeting.index if _meeting else 0


def is_first() -> bool:
    """Whether this process reads and writes the run's files, and shows how far it is."""
    return index() == 0


def launched_as() -> int:
    """Which process this one is by its launcher, which gives the same command to all."""
    launched = launchers.launched()
    return launched[2] if launched else 0


def meet(
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    *,
    before: Callable[[], None] = lambda: None,
) -> None:
    """Waits for the other processes of this run, if there are any, before a device is touched.

    What is not given is as the launcher says: srun, mpirun, or a TPU pod.

    Args:
      coordinator: HOST:PORT at which the first process can be reached.
      num_processes: how many there are.
      process_id: which of them this one is.
      before: called where there are any, before JAX looks for them.

    Raises:
      UsageError: something is missing, or makes no sense.
      Failure: they can't meet.
    """
    launcher, launched_count, launched_index = launchers.launched() or ("", None, None)
    total = launched_count if num_processes is None else num_processes
    mine = launched_index if process_id is None else process_id
    if total == 1:
        return
    if total is None and coordinator is None and process_id is None:
        if "SLURM_JOB_ID" in os.environ and int(os.environ.get("SLURM_NTASKS") or 1) > 1:
            logging.warning(
                "A job of several tasks, but not started by srun: going on as one process."
            )
        if not launchers.on_tpu():
            return
    elif total is None or mine is None:
        raise UsageError("Give --coordinator, --num_processes and --process_id together.")
    elif not 0 <= mine < total:
        raise UsageError(f"--process_id is {mine}; give 0 to {total - 1}, as many as there are.")
    in_step = launchers.in_slurm_step() and launcher != "Open MPI"
    if coordinator is None and total is not None and in_step:
        coordinator = launchers.slurm_coordinator()
    if coordinator is not None:
        launchers.check_address(coordinator, is_here=mine == 0)
    before()
    _initialize(coordinator, total, mine, detect=in_step or launcher == "Open MPI")


def _initialize(coordinator: str | None, total: int | None, mine: int | None, detect: bool) -> None:
    global _meeting
    import jax

    _meeting = _Meeting(mine or 0, total or 0)
    try:
        jax.distributed.initialize(
            coordinator,
            total,
            mine,
            # It has more to say only where a launcher or a pod does.
            cluster_detection_method=None if detect or total is None else "deactivate",
            initialization_timeout=_MEETING,
            heartbeat_timeout_seconds=_SILENCE,
        )
    except (RuntimeError, ValueError) as error:
        _meeting = None
        if total is None and isinstance(error, ValueError):
            return  # One machine with TPUs of its own.
        reason = str(error).partition("\n")[0].rstrip(".")
        raise Failure(
            f"The processes of this run can't meet ({reason}); give --coordinator=HOST:PORT,"
            " --num_processes and --process_id."
        ) from error
    # There is no public way to the store that JAX keeps for its processes.
    state = importlib.import_module("jax._src.distributed").global_state
    _meeting = _Meeting(state.process_id, state.num_processes, state.client)
    if _meeting.count == 1:
        _meeting = None
    else:
        _start_watch(_meeting, jax.distributed.shutdown)


def told(value: T) -> T:
    """The first process's value, of JSON's types, in all of them; all call it alike."""
    if _meeting is None:
        return value
    name = _meeting.next_name()
    if is_first():
        _meeting.client.key_value_set(name, json.dumps(value))
        _meeting.heard.append(name)
    answer: T = json.loads(_meeting.client.blocking_key_value_get(name, 1000 * _PATIENCE))
    return answer


def gathered(value: T) -> list[T]:
    """In the first process what each of them has, of JSON's types; in the others nothing."""
    if _meeting is None:
        return [value]
    name = _meeting.next_name()
    if not is_first():
        _meeting.client.key_value_set(f"{name}/{index()}", json.dumps(value))
        return []
    values = [value]
    for other in range(1, _meeting.count):
        text = _meeting.client.blocking_key_value_get(f"{name}/{other}", 1000 * _PATIENCE)
        values.append(json.loads(text))
    for old in (*_meeting.heard, name):  # Who has come here has heard what was told before.
        _meeting.client.key_value_delete(old)
    _meeting.heard.clear()
    return values


def wait_for_all() -> None:
    """Waits until all processes are here.

    Collectives on CPUs fail where one process comes to them half a minute before another, such
    as one that found in a cache what the other compiles.
    """
    if _meeting is not None:
        _meeting.client.wait_at_barrier(_meeting.next_name(), 1000 * _PATIENCE)


def check_same(facts: Mapping[str, Any], difference: Callable[[Any, Any], str]) -> None:
    """Makes sure that all processes have the same facts, of JSON's types.

    Args:
      facts: of this process.
      difference: what JSON values have that others have not, in words.

    Raises:
      UsageError: in the first process, another one has others.
    """
    for place, other in enumerate(gathered(facts)):
        if other != facts:
            raise UsageError(
                f"Process {place} has {difference(other, facts)}, not"
                f" {difference(facts, other)}; start all processes with the same command,"
                " versions and code."
            )


def _start_watch(meeting: _Meeting, shutdown: Callable[[], None]) -> Callable[[], None]:
    """Has a thread watch until this process ends; what is returned is called then.

    Args:
      meeting: that it watches.
      shutdown: waits for the other processes, one of which may still say that the run ends.
    """
    watching = threading.Thread(target=_watch, args=(meeting,), daemon=True)
    watching.start()

    def end() -> None:
        try:
            shutdown()
        finally:
            meeting.ending.set()
            watching.join()

    # A thread that is within JAX's client when Python ends may crash the process.
    atexit.register(end)
    return end


def _watch(meeting: _Meeting) -> None:
    """Ends this process as soon as another one has said that the run ends."""
    while not meeting.ending.is_set():
        with contextlib.suppress(Exception):  # Not yet; or the first one is gone, as JAX will say.
            code = int(meeting.client.blocking_key_value_get(_END, _GLANCE))
            if not meeting.ending.is_set():
                _leave(meeting, code)
            return
        meeting.ending.wait(0.1)


def is_to_say_why(code: int) -> bool:
    """Whether this process is the one that says why all of them end with this exit code.

    Whoever fails first says it; the others hear of it, and end in silence.
    """
    if _meeting is None:
        return True
    _meeting.ending.set()
    if not is_first():
        time.sleep(_TURN)  # What fails in all of them, the first one says.
    try:
        _meeting.client.key_value_set(_END, str(code))
    except RuntimeError as error:
        # The first one may be gone, and nobody can say who speaks.
        if "ALREADY_EXISTS" in str(error) or index() != 1:
            return False
    return _meeting.speaking.acquire(blocking=False)


def leave(code: int) -> None:
    """Ends this process after `is_to_say_why`, once the others know; nothing if it is alone."""
    if _meeting is None:
        return
    if is_first():  # With it goes what tells them.
        until = time.monotonic() + _FAREWELL
        for other in range(1, _meeting.count):
            left = max(1, round(1000 * (until - time.monotonic())))
            with contextlib.suppress(RuntimeError):
                _meeting.client.blocking_key_value_get(f"mnist_jax/left/{other}", left)
    _leave(_meeting, code)


def _leave(meeting: _Meeting, code: int) -> None:
    with contextlib.suppress(RuntimeError):
        meeting.client.key_value_set(f"mnist_jax/left/{meeting.index}", "")
    os._exit(code)  # JAX would wait for all others to end as well.


def why_lost(text: str) -> str | None:
    """The sentence for what JAX says where another process is not there any more, or not yet.

    Args:
      text: of an exception, or of what JAX writes before it ends the process.

    Returns:
      None where it is about something else.
    """
    if _meeting is None or not any(sign in text for sign in _SIGNS):
        return None
    if _meeting.client is None:
        state = importlib.import_module("jax._src.distributed").global_state
        return (
            f"Not all {_meeting.count} processes came to {state.coordinator_address} within"
            f" {_MEETING} s; start every one, with the same command but for --process_id, where"
            " this address can be reached."
        )
    silent = re.search(r"heartbeats\):\s*(\d+)", text)
    who = (
        f"Process {silent[1]}" if silent else "Process 0" if "leader" in text else "Another process"
    )
    reason = text.partition("\n")[0].rpartition("] ")[2].rstrip(".") if "Gloo" in text else ""
    return (
        f"{who} of this run's {_meeting.count} has ended or can't be reached"
        f"{f' ({reason})' if reason else ''};"
        " start all of them again with the same command to go on from the last checkpoint."
    )


def last_words(text: str) -> str | None:
    """The sentence for what JAX has written before it aborts; it can't be asked any more.

    Args:
      text: that it has written.

    Returns:
      None where it is about something else; empty where another process says so.
    """
    sentence = why_lost(text)
    if _meeting is None or sentence is None:
        return None
    _meeting.ending.set()
    # Of those that have not met one says so, or two; where the first is gone, the second does.
    speaks = is_first() or (index() == 1 and (_meeting.client is None or "leader" in text))
    if not _meeting.speaking.acquire(blocking=False):
        time.sleep(_TURN)  # Another thread is at it.
        return ""
    return sentence if speaks else ""
