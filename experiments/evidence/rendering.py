"""The pages of the comparison in Markdown."""

from collections import Counter

from experiments.evidence import analysis, article_sections, durations, questions, text
from experiments.evidence.results import Results
from experiments.evidence.rows import NO_FIGURE

_INTRODUCTION = """\
# Published figures beside ours

Every number that the articles report, and what this code reaches under the same protocol. This
file is written by `python -m experiments.compare` from the records in `results/` alone; the same
table is there as `table.csv` and `table.tex`. [README.md](README.md) says how to read the tables
and how to run a row.
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
        questions.curves(results),
        questions.costs(results),
        _not_run(results),
    ]
    return "\n".join(part for part in parts if part)


def summary(results: Results) -> str:
    """A line for each row, for `experiments/README.md`."""
    table = [["row", "published", "ours, %", "n", "the figure is"]]
    for article in results.articles:
        for row in article.entries:
            outcome = analysis.outcome(results, article, row)
            ours = outcome.summary
            table.append(
                [
                    f"{article.letter} `{row.id}`",
                    "; ".join(figure.printed for figure in row.figures),
                    *((text.mean(ours), str(ours.n)) if ours else ("not run", "")),
                    "; ".join(filter(None, (one.verdict for one in outcome.comparisons))),
                ]
            )
    return "\n".join([headline(results), "", *text.table_lines(table)])


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
        words += f" {without} of the rows are exercises and readings without a figure."
    if others := [name for name, _ in found if name]:
        words += f" By the spread of the whole family it is otherwise for {', '.join(others)}."
    return words


def _about_times(results: Results) -> str:
    """What the column of times is worth."""
    runs = [run for found in results.runs.values() for run in found]
    slow = sum(durations.took_long(run) for run in runs)
    return (
        "*A seed takes* is the shortest share of a run's time, and no evidence of speed:"
        f" {slow} of {len(runs)} records took over {durations.LONG} times as long as their training"
        " images take at their median speed, since the machine did other things too."
    )


def _not_run(results: Results) -> str:
    lines = []
    for article in results.articles:
        outcomes = {row.id: analysis.outcome(results, article, row) for row in article.entries}
        missing = [f"`{name}`" for name, outcome in outcomes.items() if outcome.summary is None]
        if missing:
            lines.append(f"- {article.letter}, `{article.name}`: {', '.join(missing)}")
    return "\n".join(["## Not run", "", *lines, ""]) if lines else ""
