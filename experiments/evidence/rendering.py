"""The pages of the comparison in Markdown."""

import math
from collections import Counter

from experiments.evidence import (
    analysis,
    article_sections,
    durations,
    questions,
    statistics,
    tables,
    text,
)
from experiments.evidence.results import Results
from experiments.evidence.rows import NO_FIGURE, Ensemble

_INTRODUCTION = """\
# Published figures beside ours

The figures that the articles report, and what this code reaches under the same protocol.
`python -m experiments.compare` generates this file from the records in `results/` (memory use comes
from `docs/benchmarks/`); that folder also holds the same table as `table.csv` and `table.tex`.
[README.md](README.md) explains how to read the tables and how to run a row.
"""


def markdown(results: Results) -> str:
    """The whole comparison, for `experiments/RESULTS.md`."""
    parts = [
        _INTRODUCTION,
        f"## Results\n\n{headline(results)}\n\n{_about_times(results)}\n",
        *(article_sections.section(results, article) for article in results.articles),
        questions.families(results),
        questions.cross_framework(results),
        questions.variants(results),
        questions.selection(results),
        questions.early_stopping(results),
        questions.held_out(results),
        questions.curves(results),
        questions.costs(results),
        _not_run(results),
    ]
    return "\n".join(part for part in parts if part)


def summary(results: Results) -> str:
    """One line per row that has a figure and was run, for `experiments/README.md`."""
    return "\n".join([headline(results), "", tables.markdown(_lines(results, compared=True))])


def others(results: Results) -> str:
    """One line per remaining row, for `experiments/README.md`."""
    return tables.markdown(_lines(results, compared=False))


def best(results: Results) -> str:
    """The best result on MNIST by a single network and by a vote, for `README.md`."""
    means, votes = [], []
    for article, row in results.entries:
        if (ours := analysis.outcome(results, article, row).summary) is None:
            continue
        name = f"{article.letter}'s `{row.id}`"
        if isinstance(row, Ensemble):
            votes.append((ours.mean, f"{name} of {row.size}, {text.mean(ours)}%"))
        elif row.recipe.dataset == "mnist" and ours.n >= analysis.ENOUGH_SEEDS:
            means.append((ours.mean, f"{name}, {text.mean(ours)}% (n = {ours.n})"))
    few = f"Among rows with at least {analysis.ENOUGH_SEEDS} runs, the best mean on MNIST so far is"
    mean = f"{few} that of {max(means)[1]}." if means else ""
    vote = f"The best vote is that of {max(votes)[1]}." if votes else ""
    return f"{mean} {vote}".strip()


def _lines(results: Results, *, compared: bool) -> list[list[str]]:
    table = [["row", "published", "ours, %", "n", "verdict"]]
    for article in results.articles:
        for row in article.entries:
            outcome = analysis.outcome(results, article, row)
            ours = outcome.summary
            figures = any(figure.untested != NO_FIGURE for figure in row.figures)
            if compared != bool(ours and figures):
                continue
            table.append(
                [
                    f"{article.letter} `{row.id}`",
                    "; ".join(figure.printed for figure in row.figures),
                    *((text.mean(ours), str(ours.n)) if ours else ("not run", "")),
                    "; ".join(filter(None, (one.verdict for one in outcome.comparisons))),
                ]
            )
    return table


def headline(results: Results) -> str:
    """How many rows there are, including ensembles, and the verdicts on their figures."""
    found = [
        (f"{article.letter} `{row.id}`, {one.figure.printed}: {one.pooled.verdict}", one)
        if one.pooled and one.pooled.verdict != one.verdict
        else ("", one)
        for article, row in results.entries
        for one in analysis.outcome(results, article, row).comparisons
        if one.figure.untested != NO_FIGURE
    ]
    verdicts = Counter(one.verdict or "not run" for _, one in found)
    counts = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common())
    entries = [[f.untested for f in row.figures] for _, row in results.entries]
    words = f"The {len(entries)} rows have {verdicts.total()} published figures: {counts}."
    if without := entries.count([NO_FIGURE]):
        words += (
            f" For {without} of the rows no figure is published: exercises, alternative readings,"
            " and our own variants."
        )
    tested = [one for _, one in found if one.verdict in ("inside", "above", "below")]
    tested = [one for one in tested if one.figure.batches_from is None]
    if ps := [one.own.p for one in tested if one.own and not math.isnan(one.own.p)]:
        words += (
            f" {len(tested)} figures are tested, each against a 95% interval, so about"
            f" {0.05 * len(tested):.1f} would be outside by chance alone; the smallest p, adjusted"
            f" by Holm's method over the {len(ps)} that have one, is"
            f" {text.p_value(min(statistics.holm(ps)))}."
        )
    if others := [name for name, _ in found if name]:
        words += f" By the pooled spread of the family the verdict differs for {'; '.join(others)}."
    return words


def _about_times(results: Results) -> str:
    """What the columns of cost mean, and how far the times can be trusted."""
    runs = [run for found in results.runs.values() for run in found]
    slow = sum(durations.took_long(run) for run in runs)
    return (
        "*PFLOP* is the cost of training one seed, or all members of a vote, in 10^15"
        " floating-point operations: six for each multiply-add of an image's forward pass. *Time"
        " per seed* is the shortest among the row's records on the device shown, and no evidence"
        f" of speed, because the machine was shared: {slow} of {len(runs)} records took over"
        f" {durations.LONG} times as long as their training images take at their median throughput."
    )


_NOT_RUN = """\
Every row is to have 5 seeds unless its article's file gives another number: the members of a
committee need more, and a candidate of our own search needs one. *Core-hours* is the time that the
missing seeds would take on one core, estimated from the quickest records as in
[docs/sweeps.md](../docs/sweeps.md), or from another network's where a network has none. A vote adds
no runs of its own: it waits for those that its members' row lacks.
"""


def _not_run(results: Results) -> str:
    table = [["article", "rows", "not run", "incomplete", "missing seeds", "core-hours"]]
    lists, total = [], [0, 0, 0, 0, 0.0]
    for article in results.articles:
        lacking = [(row, durations.missing(results, article, row)) for row in article.rows]
        names = [f"`{row.id}` ({count})" for row, count in lacking if count]
        names += [
            f"`{row.id}` (a vote)"
            for row in article.ensembles
            if analysis.outcome(results, article, row).summary is None
        ]
        if not names:
            continue
        never = sum(count == row.seeds for row, count in lacking)
        short = sum(count > 0 for _, count in lacking) - never
        seconds = sum(count * (durations.on_a_core(results, row) or 0.0) for row, count in lacking)
        line = [len(lacking), never, short, sum(count for _, count in lacking), seconds / 3600]
        total = [a + b for a, b in zip(total, line, strict=True)]
        table.append([f"{article.letter}, `{article.name}`", *_counts(line)])
        lists.append(f"- {article.letter}, `{article.name}`: {', '.join(names)}")
    if not lists:
        return ""
    table.append(["total", *_counts(total)])
    missing = "The rows, and the number of seeds each lacks:"
    return tables.section("## Not run", _NOT_RUN, table) + "\n".join(["", missing, "", *lists, ""])


def _counts(line: list[float]) -> list[str]:
    *counts, core_hours = line
    return [*(str(count) for count in counts), f"{core_hours:.1f}"]
