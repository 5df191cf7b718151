"""Estimated time to train all rows, by number of cores, from the records."""

from experiments.evidence import durations, tables
from experiments.evidence.results import Results
from experiments.sweeps import plan
from experiments.sweeps.status import hours

# Among them the least that the comparison asks for.
_SEEDS = (1, 3, 5)
_CORES = (1, 16, 256)
_GPUS = 8


def page_part(results: Results) -> str:
    """A table of the estimated times, and what they are based on."""
    rows = [
        (row, durations.missing(results, article, row), durations.on_a_core(results, row))
        for article, row in results.rows
    ]
    head = ["seeds per row", "runs", "steps", *(f"{n} core{'s' * (n > 1)}" for n in _CORES)]
    head.append(f"{_GPUS} GPUs, per ms of step time")
    table = [head]
    for count in _SEEDS:
        table.append(_line(str(count), [(row, count, seconds) for row, _, seconds in rows]))
    table.append(_line("missing seeds", rows))
    row, seconds = max(
        ((row, seconds) for row, _, seconds in rows if seconds), key=lambda pair: pair[1]
    )
    never = sum(lacking == row.seeds for row, lacking, _ in rows)
    return "\n".join(
        [
            tables.markdown(table),
            "",
            f"The longest run, a seed of `{row.id}`, takes {hours(seconds)}, which is the minimum"
            f" on any number of cores. {never} of {len(rows)} rows have no run of their own yet:"
            " their times are estimated from their network's other runs, or from another network's"
            " where it has none.",
        ]
    )


def _line(label: str, rows: list) -> list[str]:
    runs = sum(count for _, count, _ in rows)
    steps = [durations.steps(row.recipe) for row, count, _ in rows for _ in range(count)]
    seconds = [taken or 0.0 for _, count, taken in rows for _ in range(count)]
    cores = [hours(plan.makespan(seconds, cores)) for cores in _CORES]
    gpus = hours(plan.makespan([step / 1000 for step in steps], _GPUS))
    return [label, str(runs), f"{sum(steps) / 1e6:.0f} million", *cores, gpus]
