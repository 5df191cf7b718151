"""The counts of `make faults`, stored in docs/faults.json, and the page that shows them."""

import datetime
import json
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from experiments.evidence import sections
from mnist_jax.files import write_text

_PROJECT = Path(__file__).parents[1]
COUNTS = _PROJECT / "docs" / "faults.json"
PAGE = _PROJECT / "docs" / "robustness.md"

_WORDS = {
    "disks full": "full disks",
    "of them during a save": "processes killed during a save",
    "losses of power": "power failures",
    "failures of a file operation": "faults of a file operation",
    "that did not come about": "that did not occur",
    "milliseconds to the end": "milliseconds from the error to the end",
}


def record(module: str, counts: Mapping[str, int]) -> None:
    """Stores the counts of a test module, and writes the page."""
    stored: dict[str, Any] = json.loads(COUNTS.read_text()) if COUNTS.exists() else {}
    stored[module] = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "revision": _revision(),
        "python": platform.python_version(),
        "packages": {n: metadata.version(n) for n in ("jax", "orbax-checkpoint", "tensorstore")},
        "machine": f"{platform.system()} {platform.machine()}",
        "counts": dict(sorted(counts.items())),
    }
    write_text(COUNTS, json.dumps(dict(sorted(stored.items())), indent=2) + "\n")
    write_text(PAGE, page())


def _revision() -> str:
    """The commit, marked as dirty if files differ from it other than those written here."""

    def git(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["git", "-C", str(_PROJECT), *command], capture_output=True, text=True, check=False
        )

    others = (f":!{path.relative_to(_PROJECT)}" for path in (COUNTS, PAGE))
    dirty = git("diff", "--quiet", "HEAD", "--", ".", *others).returncode
    return git("rev-parse", "HEAD").stdout.strip() + ("-dirty" if dirty else "")


def page() -> str:
    """The page with the stored counts filled in."""
    lines = ["| fault or check | count |", "| --- | ---: |"]
    for module in json.loads(COUNTS.read_text()).values():
        lines += [f"| {_label(what)} | {count:,} |" for what, count in module["counts"].items()]
    return sections.filled(PAGE, {"faults.json": "\n".join(lines)})


def _label(counted: str) -> str:
    """The page's name for a count; the keys of stored counts are never renamed."""
    for key, words in _WORDS.items():
        counted = counted.replace(key, words)
    return counted
