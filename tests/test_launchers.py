"""What launchers say about the processes of a run."""

import pytest

from mnist_jax import launchers

MPIRUN = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3"}
# Of the daemons that mpirun starts with srun, one per node.
DAEMON = {"SLURM_STEP_NODELIST": "n[1-2]", "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1"}
BATCH_SCRIPT = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"}


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in MPIRUN | DAEMON | {"PMI_SIZE": "", "PMI_RANK": "", "JAX_COORDINATOR_PORT": ""}:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        (MPIRUN, ("Open MPI", 4, 3)),
        (MPIRUN | DAEMON, ("Open MPI", 4, 3)),
        (MPIRUN | {"OMPI_COMM_WORLD_SIZE": "1"}, None),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, None),
        ({"PMI_SIZE": "2", "PMI_RANK": "0"}, ("MPI", 2, 0)),
        ({"PMI_SIZE": "2", "PMI_RANK": "-1"}, None),
        (DAEMON, ("Slurm", 2, 1)),
        (BATCH_SCRIPT, None),
    ],
)
def test_a_process_knows_its_place(
    variables: dict[str, str],
    expected: tuple[str, int, int] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert launchers.launched() == expected


@pytest.mark.parametrize(
    ("nodes", "port", "expected"),
    [
        ("n1", None, "n1:61441"),
        ("gpu-a[07-09,12],gpu-b3", None, "gpu-a07:61441"),
        ("n3,n1", "1234", "n3:1234"),
    ],
)
def test_the_coordinator_is_on_the_first_node(
    nodes: str, port: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_STEP_NODELIST", nodes)
    monkeypatch.setenv("SLURM_JOB_ID", str(3 * 4096 + 1))
    if port:
        monkeypatch.setenv("JAX_COORDINATOR_PORT", port)
    assert launchers.slurm_coordinator() == expected
