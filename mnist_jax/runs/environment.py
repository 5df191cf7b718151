"""The environment that a run's numbers depend on besides its recipe, and how two differ."""

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
# Recorded when the run begins, and kept as long as its devices give the same digits.
_BEGUN = ("device", "seeds_together")
# Recorded once, at the beginning.
_NOTED = ("init_from_sha256",)


def describe_environment(dataset: Dataset, device: Mapping[str, Any]) -> dict[str, Any]:
    """Describes what a run's numbers depend on besides its recipe."""
    return {
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "machine": f"{platform.system()} {platform.machine()}",
        "device": dict(device),
        "git": git_revision(),
        "dataset": dataset.name,
        "dataset_sha256": dataset.sha256,
        "dataset_source": dataset.source,
        "train_images": len(dataset.train),
        "command": sys.argv,
    }


@functools.cache  # The code is loaded already; a later commit does not change what runs.
def git_revision() -> dict[str, Any] | None:
    """The source's revision, and whether code was changed since; None outside a checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        # Fails if the package is installed inside another project's checkout.
        git("ls-files", "--error-unmatch", __file__)
        # Code only: the records of finished runs are not part of what runs.
        changed = git("status", "--porcelain", "--", ":/*.py", ":/requirements.txt")
        return {"revision": git("rev-parse", "HEAD"), "dirty": bool(changed)}
    except (OSError, subprocess.CalledProcessError):
        return None


def as_begun(last: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """The current environment, with what is kept of the one in which a run began.

    Args:
      last: the run's environment so far; empty before it begins.
      now: the environment in which it begins or resumes.
    """
    same = gives_same_digits(last.get("device"), now["device"])
    kept = (*_NOTED, *(_BEGUN if same else ()))
    begun = {name: last[name] for name in kept if name in last}
    if same:  # Adds what an older version did not describe.
        begun["device"] = {**now["device"], **last["device"]}
    return {**now, **begun}


def gives_same_digits(device: Any, other: Mapping[str, Any]) -> bool:
    """Whether `other` differs from `device` only in the seeds trained beside a run.

    Properties that an older version did not describe count as the same.
    """
    if not isinstance(device, dict) or not isinstance(device.get("mesh"), dict):
        return False
    mesh = {**other.get("mesh", {}), "seed": device["mesh"].get("seed")}
    return device == {name: {**other, "mesh": mesh}.get(name) for name in device}


def difference(values: Any, others: Any) -> str:
    """What in JSON values differs from others, in words, such as "device mesh data 2"."""
    if not isinstance(values, dict) or not isinstance(others, dict):
        return str(values)
    return ", ".join(
        f"{name} {difference(values.get(name), others.get(name))}"
        for name in {**values, **others}
        if values.get(name) != others.get(name)
    )
