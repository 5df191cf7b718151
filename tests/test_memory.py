"""The memory that several seeds need at least, compared with what is available."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import pytest

from mnist_jax.errors import UsageError
from mnist_jax.recipe import Recipe
from mnist_jax.training import devices
from mnist_jax.training.trainer import check_memory

ADAM = Recipe(model="dense", batch_size=10, epochs=1, learning_rate=0.1, optimizer="adam")
# In bytes. Adam keeps two moments of each parameter, and its number of steps.
PARAMS = 4 * (784 * 100 + 100 + 100 * 10 + 10)
SAVED = 3 * PARAMS + 4


@dataclass
class Accelerator:
    limit: int | None
    platform: str = "gpu"

    def memory_stats(self) -> dict[str, int] | None:
        return None if self.limit is None else {"bytes_limit": self.limit}


def test_seeds_may_need_all_the_memory_but_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = 5 * (SAVED + PARAMS + 2 * SAVED)
    monkeypatch.setattr(devices, "_host_memory", lambda: needed)
    check_memory(ADAM, 5)
    monkeypatch.setattr(devices, "_host_memory", lambda: needed - 1)
    with pytest.raises(UsageError, match=r"^5 seeds of dense need about 0\.0 GiB, but cpu has"):
        check_memory(ADAM, 5)
    monkeypatch.setattr(devices, "_host_memory", lambda: 0)
    check_memory(ADAM, 1)  # One seed is never refused here.
    check_memory(dataclasses.replace(ADAM, validation=100, patience=1), 5)  # One by one.


@pytest.mark.parametrize(
    ("limits", "host", "place"),
    [
        ([2 * (SAVED + PARAMS), 2 * (SAVED + PARAMS)], 8 * SAVED, None),
        ([2 * (SAVED + PARAMS), 2 * (SAVED + PARAMS) - 1], 8 * SAVED, "gpu"),
        ([2 * (SAVED + PARAMS), None], 8 * SAVED, None),
        ([None, None], 8 * SAVED - 1, "the host"),
    ],
)
def test_states_count_on_accelerators_and_saved_copies_on_the_host(
    limits: list[int | None], host: int, place: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    accelerators: list[Any] = [Accelerator(limit) for limit in limits]
    monkeypatch.setattr(jax, "local_devices", lambda: accelerators)
    monkeypatch.setattr(devices, "_host_memory", lambda: host)
    if place is None:
        check_memory(ADAM, 4)
    else:
        with pytest.raises(UsageError, match=f"but {place} has"):
            check_memory(ADAM, 4)


def test_a_container_s_memory_limit_is_respected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "none").write_text("max\n")
    monkeypatch.setattr(devices, "_CGROUP_LIMITS", (tmp_path / "none", tmp_path / "missing"))
    assert devices._host_memory() > 2**20
    (tmp_path / "limit").write_text("1048576\n")
    monkeypatch.setattr(devices, "_CGROUP_LIMITS", (tmp_path / "none", tmp_path / "limit"))
    assert devices._host_memory() == 2**20
