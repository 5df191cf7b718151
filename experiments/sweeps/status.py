"""Progress of a sweep, as sentences and as a table."""

from collections.abc import Collection, Mapping, Sequence

from rich.table import Table

from experiments.evidence import durations
from experiments.evidence.results import Results
from experiments.sweeps import plan
from experiments.sweeps.plan import Run, Standing, Sweep

_STATES = ("running", "waiting", "failed")


def expected(sweep: Sweep, results: Results) -> dict[str, float | None]:
    """Expected seconds for a seed of each row on one core, by row name."""
    return {
        plan.row_name(article, row): durations.on_a_core(results, row)
        for article, row in sweep.rows
    }


def longest_first(runs: Sequence[Run], whole: Mapping[str, float | None]) -> list[Run]:
    """The runs in the order that finishes soonest: unknown lengths first, then longest first."""
    return sorted(runs, key=lambda run: -(whole[run.row_name] or float("inf")))


def outlook(runs: Sequence[Run], whole: Mapping[str, float | None], workers: int) -> str:
    """The number of runs, and how long this many workers take for them."""
    rows = len({run.row_name for run in runs})
    count = f"{_count(len(runs), 'run')} of {_count(rows, 'row')}"
    return f"{count}: {_time([whole[run.row_name] for run in runs], workers)}"


def _time(seconds: Sequence[float | None], workers: int) -> str:
    known = [one for one in seconds if one is not None]
    if not known:
        return "no record says how long they take"
    unknown = len(seconds) - len(known)
    beside = f", and {_count(unknown, 'run')} of unknown length" if unknown else ""
    ends = hours(plan.makespan(known, workers))
    return f"{hours(sum(known))} of one core, {ends} on {_count(workers, 'worker')}{beside}"


def table(
    recorded: Mapping[str, Collection[int]],
    standings: Sequence[Standing],
    whole: Mapping[str, float | None],
) -> Table:
    """A table with one line per row of `recorded`."""
    head = ("row", "done", "running", "waiting", "failed", "a seed takes", "left, of one core")
    made = Table(*head, box=None)
    for name, seeds in recorded.items():
        own = [one for one in standings if one.run.row_name == name]
        by_state = {state: [one for one in own if one.state == state] for state in _STATES}
        left = [one.seconds for one in own if one.state != "failed"]
        known = [seconds for seconds in left if seconds is not None]
        seed_takes = whole[name]
        made.add_row(
            name,
            str(len(seeds)),
            " ".join(f"{one.run.seed}: {one.done:.0%}" for one in by_state["running"]),
            str(len(by_state["waiting"]) or ""),
            " ".join(str(one.run.seed) for one in by_state["failed"]),
            "" if seed_takes is None else hours(seed_takes),
            hours(sum(known)) if known and len(known) == len(left) else "?" if left else "",
        )
    return made


def summary(
    recorded: Mapping[str, Collection[int]], standings: Sequence[Standing], workers: int
) -> str:
    """One sentence on all rows; the time is for the running workers, or `workers` if none run."""
    count = {state: sum(one.state == state for one in standings) for state in _STATES}
    done = sum(map(len, recorded.values()))
    states = ", ".join(f"{count[state]} {state}" for state in _STATES)
    left = [one.seconds for one in standings if one.state != "failed"]
    time = _time(left, count["running"] or workers) if left else "nothing is left"
    return f"{done} done, {states}; {time}."


def failures(standings: Sequence[Standing]) -> list[str]:
    """One line per failed run."""
    return [f"{one.run.name} failed: {one.why}" for one in standings if one.state == "failed"]


def hours(seconds: float) -> str:
    """A duration in a suitable unit."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:,.1f} h"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
