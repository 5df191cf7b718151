"""The tables of docs/performance.md, from the measurements that docs/benchmarks keeps."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.contenders.job import FLAX
from experiments.evidence import sections
from experiments.evidence.text import table_lines

_DOCS = Path(__file__).parents[2] / "docs"
PAGE = _DOCS / "performance.md"
KEPT = _DOCS / "benchmarks"

Rows = Sequence[Mapping[str, Any]]

# What is compared has the same of these.
_MEASURED = ("model", "batch_size", "seeds")
_BEST = "best of PyTorch"
# Whom ours is compared with, by the heading of the column.
_RIVALS = {
    "best PyTorch": _BEST,
    "`torch.compile`": "torch-compile",
    "Flax, steps": FLAX[0],
    "Flax, scan": FLAX[1],
    "one device": "ours-one-device",
}


def page() -> str:
    """The page with the tables of all measurements that are kept.

    Raises:
      Failure: the page has no place for them.
    """
    kept = {f"benchmarks/{path.name}": path for path in sorted(KEPT.glob("*.json"))}
    parts = {name: _part(json.loads(path.read_text())) for name, path in kept.items()}
    return sections.filled(PAGE, parts)


def circumstances(measured: Mapping[str, Any]) -> str:
    """When and where something was measured, from the head of its file."""
    git, packages = measured["git"] or {"revision": "unknown", "dirty": False}, measured["packages"]
    shown = [name for name in ("jax", "flax", "torch") if name in packages]
    versions = ", ".join(f"{name} {packages[name]}" for name in shown)
    busy = measured["busy_before"]  # Not noted by the first version of these files.
    return (
        f"{measured['date']}, revision {git['revision'][:7]}{' with changes' * git['dirty']};"
        f" {measured['cores']} cores of {measured['processor']}, {measured['memory_gib']} GiB;"
        f" {versions}"
        + ("" if busy is None else f"; {busy:.1f} processes were busy before it began")
    )


def _part(measured: Mapping[str, Any]) -> str:
    command, rows = measured["command"], measured["rows"]
    return f"```\n{command}\n```\n\n{circumstances(measured)}.\n\n{table(rows)}"


def table(rows: Rows) -> str:
    """A Markdown table of a benchmark's rows, which are of one task, without empty columns."""
    lines = _TABLES[rows[0]["task"]](rows)
    columns = [column for column in zip(*lines, strict=True) if any(column[1:])]
    return "\n".join(table_lines(list(zip(*columns, strict=True))))


def _speeds(rows: Rows) -> list[list[str]]:
    """A line for every measurement of ours."""
    head = ["network", "batch", "seeds", "ours, images/s", "of peak"]
    lines = [[*head, *(f"÷ {name}" for name in _RIVALS), "MiB: ours, PyTorch, Flax"]]
    for ours in rows:
        if ours["variant"] != "ours":
            continue
        measured = [row for row in rows if all(row[key] == ours[key] for key in _MEASURED)]
        rivals = {row["variant"]: row for row in measured}
        rivals |= {_BEST if row["best_of_pytorch"] else row["variant"]: row for row in measured}
        fraction = ours["fraction_of_matmul_peak"]
        beside = [rivals[name] for name in ("ours", _BEST, FLAX[0]) if name in rivals]
        lines.append(
            [
                *(str(ours[key]) for key in _MEASURED),
                f"{ours['images_per_second']:,.0f}",
                f"{fraction:.0%}" if fraction else "",
                *(
                    _spread(rivals[name], "ours_over_this", ".2f") if name in rivals else ""
                    for name in _RIVALS.values()
                ),
                ", ".join(f"{row['peak_memory_mib']:,.0f}" for row in beside),
            ]
        )
    return lines


def _spread(row: Mapping[str, Any], key: str, digits: str, scale: float = 1) -> str:
    """A median with the slowest and the fastest round."""
    value, low, high = (format(scale * v, digits) for v in (row[key], *row[f"{key}_range"]))
    return f"{value} ({low} to {high})"


def _starts(rows: Rows) -> list[list[str]]:
    """A line for every network."""
    lines = [["network", "empty cache, seconds", "warm cache, seconds"]]
    for model in dict.fromkeys(row["model"] for row in rows):
        by_cache = {row["variant"]: row for row in rows if row["model"] == model}
        lines.append([model, *(_spread(by_cache[c], "seconds", ".1f") for c in ("cold", "warm"))])
    return lines


def _saves(rows: Rows) -> list[list[str]]:
    """A line for every network."""
    lines = [["network", "kB", "ms of training", "ms in the background"]]
    for row in rows:
        times = (_spread(row, key, ".1f", 1000) for key in ("seconds", "background_seconds"))
        lines.append([row["model"], f"{row['bytes'] / 1000:,.0f}", *times])
    return lines


_TABLES: Mapping[str, Callable[[Rows], list[list[str]]]] = {
    "train": _speeds,
    "evaluate": _speeds,
    "startup": _starts,
    "save": _saves,
}
