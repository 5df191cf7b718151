"""An article's figures beside ours, in Markdown, with notes."""

from collections.abc import Iterator

from experiments.evidence import analysis, durations, statistics, tables, text
from experiments.evidence.analysis import Comparison, Limits, Outcome
from experiments.evidence.results import Results
from experiments.evidence.rows import Article, Ensemble, Figure, Row


def article_table(results: Results, article: Article) -> list[list[str]]:
    """An article's figures beside ours, with a header row.

    A row's further figures follow its first one on lines of their own, without the shared cells.
    """
    table = [
        [
            *("row", "published", "ours", "min–max", "verdict", "95% interval"),
            *("pooled", "critical difference", "PFLOP", "time per seed", "device"),
        ]
    ]
    for row in article.entries:
        outcome = analysis.outcome(results, article, row)
        first, *others = outcome.comparisons
        name, published = f"`{row.id}`", _published(row, first.figure)
        cost = [_petaflops(article, row), *_cost(outcome)]
        table.append([name, published, *_ours(outcome), *_verdict(first), *cost])
        for other in others:
            published = _published(row, other.figure)
            table.append(["", published, "", "", *_verdict(other), "", "", ""])
    return table


def _published(row: Row | Ensemble, figure: Figure) -> str:
    if not figure.framework:
        return f"{figure.printed}; {figure.source}"
    words = f"{figure.printed}, {figure.framework}; {figure.selection}"
    return words if figure is row.figures[0] else f"{words}; {figure.source}"


def section(results: Results, article: Article) -> str:
    """An article's table and notes."""
    table = article_table(results, article)
    notes = [note for row in article.rows for note in _row_notes(results, article, row)]
    notes += [*_choices(results, article), *article.notes]
    lines = [f"### {article.letter}. {article.title}", "", tables.markdown(table), ""]
    if notes:
        lines += [*(f"- {note}" for note in notes), ""]
    return "\n".join(lines)


def _ours(outcome: Outcome) -> list[str]:
    if (summary := outcome.summary) is None:
        return ["not run", ""]
    return [f"{text.mean(summary)} (n = {summary.n})", f"{summary.low:.2f}–{summary.high:.2f}"]


def _verdict(comparison: Comparison) -> list[str]:
    """The verdict, both intervals, and the differences from our mean that would be outside."""
    own, pooled = comparison.own, comparison.pooled
    beyond = _beyond(own) + (f"; pooled {_beyond(pooled)}" if pooled else "")
    other = f" {pooled.verdict}" if pooled and pooled.verdict != comparison.verdict else ""
    return [comparison.verdict, text.limits_cell(own), text.limits_cell(pooled) + other, beyond]


def _beyond(limits: Limits | None) -> str:
    if limits is None:
        return ""
    below, above = (f"{points:.2f}" for points in limits.beyond)
    return f"±{below}" if below == above else f"−{below}, +{above}"


def _petaflops(article: Article, entry: Row | Ensemble) -> str:
    """The cost of one seed, or of all members of a vote."""
    if isinstance(entry, Ensemble):
        members = next(row for row in article.rows if row.id == entry.members)
        return f"{entry.size * durations.petaflops(members.recipe):.2g}"
    return f"{durations.petaflops(entry.recipe):.2g}"


def _cost(outcome: Outcome) -> list[str]:
    return ["" if outcome.seconds is None else text.duration(outcome.seconds), outcome.device]


def _row_notes(results: Results, article: Article, row: Row) -> Iterator[str]:
    if row.note:
        yield f"`{row.id}`: {row.note}"
    runs = results.runs[article.name, row.id, "jax"]
    if unknown := [str(run.seed) for run in runs if not run.committed]:
        yield f"`{row.id}`: seeds {', '.join(unknown)} ran code that is not a committed revision."
    if stuck := [run.accuracy for run in runs if run.stuck]:
        yield (
            f"`{row.id}`: {len(stuck)} of {len(runs)} runs assign the same class to every test"
            f" image and stay at {max(stuck):.2f}%, so mean, standard deviation and interval"
            " describe no run."
        )
    yield from _outside(results, article, row)
    yield from _beyond_every_run(results, article, row)
    for figure in row.figures:
        if figure.exceeds is not None and runs:
            ours = [analysis.accuracy(run, row) for run in runs]
            above = sum(one > figure.exceeds for one in ours)
            yield (
                f"`{row.id}`: {above} of our {len(ours)} runs exceed {figure.exceeds:g}%; the best"
                f" reaches {max(ours):.2f}%."
            )
        if shares := analysis.batches(results, article, row, figure):
            yield (
                f"`{row.id}`: after the first epoch, {text.mean(shares)}% of a run's training"
                f" batches have at least {figure.batches_from:g}% of their images right"
                f" (n = {shares.n}, minimum {shares.low:.2f}%)."
            )
    if row.epoch and runs:
        final = analysis.percentages([run.accuracy for run in runs])
        yield (
            f"`{row.id}`: our accuracy, like the published figure, is that after epoch {row.epoch};"
            f" after epoch {row.recipe.epochs} it is {text.mean(final)}."
        )


def _choices(results: Results, article: Article) -> Iterator[str]:
    """For figures of the best of several runs: what the same selection gives among ours."""
    ours, sizes = [], set[int]()
    for row in article.rows:
        for comparison in analysis.outcome(results, article, row).comparisons:
            figure = comparison.figure
            if figure.best_of > 1 and comparison.own:
                mean = analysis.best_of(results, article, row, figure).mean
                ours.append(f"`{row.id}` {mean:.2f}")
                sizes.add(figure.best_of)
    if ours:
        yield (
            f"The figures are of the best of {' or '.join(map(str, sorted(sizes)))} runs by"
            " validation accuracy. The same selection among ours gives, averaged over all such"
            f" subsets and in percent: {', '.join(ours)}. The intervals are about these means."
        )


def _outside(results: Results, article: Article, row: Row) -> Iterator[str]:
    """How improbable a figure outside the interval is, and how often earlier epochs reach it."""
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
                f"`{row.id}`: a figure at least as far from our mean as {figure.printed} has p ="
                f" {text.p_value(own.p)} by the row's own spread"
                + (f" and p = {text.p_value(pooled.p)} by its family's." if pooled else ".")
            )
        if row.jumps:
            reference = analysis.best_of(results, article, row, figure)
            last = analysis.by_spread(outcome.summary, figure, reference, outcome.summary.spread)
            yield (
                f"`{row.id}`: from the last epochs alone, as for rows that do not jump, the"
                f" interval would be {text.limits_cell(last)} and the verdict on {figure.printed}"
                f" *{last.verdict}* (p = {text.p_value(last.p)})."
            )
        side = "above" if figure.value > outcome.summary.mean else "below"
        for framework, whose in (("jax", "our"), ("torch", "the PyTorch")):
            if later := analysis.later_epochs(results, article, row, framework):
                spread = analysis.percentages(later)
                high = side == "above"
                skewed = f", skewness {statistics.skewness(later):.2f}" if row.jumps else ""
                reached = sum(a >= figure.value if high else a <= figure.value for a in later)
                yield (
                    f"`{row.id}`: over all epochs of the second half of {whose} runs, the test"
                    f" accuracy is {text.mean(spread)} (range {spread.low:.2f} to"
                    f" {spread.high:.2f}{skewed}); in {reached} of {len(later)} epochs it is at"
                    f" {'least' if high else 'most'} {figure.printed}."
                )


def _beyond_every_run(results: Results, article: Article, row: Row) -> Iterator[str]:
    """For a figure inside that none of many runs reaches: whether the runs are normal."""
    ours, theirs = (
        [analysis.accuracy(run, row) for run in results.runs[article.name, row.id, framework]]
        for framework in ("jax", "torch")
    )
    both = [*ours, *theirs]
    if row.jumps or len(both) < analysis.MANY_SEEDS:
        return
    for comparison in analysis.outcome(results, article, row).comparisons:
        figure, own = comparison.figure, comparison.own
        if figure.value is None or own is None or figure.runs > 1 or own.verdict != "inside":
            continue
        above = figure.value - figure.rounding > max(both)
        if above or figure.value + figure.rounding < min(both):
            side, skew = "above" if above else "below", statistics.skewness(ours)
            fewer = (
                f" With this skew, fewer runs lie far {side} the mean than under normality, so p is"
                " too large."
            )
            rank = 2 / (len(both) + 1)
            depends = ": whether the figure is inside depends on how runs are distributed"
            yield (
                f"`{row.id}`: {figure.printed} is inside, yet {side} each of {len(both)} runs,"
                f" {len(theirs)} of them PyTorch's. Its p of {text.p_value(own.p)} assumes normally"
                f" distributed runs; for our {len(ours)} runs the Shapiro–Wilk test of normality"
                f" has p = {text.p_value(statistics.normality(ours))}, and their skewness is"
                f" {skew:.2f}.{fewer if (skew < 0) == above else ''} By rank alone, among all"
                f" {len(both) + 1} values, p = {text.p_value(rank)}"
                f"{depends if rank < 0.05 else ''}."
            )
