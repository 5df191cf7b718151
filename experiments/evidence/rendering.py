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

Every number that the articles report, and what this code reaches under the same protocol. This
file is written by `python -m experiments.compare` from the records in `results/`, and memory from
`docs/benchmarks/`; the same table is there as `table.csv` and `table.tex`. [README.md](README.md)
says how to read the tables and how to run a row.
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
    """A line for each row that was run and has a figure, for `experiments/README.md`."""
    return "\n".join([headline(results), "", tables.markdown(_lines(results, compared=True))])


def others(results: Results) -> str:
    """A line for each other row, for `experiments/README.md`."""
    return tables.markdown(_lines(results, compared=False))


def best(results: Results) -> str:
    """The best on MNIST by one network, and by a vote, for `README.md`."""
    means, votes = [], []
    for article, row in results.entries:
        if (ours := analysis.outcome(results, article, row).summary) is None:
            continue
        name = f"{article.letter}'s `{row.id}`"
        if isinstance(row, Ensemble):
            votes.append((ours.mean, f"{name} of {row.size}, {text.mean(ours)}%"))
        elif row.recipe.dataset == "mnist" and ours.n >= analysis.ENOUGH_SEEDS:
            means.append((ours.mean, f"{name}, {text.mean(ours)}% (n = {ours.n})"))
    few = f"Of all rows with {analysis.ENOUGH_SEEDS} runs or more, the best mean on MNIST so far is"
    mean = f"{few} that of {max(means)[1]}." if means else ""
    vote = f"The best vote is that of {max(votes)[1]}." if votes else ""
    return f"{mean} {vote}".strip()


def _lines(results: Results, *, compared: bool) -> list[list[str]]:
    table = [["row", "published", "ours, %", "n", "the figure is"]]
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
    """How many rows there are, ensembles with them, and where their figures lie."""
    found = [
        (f"{article.letter} `{row.id}` {one.figure.printed} {one.pooled.verdict}", one)
        if one.pooled and one.pooled.verdict != one.verdict
        else ("", one)
        for article, row in results.entries
        for one in analysis.outcome(results, article, row).comparisons
        if one.figure.untested != NO_FIGURE
    ]
    verdicts = Counter(one.verdict or "not run" for _, one in found)
    counts = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common())
    entries = [[f.untested for f in row.figures] for _, row in results.entries]
    words = f"Of {verdicts.total()} published figures of {len(entries)} rows: {counts}."
    if without := entries.count([NO_FIGURE]):
        words += (
            f" {without} of the rows have no figure: exercises, readings, and variants of ours."
        )
    if ps := [one.own.p for _, one in found if one.own and not math.isnan(one.own.p)]:
        words += (
            f" {len(ps)} figures are tested at 95% each, so about {0.05 * len(ps):.1f} would be"
            " outside by chance alone; the smallest p, by Holm's method for all of them, is"
            f" {text.p_value(min(statistics.holm(ps)))}."
        )
    if others := [name for name, _ in found if name]:
        words += f" By the spread of the whole family it is otherwise for {', '.join(others)}."
    return words


def _about_times(results: Results) -> str:
    """What the column of times is worth."""
    runs = [run for found in results.runs.values() for run in found]
    slow = sum(durations.took_long(run) for run in runs)
    return (
        "*PFLOP* are the 10^15 additions and multiplications of training a seed, six for a"
        " multiply-add of an image's way through the network. *A seed takes* is the shortest share"
        f" of a run's time, and no evidence of speed: {slow} of {len(runs)} records took over"
        f" {durations.LONG} times as long as their training images take at their median speed,"
        " since the machine did other things too."
    )


_NOT_RUN = """\
Every row is to have 5 seeds where its article's file names no other number: a committee
asks for more, and a candidate of our own search for one. Core-hours are what the missing ones take
on one core, as [docs/sweeps.md](../docs/sweeps.md) expects it of the quickest records, from
another network's where a network has none. A vote is of runs that another row lacks.
"""


def _not_run(results: Results) -> str:
    table = [["article", "rows", "not run", "short of seeds", "seeds missing", "core-hours"]]
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
    table.append(["all of these", *_counts(total)])
    missing = "The rows, and how many seeds each lacks:"
    return tables.section("## Not run", _NOT_RUN, table) + "\n".join(["", missing, "", *lists, ""])


def _counts(line: list[float]) -> list[str]:
    *counts, core_hours = line
    return [*(str(count) for count in counts), f"{core_hours:.1f}"]
