"""What a run's numbers depend on besides its recipe, and in what two of that differ."""

import functools
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from mnist_jax.data import Dataset

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
# What is told of the time when the run began, as long as what it is trained on gives the same
# digits.
_BEGUN = ("device", "seeds_together")
# What is noted once, at the beginning.
_NOTED = ("init_from_sha256",)


def describe_environment(dataset: Dataset, device: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's numbers depend on besides its recipe."""
    return {
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "machine": f"{platform.system()} {platform.machine()}",
        "device": dict(device),
        "git": git_revision(),
        "dataset": dataset.name,
        "dataset_sha256": dataset.sha256,
        "dataset_source": dataset.source,
        "command": sys.argv,
    }


@functools.cache  # The code was loaded once; a later commit does not change what runs.
def git_revision() -> dict[str, Any] | None:
    """Revision of the source, and whether code was changed since; None outside a checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", __file__)  # Installed into another's checkout, perhaps.
        # Code alone: the records of finished runs are not part of what runs.
        changed = git("status", "--porcelain", "--", ":/*.py", ":/requirements.txt")
        return {"revision": git("rev-parse", "HEAD"), "dirty": bool(changed)}
    except (OSError, subprocess.CalledProcessError):
        return None


def as_begun(last: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """The environment as it is now, with what is kept of the one in which a run began.

    Args:
      last: of the run so far; empty before it begins.
      now: in which it begins or goes on.
    """
    same = gives_same_digits(last.get("device"), now["device"])
    kept = (*_NOTED, *(_BEGUN if same else ()))
    begun = {name: last[name] for name in kept if name in last}
    if same:  # With what an older version did not describe.
        begun["device"] = {**now["device"], **last["device"]}
    return {**now, **begun}


def gives_same_digits(device: Any, other: Mapping[str, Any]) -> bool:
    """Whether `other` differs from a device only in what was trained beside a run.

    What an older version did not describe counts as the same.
    """
    if not isinstance(device, dict) or not isinstance(device.get("mesh"), dict):
        return False
    mesh = {**other.get("mesh", {}), "seed": device["mesh"].get("seed")}
    return device == {name: {**other, "mesh": mesh}.get(name) for name in device}


def difference(values: Any, others: Any) -> str:
    """What JSON values have that others have not, in words, such as "device mesh data 2"."""
    if not isinstance(values, dict) or not isinstance(others, dict):
        return str(values)
    return ", ".join(
        f"{name} {difference(values.get(name), others.get(name))}"
        for name in {**values, **others}
        if values.get(name) != others.get(name)
    )
