"""A Slurm cluster of two virtual nodes on this machine, independent of system services."""

import contextlib
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd")
# Daemons are in folders that an ordinary user's PATH lacks.
_PATH = f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin"
# Seconds before a requeued job restarts, and between SIGTERM and SIGKILL.
_REQUEUE, _KILL = 5, 20
# Seconds that anything waited for may take.
_PATIENCE = 400

_CONFIGURATION = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock,cred_expire={requeue}
CredType=cred/munge
SlurmctldPort={ports[0]}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdSpoolDir={folder}/spool-%n
StateSaveLocation={folder}/state
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2
ReturnToService=2
KillWait={kill}
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 RealMemory=8000
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 RealMemory=8000
PartitionName=all Nodes=node1,node2 Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> list[str]:
    """The programs that are not installed."""
    return [program for program in PROGRAMS if not shutil.which(program, path=_PATH)]


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Mapping[str, str]]:
    """Runs a cluster in a folder; yields the environment for Slurm's commands."""
    for name in ("state", "spool-node1", "spool-node2"):
        (folder / name).mkdir(mode=0o755)
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o600)
    configuration = folder / "slurm.conf"
    configuration.write_text(
        _CONFIGURATION.format(
            host=socket.gethostname().partition(".")[0],
            user=getpass.getuser(),
            folder=folder,
            ports=free_ports(3),
            requeue=_REQUEUE,
            kill=_KILL,
        )
    )
    env = {**os.environ, "PATH": _PATH, "SLURM_CONF": str(configuration)}
    munge = [f"--key-file={key}", f"--socket={folder}/munge.sock"]
    munge += [f"--{name}-file={folder}/munge.{name}" for name in ("pid", "log", "seed")]
    commands = [
        ["munged", "--foreground", "--force", *munge],
        ["slurmctld", "-D"],
        ["slurmd", "-D", "-N", "node1"],
        ["slurmd", "-D", "-N", "node2"],
    ]
    with contextlib.ExitStack() as stack:
        for command in commands:
            stack.enter_context(_daemon(command, env, folder))
            if command[0] == "munged":
                wait_for("munge starts", (folder / "munge.sock").exists)
        nodes = ("sinfo", "--noheader", "--format=%t %D")
        wait_for("Slurm starts", lambda: call(env, *nodes).strip() == "idle 2")
        try:
            yield env
        finally:  # Jobs can't be cancelled without the daemons.
            call(env, "scancel", f"--user={getpass.getuser()}")
            wait_for("nothing runs", lambda: not call(env, "squeue", "--noheader"))


@contextlib.contextmanager
def _daemon(command: list[str], env: Mapping[str, str], folder: Path) -> Iterator[None]:
    with (folder / "daemons.log").open("a") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, cwd=folder)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def fail_node(env: Mapping[str, str], node: str) -> None:
    """Kills all processes of a node, as a power failure does, and marks it as down in Slurm."""
    jobs = call(env, "squeue", "--noheader", f"--nodelist={node}", "--format=%A").split()
    steps = tuple(f"slurmstepd: [{job}." for job in jobs)
    # The daemons first, which would otherwise report the end of the other processes.
    for daemons in (True, False):
        for process in Path("/proc").glob("[0-9]*"):
            try:
                command = (process / "cmdline").read_bytes().decode().split("\0")
                variables = (process / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            daemon = command[:4] == ["slurmd", "-D", "-N", node] or command[0].startswith(steps)
            ours = f"SLURM_CONF={env['SLURM_CONF']}".encode() in variables
            if ours and (daemon if daemons else f"SLURMD_NODENAME={node}".encode() in variables):
                os.kill(int(process.name), signal.SIGKILL)
    call(env, "scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=lost")


def call(env: Mapping[str, str], *command: str, stdin: str | None = None) -> str:
    """The output of a Slurm command; empty if it fails, as it does before the daemons listen."""
    done = subprocess.run(
        command, env=env, input=stdin, capture_output=True, text=True, check=False
    )
    return done.stdout if not done.returncode else ""


def wait_for(what: str, condition: Callable[[], object]) -> None:
    """Waits until a condition holds."""
    end = time.monotonic() + _PATIENCE
    while not condition():
        assert time.monotonic() < end, f"not within {_PATIENCE} s: {what}"
        time.sleep(0.2)


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
