"""The number of processes, index and coordinator address that a launcher sets for a process."""

import os
import re
import socket
from importlib.util import find_spec
from pathlib import Path

from mnist_jax.errors import Failure, UsageError

# Variables for the number of processes and a process's index. Slurm comes last: when mpirun starts
# its daemons with srun, Slurm's variables describe the daemons.
_LAUNCHERS = {
    "Open MPI": ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    "MPI": ("PMI_SIZE", "PMI_RANK"),
    "Slurm": ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
}
# Set only in a job step, unlike Slurm variables that are set in the job script too.
_STEP = "SLURM_STEP_NODELIST"


def launched() -> tuple[str, int, int] | None:
    """The launcher, number of processes and index of this one; None if not one of several."""
    for launcher, names in _LAUNCHERS.items():
        values = [os.environ.get(name, "") for name in names]
        if launcher == "Slurm" and not in_slurm_step():
            continue
        if all(value.isdecimal() for value in values) and int(values[0]) > 1:
            return launcher, int(values[0]), int(values[1])
    return None


def in_slurm_step() -> bool:
    """Whether Slurm started this process as part of a job step."""
    return _STEP in os.environ


def on_tpu() -> bool:
    """Whether this is a machine with TPUs, which may be one of several."""
    there = [*Path("/dev").glob("accel*"), *Path("/dev").glob("vfio/[0-9]*")]
    return bool(there) and find_spec("libtpu") is not None


def slurm_coordinator() -> str:
    """HOST:PORT of a job step's first process, as JAX would choose it.

    Computed here so that it can be checked first: JAX would end the process.
    """
    nodes = re.match(r"([^,\[]+)(?:\[([^,\-\]]+))?", os.environ[_STEP])
    assert nodes is not None
    chosen = os.environ.get("JAX_COORDINATOR_PORT")
    port = chosen or 61440 + int(os.environ["SLURM_JOB_ID"]) % 4096
    return f"{nodes[1]}{nodes[2] or ''}:{port}"


def check_address(coordinator: str, *, is_here: bool) -> None:
    """Rejects addresses with which JAX would end the process silently, or only after minutes.

    Args:
      coordinator: HOST:PORT, as given.
      is_here: whether this process is the coordinator.

    Raises:
      UsageError: it is not HOST:PORT, or the host has no address.
      Failure: the port can't be used.
    """
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UsageError(f"--coordinator is {coordinator!r}; give HOST:PORT of process 0.")
    try:
        socket.getaddrinfo(host.strip("[]"), None)
    except OSError as error:
        raise UsageError(
            f"The host of process 0, {host}, has no address here ({error.strerror});"
            " give --coordinator=ADDRESS:PORT."
        ) from error
    if is_here:
        # Not `has_ipv6`, which says how Python was built.
        family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
        with socket.socket(family) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind(("", int(port)))
            except OSError as error:
                raise Failure(
                    f"Port {port} can't be used here ({error.strerror});"
                    " give all processes another --coordinator=HOST:PORT."
                ) from error
