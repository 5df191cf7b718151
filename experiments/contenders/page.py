"""The tables of pages in docs/, from the measurements in docs/benchmarks."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.contenders import scaling
from experiments.contenders.job import AUGMENTED, FLAX
from experiments.evidence import sections, tables

_DOCS = Path(__file__).parents[2] / "docs"
PERFORMANCE = _DOCS / "performance.md"
DISTRIBUTED = _DOCS / "distributed.md"
KEPT = _DOCS / "benchmarks"

Rows = Sequence[Mapping[str, Any]]

# Measurements that agree in these are compared.
_MEASURED = ("model", "batch_size", "seeds")
_BEST = "best of PyTorch"
# Below this one-minute load average, a machine counts as idle.
_AT_REST = 1
# The variants that ours is compared with, by column heading.
_RIVALS = {
    "best PyTorch": _BEST,
    "`torch.compile`": "torch-compile",
    "Flax, steps": FLAX[0],
    "Flax, scan": FLAX[1],
    "one device": "ours-one-device",
    "augmented": AUGMENTED,
}


def pages() -> dict[Path, str]:
    """The text of each page with the tables of all stored measurements.

    Raises:
      Failure: a page has no place for them.
    """
    parts: dict[Path, dict[str, str]] = {PERFORMANCE: {}, DISTRIBUTED: {}}
    for path in sorted(KEPT.glob("*.json")):
        measured = json.loads(path.read_text())
        page = DISTRIBUTED if measured["rows"][0]["task"] == "hosts" else PERFORMANCE
        parts[page][f"benchmarks/{path.name}"] = _part(measured)
        if page == DISTRIBUTED:
            parts[page]["links"] = links(measured["rows"])
    return {page: sections.filled(page, own) for page, own in parts.items()}


def when_and_where(measured: Mapping[str, Any]) -> str:
    """Date, revision and machine of a measurement, from the header of its file."""
    git, packages = measured["git"] or {"revision": "unknown", "dirty": False}, measured["packages"]
    shown = [name for name in ("jax", "flax", "torch") if name in packages]
    versions = ", ".join(f"{name} {packages[name]}" for name in shown)
    return (
        f"{measured['date']}, revision {git['revision'][:7]}{' with changes' * git['dirty']};"
        f" {measured['cores']} cores of {measured['processor']}, {measured['memory_gib']} GiB;"
        f" {versions}"
    )


def circumstances(measured: Mapping[str, Any]) -> str:
    """As `when_and_where`, with the load average, since a busy machine distorts speeds."""
    busy = measured["busy_before"]  # The first version of these files lacks it.
    if busy is None:
        return when_and_where(measured)
    warning = "" if busy < _AT_REST else "no evidence of speed: "
    return f"{when_and_where(measured)}; {warning}load average {busy:.1f} before the start"


def _part(measured: Mapping[str, Any]) -> str:
    command, rows = measured["command"], measured["rows"]
    words = f"{circumstances(measured)}.{_anew(measured)}"
    return f"```\n{command}\n```\n\n{words}\n\n{table(rows)}"


def _anew(measured: Mapping[str, Any]) -> str:
    """The rows measured at another revision than their file's header names."""
    sizes: dict[tuple[str, str], dict[str, None]] = {}
    for row in measured["rows"]:
        # The first version of these files lacks it.
        if (revision := row.get("revision", "")) and revision != measured["git"]["revision"]:
            sizes.setdefault((revision, row["model"]), {})[str(row["batch_size"])] = None
    return "".join(
        f" `{model}` at {', '.join(found)}: revision {revision[:7]}."
        for (revision, model), found in sizes.items()
    )


def table(rows: Rows) -> str:
    """A Markdown table of a benchmark's rows, all of one task, without empty columns."""
    lines = _TABLES[rows[0]["task"]](rows)
    columns = [column for column in zip(*lines, strict=True) if any(column[1:])]
    return tables.markdown(list(zip(*columns, strict=True)))


def _speeds(rows: Rows) -> list[list[str]]:
    """One line per measurement of ours."""
    there = {_BEST if row["best_of_pytorch"] else row["variant"] for row in rows}
    memory = {"ours": "ours", _BEST: "PyTorch", FLAX[0]: "Flax"}
    memory = {name: shown for name, shown in memory.items() if name in there}
    head = ["network", "batch", "seeds", "ours, images/s", "of peak"]
    lines = [[*head, *(f"÷ {name}" for name in _RIVALS), f"MiB: {', '.join(memory.values())}"]]
    for ours in rows:
        if ours["variant"] != "ours":
            continue
        measured = [row for row in rows if all(row[key] == ours[key] for key in _MEASURED)]
        rivals = {row["variant"]: row for row in measured}
        rivals |= {_BEST if row["best_of_pytorch"] else row["variant"]: row for row in measured}
        fraction = ours["fraction_of_matmul_peak"]
        lines.append(
            [
                *(str(ours[key]) for key in _MEASURED),
                f"{ours['images_per_second']:,.0f}",
                f"{fraction:.0%}" if fraction else "",
                *(
                    _spread(rivals[name], "ours_over_this", ".2f") if name in rivals else ""
                    for name in _RIVALS.values()
                ),
                ", ".join(
                    f"{rivals[name]['peak_memory_mib']:,.0f}" if name in rivals else "–"
                    for name in memory
                ),
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


def _hosts(rows: Rows) -> list[list[str]]:
    """A line for every network and batch size."""
    times = {
        "one host, ms": scaling.ALONE,
        "half the batch": scaling.HALF,
        "all-reduce": scaling.ALL_REDUCE,
        "two hosts": scaling.TWO,
    }
    ratios = {"÷ model": "measured_over_modelled", "two are faster": "speedup"}
    lines = [["network", "batch", "kB", *times, *ratios]]
    for row in rows:
        lines.append(
            [
                *(row["model"], str(row["batch_size"]), f"{row['bytes'] / 1000:,.0f}"),
                *(_digits(1000 * row[key]) for key in times.values()),
                *(_spread(row, key, ".2f") for key in ratios.values()),
            ]
        )
    return lines


def links(rows: Rows) -> str:
    """The batch size from which two and eight hosts beat one, by network and link."""
    loopback = scaling.fitted(rows)
    largest = {row["model"]: row for row in sorted(rows, key=lambda row: row["batch_size"])}
    ethernet = scaling.ethernet(loopback)
    slow = {loopback: (2,), ethernet: (2, 8)}
    head = ["network", "all-reduces", "kB", "µs per image"]
    head += [f"{link.name}: images" for link in slow]
    lines = [[*head, *(f"{link.name}: µs" for link in scaling.ACCELERATORS)]]
    for model, row in sorted(largest.items()):
        image = scaling.seconds_per_image(row)

        def least(link: scaling.Link, hosts: int, row: Mapping[str, Any] = row) -> float:
            cost = link.all_reduce(row["exchanges"], row["bytes"], hosts)
            return scaling.least_computing(cost, hosts)

        line = [model, str(row["exchanges"]), f"{row['bytes'] / 1000:,.0f}", _digits(1e6 * image)]
        for link, counts in slow.items():
            line.append(", ".join(f"{math.ceil(least(link, hosts) / image):,}" for hosts in counts))
        for link in scaling.ACCELERATORS:
            line.append(", ".join(f"{1e6 * least(link, hosts):,.0f}" for hosts in (2, 8)))
        lines.append(line)
    described = "; ".join(
        f"{link.name} {_digits(1e6 * link.latency)} µs and {_digits(link.bandwidth / 1e9)} GB/s"
        for link in (loopback, ethernet, *scaling.ACCELERATORS)
    )
    return f"Links: {described}.\n\n{tables.markdown(lines)}"


def _digits(value: float) -> str:
    """A number with three significant digits, or all digits before the point."""
    return f"{value:,.{max(0, 2 - math.floor(math.log10(value)))}f}"


_TABLES: Mapping[str, Callable[[Rows], list[list[str]]]] = {
    "train": _speeds,
    "evaluate": _speeds,
    "startup": _starts,
    "save": _saves,
    "hosts": _hosts,
}
