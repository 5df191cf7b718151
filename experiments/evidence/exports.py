"""The figures and ours as CSV and LaTeX, for use in other programs."""

import csv
import io
import math

from experiments.evidence import analysis, text
from experiments.evidence.analysis import Limits
from experiments.evidence.results import Results

_LATEX = str.maketrans(
    {"%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#", "±": r"$\pm$", "–": "--"}
    | {"−": "$-$", "²": "$^2$", "λ": r"$\lambda$"}
)


def csv_table(results: Results) -> str:
    """A CSV table with a line for each figure and framework, to four decimals."""
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
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
    for article, row in results.entries:
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
    return content.getvalue()


def _numbers(*numbers: float) -> list[str]:
    return ["" if math.isnan(number) else f"{number:.4f}" for number in numbers]


def _all_limits(limits: Limits | None) -> list[str]:
    if limits is None:
        return [""] * 5
    return _numbers(*limits.interval, *limits.beyond, limits.p)


def latex(results: Results) -> str:
    """The rows that have been run, as a LaTeX `tabular` for booktabs."""
    lines = [
        r"\begin{tabular}{lllrlll}",
        r"\toprule",
        r" & row & published & $n$ & ours (\%) & 95\% interval & verdict \\",
    ]
    for article in results.articles:
        outcomes = [(row, analysis.outcome(results, article, row)) for row in article.entries]
        done = [
            (
                row,
                one.figure,
                [str(summary.n), text.mean(summary), text.limits_cell(one.own), one.verdict],
            )
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
