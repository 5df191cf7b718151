"""The comparison as text: Markdown for people, CSV for programs, LaTeX for papers."""

import csv
import io
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import median
from typing import TypeVar

from experiments.evidence import analysis, statistics, stopping
from experiments.evidence.analysis import Comparison, Limits, Outcome, Point, Results
from experiments.evidence.rows import NO_FIGURE, Article, Cost, Curve, Ensemble, Figure, Row
from experiments.evidence.statistics import Difference, Summary

_INTRODUCTION = """\
# Published figures beside ours

Every number that the articles report, and what this code reaches under the same protocol. This
file is written by `python -m experiments.compare` from the records in `results/` alone; the same
table is there as `table.csv` and `table.tex`. [README.md](README.md) says how to read the tables
and how to run a row.
"""

# Verdicts of which one in twenty would be another by chance, where there is an interval.
_TESTED = ("inside", "above", "below")
_Key = TypeVar("_Key")
_LATEX = str.maketrans(
    {"%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#", "±": r"$\pm$", "–": "--"}
    | {"−": "$-$", "²": "$^2$", "λ": r"$\lambda$"}
)


def markdown(results: Results) -> str:
    """The whole comparison, for `experiments/RESULTS.md`."""
    parts = [
        _INTRODUCTION,
        f"## Results\n\n{headline(results)}\n",
        *(_article(results, article) for article in results.articles),
        _section("## How far runs are spread", _FAMILIES_TEXT, _families(results)),
        _section("## PyTorch, measured here", _CROSS_TEXT, _cross_framework(results)),
        _variants(results),
        _selection(results),
        _section("## Early stopping", _STOPPING_TEXT, _early_stopping(results)),
        _curves(results),
        _section("## What training takes", _COSTS_TEXT, _costs(results)),
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
                    *((_mean(ours), str(ours.n)) if ours else ("not run", "")),
                    "; ".join(filter(None, (one.verdict for one in outcome.comparisons))),
                ]
            )
    return "\n".join([headline(results), "", *_table(table)])


def csv_table(results: Results) -> str:
    """A line for each published figure, numbers unrounded."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        [
            *(
                "article",
                "row",
                "published",
                "figure",
                "published_framework",
                "selection",
                "source",
            ),
            *("framework", "n", "mean", "sd", "min", "max", "verdict"),
            *("interval_low", "interval_high", "outside_below", "outside_above", "p"),
            *(f"pooled_{name}" for name in ("verdict", "low", "high", "below", "above", "p")),
            *("least_seconds_per_seed", "device"),
        ]
    )
    for article, row in _entries(results):
        for framework in ("jax", "torch"):
            outcome = analysis.outcome(results, article, row, framework)
            if (summary := outcome.summary) is None:
                continue
            numbers = _numbers(summary.mean, summary.sd, summary.low, summary.high)
            for comparison in outcome.comparisons:
                figure, pooled = comparison.figure, comparison.pooled
                writer.writerow(
                    [
                        *(article.name, row.id, figure.printed, figure.value, figure.framework),
                        *(figure.selection, figure.source, framework, summary.n),
                        *(*numbers, comparison.verdict, *_all_limits(comparison.own)),
                        *(pooled.verdict if pooled else "", *_all_limits(pooled)),
                        "" if outcome.seconds is None else f"{outcome.seconds:.1f}",
                        outcome.device,
                    ]
                )
    return text.getvalue()


def _numbers(*numbers: float) -> list[str]:
    return ["" if math.isnan(number) else f"{number:.4f}" for number in numbers]


def _all_limits(limits: Limits | None) -> list[str]:
    if limits is None:
        return [""] * 5
    return _numbers(*limits.interval, *limits.beyond, limits.p)


def latex(results: Results) -> str:
    """The rows that have been run, as a `tabular` for booktabs."""
    lines = [
        r"\begin{tabular}{lllrlll}",
        r"\toprule",
        r" & row & published & $n$ & ours (\%) & 95\% of runs & figure is \\",
    ]
    for article in results.articles:
        outcomes = [(row, analysis.outcome(results, article, row)) for row in article.entries]
        done = [
            (row, one.figure, [str(summary.n), _mean(summary), _limits(one.own), one.verdict])
            for row, outcome in outcomes
            if (summary := outcome.summary)
            for one in outcome.comparisons
        ]
        if done:
            lines.append(r"\midrule")
        for row, figure, ours in done:
            framework = f" ({figure.framework})" if figure.framework else ""
            cells = [article.letter, row.id, f"{figure.printed}{framework}", *ours]
            lines.append(" & ".join(cell.translate(_LATEX) for cell in cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def headline(results: Results) -> str:
    """How many rows there are, ensembles with them, and where their figures lie."""
    found = [
        (f"{article.letter} `{row.id}` {one.figure.printed} {one.pooled.verdict}", one)
        if one.pooled and one.pooled.verdict != one.verdict
        else ("", one)
        for article, row in _entries(results)
        for one in analysis.outcome(results, article, row).comparisons
        if one.figure.untested != NO_FIGURE
    ]
    verdicts = Counter(one.verdict or "not run" for _, one in found)
    counts = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common())
    entries = [[f.untested for f in row.figures] for _, row in _entries(results)]
    text = f"Of {verdicts.total()} published figures of {len(entries)} rows: {counts}."
    if without := entries.count([NO_FIGURE]):
        text += f" {without} of the rows are exercises and readings without a figure."
    tested = sum(one.own is not None and one.verdict in _TESTED for _, one in found)
    if tested:
        text += (
            f" Of the {tested} that are tested, {0.05 * tested:.1f} would lie outside by"
            " chance alone."
        )
    if others := [name for name, _ in found if name]:
        text += f" By the spread of the whole family it is otherwise for {', '.join(others)}."
    return text


def article_table(results: Results, article: Article) -> list[list[str]]:
    """An article's figures beside ours, below the names of the columns.

    Of a row with several, the later ones stand below the first, without what they share.
    """
    table = [
        [
            *("row", "published", "ours", "min–max", "the figure is", "95% of runs"),
            *("pooled", "outside beyond", "a seed takes", "device"),
        ]
    ]
    for row in article.entries:
        outcome = analysis.outcome(results, article, row)
        first, *others = outcome.comparisons
        name, published = f"`{row.id}`", _published(row, first.figure)
        table.append([name, published, *_ours(outcome), *_verdict(first), *_cost(outcome)])
        for other in others:
            published = _published(row, other.figure)
            table.append(["", published, "", "", *_verdict(other), "", ""])
    return table


def _published(row: Row | Ensemble, figure: Figure) -> str:
    if not figure.framework:
        return f"{figure.printed}; {figure.source}"
    text = f"{figure.printed}, {figure.framework}; {figure.selection}"
    return text if figure is row.figures[0] else f"{text}; {figure.source}"


def _article(results: Results, article: Article) -> str:
    table = article_table(results, article)
    notes = [note for row in article.rows for note in _row_notes(results, article, row)]
    notes += article.notes
    lines = [f"### {article.letter}. {article.title}", "", *_table(table), ""]
    if notes:
        lines += [*(f"- {note}" for note in notes), ""]
    return "\n".join(lines)


def _ours(outcome: Outcome) -> list[str]:
    if (summary := outcome.summary) is None:
        return ["not run", ""]
    return [f"{_mean(summary)} (n = {summary.n})", f"{summary.low:.2f}–{summary.high:.2f}"]


def _verdict(comparison: Comparison) -> list[str]:
    """The verdict, both intervals, and what would have been outside them."""
    own, pooled = comparison.own, comparison.pooled
    beyond = _beyond(own) + (f"; pooled {_beyond(pooled)}" if pooled else "")
    other = f" {pooled.verdict}" if pooled and pooled.verdict != comparison.verdict else ""
    return [comparison.verdict, _limits(own), _limits(pooled) + other, beyond]


def _limits(limits: Limits | None) -> str:
    return f"{limits.interval[0]:.2f}–{limits.interval[1]:.2f}" if limits else ""


def _beyond(limits: Limits | None) -> str:
    if limits is None:
        return ""
    below, above = (f"{points:.2f}" for points in limits.beyond)
    return f"±{below}" if below == above else f"−{below}, +{above}"


def _cost(outcome: Outcome) -> list[str]:
    return ["" if outcome.seconds is None else _duration(outcome.seconds), outcome.device]


def _row_notes(results: Results, article: Article, row: Row) -> Iterator[str]:
    if row.note:
        yield f"`{row.id}`: {row.note}"
    runs = results.runs[article.name, row.id, "jax"]
    if unknown := [str(run.seed) for run in runs if not run.committed]:
        yield f"`{row.id}`: seeds {', '.join(unknown)} ran code that is not a committed revision."
    yield from _outside(results, article, row)
    for figure in row.figures:
        if shares := analysis.batches(results, article, row, figure):
            yield (
                f"`{row.id}`: after the first epoch {_mean(shares)}% of a run's training batches"
                f" have at least {figure.batches_from:g}% right (n = {shares.n}, the least"
                f" {shares.low:.2f}%)."
            )
    if row.epoch and runs:
        final = analysis.percentages([run.accuracy for run in runs])
        yield (
            f"`{row.id}`: ours is after epoch {row.epoch}, as the figure is; after epoch"
            f" {row.recipe.epochs} it is {_mean(final)}."
        )


def _outside(results: Results, article: Article, row: Row) -> Iterator[str]:
    """How improbable a figure is that is not inside, and how often earlier epochs reach it."""
    outcome = analysis.outcome(results, article, row)
    for comparison in outcome.comparisons:
        figure, own, pooled = comparison.figure, comparison.own, comparison.pooled
        if figure.value is None or own is None or outcome.summary is None:
            continue
        verdicts = {own.verdict, pooled.verdict if pooled else ""}
        if not (row.jumps or verdicts & {"above", "below"}):
            continue
        if not row.jumps:
            yield (
                f"`{row.id}`: p of a figure as far from our mean as {figure.printed} is"
                f" {_p(own.p)} by the row's own spread"
                + (f", {_p(pooled.p)} by that of its family." if pooled else ".")
            )
        side = "above" if figure.value > outcome.summary.mean else "below"
        for framework, whose in (("jax", "our"), ("torch", "PyTorch's")):
            if later := analysis.later_epochs(results, article, row, framework):
                spread = analysis.percentages(later)
                high = side == "above"
                reached = sum(a >= figure.value if high else a <= figure.value for a in later)
                yield (
                    f"`{row.id}`: in the second half of {whose} runs the accuracy is"
                    f" {_mean(spread)} over all epochs, {spread.low:.2f} to {spread.high:.2f}; in"
                    f" {reached} of {len(later)} it is as {'high' if high else 'low'} as"
                    f" {figure.printed}."
                )


_FAMILIES_TEXT = """\
The rows of an article on one dataset are a family, but for those whose accuracy jumps from epoch to
epoch. Where a row has fewer than 10 runs, the spread of its family is put beside its own: the
square root of the mean variance, weighted by degrees of freedom. That the rows have one spread is
an assumption, which Levene's test (about the medians) contradicts where its p is small.
"""


def _families(results: Results) -> list[list[str]]:
    table = [["article", "rows", "runs", "degrees of freedom", "pooled SD, points", "Levene p"]]
    for article in results.articles:
        families = [analysis.family(results, article, row) for row in article.rows]
        distinct = {tuple(one.rows): one for one in families if one}
        for rows, one in distinct.items():
            names = ", ".join(f"`{name}`" for name in rows)
            spread = one.spread
            numbers = (str(one.runs), str(spread.df), f"{spread.sd:.3f}", _p(one.p))
            table.append([article.letter, names, *numbers])
    return table


_CROSS_TEXT = """\
The same recipes through the PyTorch references of `references/`, the authors' own networks, on this
machine. The difference of the means is tested with Welch's t-test, whose p is also adjusted by
Holm's method for all rows of the table. A large p is no evidence of equality: that the means are
less than 0.1 points apart is shown where two one-sided Welch tests (TOST) against that margin have
p < 0.05; elsewhere the runs are too few, or too far spread, to say.
"""


def _cross_framework(results: Results) -> list[list[str]]:
    table = [
        [
            *("row", "JAX", "PyTorch", "difference, points [95%]", "p", "Holm p"),
            *("TOST p", f"within {analysis.MARGIN} points"),
        ]
    ]
    compared = {
        (article.name, row.id): analysis.cross_framework(results, article, row)
        for article, row in _rows(results)
    }
    adjusted = _adjusted({key: one.difference if one else None for key, one in compared.items()})
    for article, row in _rows(results):
        ours, theirs = (analysis.outcome(results, article, row, f) for f in ("jax", "torch"))
        if theirs.summary is None:
            continue
        found = compared[article.name, row.id]
        shown = "" if found is None else "yes" if found.equivalence < 0.05 else "not shown"
        table.append(
            [
                f"`{article.name}/{row.id}`",
                *(
                    f"{_mean(o.summary)} (n = {o.summary.n})" if o.summary else "not run"
                    for o in (ours, theirs)
                ),
                *_difference(found.difference if found else None),
                _p(adjusted[article.name, row.id]),
                *(_p(found.equivalence) if found else "", shown),
            ]
        )
    return table


_VARIANTS_TEXT = """\
Both rows on the seeds they share: the difference of the means, first minus second, with the paired
t-test, whose p is also adjusted by Holm's method for all questions. Where more than one field of
the recipe differs, a difference can't be put down to one of them. McNemar's exact test, on the test
images that only one of two runs has right, is made for every shared seed: it compares two networks,
not two recipes, and may differ from seed to seed. What is compared is the test accuracy that
counts, the one after the first epoch, or the fluctuation: the standard deviation, in points, of a
run's test accuracies after every epoch of the second half.
"""

_MEASURES = {
    "accuracy": "test accuracy",
    "first_epoch": "after the first epoch",
    "fluctuation": "fluctuation",
}


def _variants(results: Results) -> str:
    table = [
        [
            *("question", "compared", "first", "second", "differ in (first / second)", "seeds"),
            *("difference, points [95%]", "p", "Holm p", "McNemar p"),
        ]
    ]
    ablations = [a for article in results.articles for a in article.ablations]
    compared = {ablation.question: analysis.variants(results, ablation) for ablation in ablations}
    adjusted = _adjusted({question: one.difference for question, one in compared.items()})
    for ablation in ablations:
        found = compared[ablation.question]
        count = len(found.first)
        digits = 3 if ablation.measure == "fluctuation" else 2
        both = (found.first, found.second)
        means = [f" {sum(v) / count:.{digits}f}" if count else "" for v in both]
        mark = " *provisional*" if count < analysis.ENOUGH_SEEDS else ""
        table.append(
            [
                ablation.question,
                _MEASURES[ablation.measure],
                f"`{ablation.first}`{means[0]}",
                f"`{ablation.second}`{means[1]}",
                ", ".join(found.changed),
                f"{count}{mark}" if count else "not run",
                *_difference(found.difference, digits),
                *(_p(adjusted[ablation.question]), _mcnemar(found.mcnemar)),
            ]
        )
    notes = [f"- {a.question} {a.note}" for a in ablations if a.note]
    return _section("## Our variants compared", _VARIANTS_TEXT, table) + "\n".join(["", *notes, ""])


def _mcnemar(ps: Sequence[float]) -> str:
    if not ps:
        return ""
    below = sum(p < 0.05 for p in ps)
    return f"< 0.05 for {below} of {len(ps)} seeds; {_p(min(ps))} to {_p(max(ps))}"


def _adjusted(differences: Mapping[_Key, Difference | None]) -> dict[_Key, float]:
    """Their p values by Holm's method; NaN where nothing was tested."""
    ps = [one.p if one else math.nan for one in differences.values()]
    return dict(zip(differences, statistics.holm(ps), strict=True))


_SELECTION_TEXT = """\
Our runs' test accuracies after the last epoch, at the epoch of the best validation accuracy where
images are held out, and after the epoch of the best *test* accuracy. To report the last of these is
a common malpractice; what it would have bought, beside the honest choice, is the last column: the
mean over seeds ± standard deviation, in points.
"""


def _selection(results: Results) -> str:
    table = [
        [
            *("row", "n", "epochs", "last epoch", "best validation epoch", "best test epoch"),
            "bought, points",
        ]
    ]
    bought = []
    for article, row in _rows(results):
        if (found := analysis.selection(results, article, row)) is None:
            continue
        bought.append(found.bought.mean)
        table.append(
            [
                *(f"`{article.name}/{row.id}`", str(found.n), str(row.recipe.epochs)),
                f"{found.last:.2f}",
                "" if found.validation is None else f"{found.validation:.2f}",
                *(f"{found.test:.2f}", _mean(found.bought)),
            ]
        )
    text = _SELECTION_TEXT
    if bought:
        text += (
            f"\nOver {len(bought)} rows the median is {median(bought):.2f} points, the smallest"
            f" {min(bought):.2f} and the largest {max(bought):.2f}.\n"
        )
    return _section("## What choosing by the test set would buy", text, table)


_STOPPING_TEXT = """\
Where images are held out, after which epoch training would have ended if it ended with the first,
third or tenth epoch in a row (the patience) without a better validation accuracy, as Flax's
`EarlyStopping` counts them, and the test accuracy of the evaluation that is selected until then
beside that of the whole run: mean over seeds ± standard deviation. Nothing was trained for it:
learning rates are constant and training is deterministic, so the recorded curve up to an epoch is
that of the very run that would have ended there.
"""


def _early_stopping(results: Results) -> list[list[str]]:
    table = [
        [
            *("row", "n", "epochs", "patience", "ends after epoch", "epochs saved"),
            *("test accuracy, %", "of whole runs, %", "difference, points"),
        ]
    ]
    for article, row in _rows(results):
        for one in stopping.early_stopping(results, article, row):
            table.append(
                [
                    *(f"`{article.name}/{row.id}`", str(one.full.n), str(row.recipe.epochs)),
                    *(str(one.patience), _mean(one.ended, 1), _mean(one.saved, 1)),
                    *(_mean(one.stopped), _mean(one.full), _mean(one.difference)),
                ]
            )
    return table


_CURVES_TEXT = """\
## Curves, point by point

What the articles show of a run's course, after each epoch, beside our means ± standard deviations.
Where an article has only a picture, ours stands alone.
"""


def _curves(results: Results) -> str:
    parts = [_CURVES_TEXT]
    for article, row in _rows(results):
        for curve in row.curves:
            if not (points := analysis.points(results, article, row, curve)):
                continue
            title = f"### `{article.name}/{row.id}`: {curve.column.replace('_', ' ')}"
            head = ["epoch", "published", "ours", "95% of runs", "the article's value is"]
            body = [_point(curve, point) for point in points]
            # A picture leaves two columns empty.
            shown = range(5) if curve.values else (0, 2, 3)
            parts.append(_section(title, "", [[line[i] for i in shown] for line in [head, *body]]))
    return "\n".join(parts) if len(parts) > 1 else ""


def _point(curve: Curve, point: Point) -> list[str]:
    digits = 3 if curve.column.endswith("accuracy") else 4
    published = "" if point.published is None else f"{point.published:.{digits}f}"
    ours = (_mean(point.ours, digits), _interval(point.ours, digits))
    return [str(point.epoch), published, *ours, point.verdict]


_COSTS_TEXT = """\
Times and memory that the articles mention, beside ours. The machines differ, and ours did other
things too: this is for orientation, and no evidence of speed, which
[docs/performance.md](../docs/performance.md) has. Our time is that of the fastest record, of the
seeds that trained together, evaluations included, as they are in article D's.
"""


def _costs(results: Results) -> list[list[str]]:
    table = [["row", "what", "published", "on", "source", "ours", "on"]]
    for article in results.articles:
        for cost in article.costs:
            published = (cost.printed, cost.machine, cost.source)
            ours = _our_cost(results, article, cost)
            table.append([f"`{article.name}/{cost.row}`", _COSTS[cost.what], *published, *ours])
    return table


_COSTS = {"time": "an epoch", "memory": "memory of the device"}


def _our_cost(results: Results, article: Article, cost: Cost) -> tuple[str, str]:
    row = article.row(cost.row)
    outcome = analysis.outcome(results, article, row)
    if cost.what == "memory" or outcome.summary is None or outcome.seconds is None:
        return "not measured", ""
    return f"{outcome.seconds / row.recipe.epochs:.1f} s", outcome.device


def _not_run(results: Results) -> str:
    lines = []
    for article in results.articles:
        outcomes = {row.id: analysis.outcome(results, article, row) for row in article.entries}
        missing = [f"`{name}`" for name, outcome in outcomes.items() if outcome.summary is None]
        if missing:
            lines.append(f"- {article.letter}, `{article.name}`: {', '.join(missing)}")
    return "\n".join(["## Not run", "", *lines, ""]) if lines else ""


def _rows(results: Results) -> Iterator[tuple[Article, Row]]:
    return ((article, row) for article in results.articles for row in article.rows)


def _entries(results: Results) -> Iterator[tuple[Article, Row | Ensemble]]:
    """Rows, then ensembles."""
    yield from _rows(results)
    yield from ((article, one) for article in results.articles for one in article.ensembles)


def _section(title: str, text: str, table: list[list[str]]) -> str:
    """A section of one table; nothing if the table has only its head."""
    if len(table) == 1:
        return ""
    return "\n".join([title, "", *([text] if text else []), *_table(table), ""])


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield _line(rows[0])
    yield _line(["---"] * len(rows[0]))
    yield from map(_line, rows[1:])


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _mean(summary: Summary, digits: int = 2) -> str:
    if math.isnan(summary.sd):
        return f"{summary.mean:.{digits}f}"
    return f"{summary.mean:.{digits}f} ± {summary.sd:.{digits}f}"


def _interval(summary: Summary, digits: int = 2) -> str:
    if summary.n < analysis.ENOUGH_SEEDS:
        return ""
    low, high = summary.interval
    return f"{low:.{digits}f}–{high:.{digits}f}"


def _difference(difference: Difference | None, digits: int = 2) -> tuple[str, str]:
    if difference is None:
        return "", ""
    d = difference
    mean, low, high = (f"{points:+.{digits}f}" for points in (d.mean, d.low, d.high))
    return f"{mean} [{low}, {high}]", _p(d.p)


def _p(p: float) -> str:
    if math.isnan(p):
        return ""
    return f"{p:.2g}" if p >= 0.0001 else "< 0.0001"


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    return f"≈ {minutes / 60:.1f} h" if minutes >= 90 else f"≈ {minutes:.1f} min"
