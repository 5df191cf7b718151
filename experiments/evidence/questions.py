"""Questions to the records beyond the published figures: one Markdown section for each."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TypeVar

from experiments.evidence import (
    analysis,
    comparisons,
    durations,
    statistics,
    stopping,
    tables,
    text,
)
from experiments.evidence.analysis import Point
from experiments.evidence.results import Results
from experiments.evidence.rows import Article, Cost, Curve
from mnist_jax.models import model_entry
from mnist_jax.recipe import Recipe

_Key = TypeVar("_Key")

_TRAINING = Path(__file__).parents[2] / "docs" / "benchmarks" / "training.json"


_FAMILIES_TEXT = """\
A family is the rows of one article on one dataset whose networks all have convolutions, or all have
none. Rows whose accuracy jumps from epoch to epoch, or with a run that assigns the same class to
every image, belong to no family. For a row with fewer than 10 runs, the spread of its family is
reported beside its own: the pooled standard deviation, which is the square root of the mean
variance, weighted by degrees of freedom. It assumes that the rows share one spread; a small p of
Levene's test (about the medians) contradicts that. Training that two rows evaluate in different
ways counts twice: D's first five epochs in `lenet_10_epochs`, and E's in `as_published`.
"""


def families(results: Results) -> str:
    """The spread of each family's runs."""
    table = [["article", "rows", "runs", "degrees of freedom", "pooled SD, points", "Levene p"]]
    for article in results.articles:
        families = [analysis.family(results, article, row) for row in article.rows]
        distinct = {tuple(one.rows): one for one in families if one}
        for rows, one in distinct.items():
            names = ", ".join(f"`{name}`" for name in rows)
            spread = one.spread
            numbers = (str(one.runs), str(spread.df), f"{spread.sd:.3f}", text.p_value(one.p))
            table.append([article.letter, names, *numbers])
    return tables.section("## Spread between runs", _FAMILIES_TEXT, table)


# Nobody will train more runs in each framework than this.
_OUT_OF_REACH = 1000

_CROSS_TEXT = f"""\
The same recipes, trained with the PyTorch references of `references/`: the authors' networks in
PyTorch (article A's author did not use it). Processors may differ, also between the runs of one
row. The accuracies are those after the epoch that the row's figures refer to. The difference of
the means is tested with Welch's t-test. A large p is no evidence of equality: that the means are
less than {comparisons.MARGIN} points apart is shown where two one-sided Welch tests (TOST) against
that margin have p < 0.05. Both p values are also adjusted by Holm's method over all rows of the
table, and the adjusted ones count. Where equivalence is not shown, there are too few runs, or the
means differ. *Runs needed* is the number in each framework that gives a power of 0.8 at an
unadjusted p < 0.05 if the means are equal, from the pooled spread of both and the normal
approximation, which slightly underestimates it; above {_OUT_OF_REACH:,}, equivalence is out of
reach.
"""


def cross_framework(results: Results) -> str:
    """Our runs beside PyTorch runs."""
    table = [
        [
            *("row", "JAX", "PyTorch", "difference, points [95%]", "p", "Holm p"),
            *("TOST p", "TOST Holm p", "runs needed", f"within {comparisons.MARGIN} points"),
        ]
    ]
    compared = {
        (article.name, row.id): comparisons.cross_framework(results, article, row)
        for article, row in results.rows
    }
    adjusted = _adjusted(
        {key: one.difference.p if one else math.nan for key, one in compared.items()}
    )
    equivalent = _adjusted(
        {key: one.equivalence if one else math.nan for key, one in compared.items()}
    )
    for article, row in results.rows:
        ours, theirs = (analysis.outcome(results, article, row, f) for f in ("jax", "torch"))
        if theirs.summary is None:
            continue
        found = compared[article.name, row.id]
        equal = equivalent[article.name, row.id]
        table.append(
            [
                f"`{article.name}/{row.id}`",
                *(
                    f"{text.mean(o.summary)} (n = {o.summary.n})" if o.summary else "not run"
                    for o in (ours, theirs)
                ),
                *text.difference_cells(found.difference if found else None),
                text.p_value(adjusted[article.name, row.id]),
                *(
                    (
                        text.p_value(found.equivalence),
                        text.p_value(equal),
                        f"{found.needed:,}",
                        _shown(equal, found.needed),
                    )
                    if found
                    else ("", "", "", "")
                ),
            ]
        )
    return tables.section("## Comparison with PyTorch", _CROSS_TEXT, table)


def _shown(p: float, needed: int) -> str:
    """Whether two means are shown to be equivalent."""
    if p < 0.05:
        return "yes"
    return "out of reach" if needed > _OUT_OF_REACH else "not shown"


_VARIANTS_TEXT = """\
Both rows on the seeds they share: the difference of the means, first minus second, with a paired
t-test, whose p is also adjusted by Holm's method over all questions tested. There is no t-test with
fewer than 3 shared seeds (*provisional*), or where a run assigns the same class to every image.
Where more than one field of the recipe differs, a difference cannot be attributed to one of them.
McNemar's exact test, on the test images that only one of the two runs classifies correctly, is
reported for every shared seed if the measure is the test accuracy: it compares two networks, not
two recipes, and may differ from seed to seed. The measure is the test accuracy after the epoch
that the recipe selects, that after the first epoch, or the fluctuation: the standard deviation, in
points, of a run's test accuracies after every epoch of the second half.
"""


_MEASURES = {
    "accuracy": "test accuracy",
    "first_epoch": "after the first epoch",
    "fluctuation": "fluctuation",
}


def variants(results: Results) -> str:
    """Our own variants, compared in pairs."""
    table = [
        [
            *("question", "measure", "first", "second", "differences (first / second)", "seeds"),
            *("difference, points [95%]", "p", "Holm p", "McNemar p"),
        ]
    ]
    ablations = [a for article in results.articles for a in article.ablations]
    compared = {
        ablation.question: comparisons.variants(results, ablation) for ablation in ablations
    }
    adjusted = _adjusted(
        {q: one.difference.p if one.difference else math.nan for q, one in compared.items()}
    )
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
                *text.difference_cells(found.difference, digits),
                *(text.p_value(adjusted[ablation.question]), _mcnemar(found.mcnemar)),
            ]
        )
    notes = [f"- {a.question} {a.note}" for a in ablations if a.note]
    return tables.section("## Comparisons of our variants", _VARIANTS_TEXT, table) + "\n".join(
        ["", *notes, ""]
    )


def _mcnemar(ps: Sequence[float]) -> str:
    if not ps:
        return ""
    below = sum(p < 0.05 for p in ps)
    return (
        f"< 0.05 for {below} of {len(ps)} seeds; {text.p_value(min(ps))} to {text.p_value(max(ps))}"
    )


def _adjusted(ps: Mapping[_Key, float]) -> dict[_Key, float]:
    """P values adjusted by Holm's method; NaN, for no test, stays NaN."""
    return dict(zip(ps, statistics.holm(list(ps.values())), strict=True))


_SELECTION_TEXT = """\
Our runs' mean test accuracies after the last epoch, at the evaluation with the best validation
accuracy where that selects the epoch, and at the evaluation with the best *test* accuracy; most
rows are evaluated after every epoch, E's every 50 steps. Reporting the last of these is a common
malpractice. The last column is what it would have gained over the row's honest choice: mean over
seeds ± standard deviation, in points.
"""


def selection(results: Results) -> str:
    """The gain from selecting the evaluation by test accuracy."""
    table = [
        [
            *("row", "n", "epochs", "last epoch", "best by validation", "best by test"),
            "gain, points",
        ]
    ]
    gains = []
    for article, row in results.rows:
        if (found := comparisons.selection(results, article, row)) is None:
            continue
        gains.append(found.gain.mean)
        table.append(
            [
                *(f"`{article.name}/{row.id}`", str(found.n), str(row.recipe.epochs)),
                f"{found.last:.2f}",
                "" if found.validation is None else f"{found.validation:.2f}",
                *(f"{found.test:.2f}", text.mean(found.gain)),
            ]
        )
    words = _SELECTION_TEXT
    if gains:
        words += (
            f"\nOver {len(gains)} rows, the median gain is {median(gains):.2f} points, the smallest"
            f" {min(gains):.2f} and the largest {max(gains):.2f}.\n"
        )
    return tables.section("## Gain from selecting on the test set", words, table)


_STOPPING_TEXT = """\
For rows whose epoch is selected by validation accuracy: the epoch at which early stopping would
have ended training, with a patience of 1, 3 or 10 epochs without a better validation accuracy,
one epoch earlier than by Flax's `EarlyStopping` with the same patience; and the test accuracy of
the evaluation selected up to then, beside that of the whole run: mean over seeds ± standard
deviation. No extra training was needed: learning rates are constant and training is deterministic,
so the recorded curve up to an epoch is that of the run that would have ended there.
"""


def early_stopping(results: Results) -> str:
    """The epoch at which early stopping would have ended training, and its cost in accuracy."""
    table = [
        [
            *("row", "n", "epochs", "patience", "ends after epoch", "epochs saved"),
            *("test accuracy, %", "whole run, %", "difference, points"),
        ]
    ]
    for article, row in results.rows:
        for one in stopping.early_stopping(results, article, row):
            table.append(
                [
                    *(f"`{article.name}/{row.id}`", str(one.full.n), str(row.recipe.epochs)),
                    *(str(one.patience), text.mean(one.ended, 1), text.mean(one.saved, 1)),
                    *(text.mean(one.stopped), text.mean(one.full), text.mean(one.difference)),
                ]
            )
    return tables.section("## Early stopping", _STOPPING_TEXT, table)


_HELD_OUT_TEXT = """\
Rows that hold out part of the training set and report their last epoch: the accuracy on the
held-out images after that epoch. These select nothing within a run, so rows may be selected by this
accuracy, as our own recipe was. From sampling alone, an accuracy of 99.7% on 10,000 images has a
standard deviation of 0.05 points.
"""


def held_out(results: Results) -> str:
    """The held-out accuracy by which rows are selected without the test set."""
    table = [
        ["row", "published or varied", "images held out", "n", "held-out accuracy, %", "PFLOP"]
    ]
    for article, row in results.rows:
        runs = results.runs[article.name, row.id, "jax"]
        if not runs or not row.recipe.validation or row.recipe.selection != "last":
            continue
        found = [run.by_epoch("validation_accuracy")[-1] for run in runs]
        table.append(
            [
                *(f"`{article.name}/{row.id}`", row.figures[0].printed),
                *(f"{row.recipe.validation:,}", str(len(runs))),
                text.mean(analysis.percentages([100 * one for one in found])),
                f"{durations.petaflops(row.recipe):.2g}",
            ]
        )
    return tables.section("## Held-out accuracy", _HELD_OUT_TEXT, table)


_CURVES_TEXT = """\
## Training curves

The values that the articles report after each epoch, beside our means ± standard deviations. Where
an article has only a plot, ours stand alone.
"""


def curves(results: Results) -> str:
    """The articles' training curves beside ours."""
    parts = [_CURVES_TEXT]
    for article, row in results.rows:
        for curve in row.curves:
            if not (points := analysis.points(results, article, row, curve)):
                continue
            title = f"### `{article.name}/{row.id}`: {curve.column.replace('_', ' ')}"
            head = ["epoch", "published", "ours", "95% interval", "verdict"]
            body = [_point(curve, point) for point in points]
            # Without printed values, two columns are empty.
            shown = range(5) if curve.values else (0, 2, 3)
            parts.append(
                tables.section(title, "", [[line[i] for i in shown] for line in [head, *body]])
            )
    return "\n".join(parts) if len(parts) > 1 else ""


def _point(curve: Curve, point: Point) -> list[str]:
    digits = 3 if curve.column.endswith("accuracy") else 4
    ours = (text.mean(point.ours, digits), text.interval(point.ours, digits))
    return [str(point.epoch), point.published, *ours, point.verdict]


_COSTS_TEXT = """\
Times and memory that the articles mention, beside ours. The machines differ, and ours was shared:
the table is for orientation and no evidence of speed, which is in
[docs/performance.md](../docs/performance.md). Our time is the shortest among the records; it
includes evaluations, as article D's does, and is not divided among seeds trained together. Our
memory is the peak of the whole process on a CPU, including framework and dataset
(`docs/benchmarks/training.json`).
"""


_COSTS = {"time": "an epoch", "memory": "device memory"}


def costs(results: Results) -> str:
    """The articles' times and memory beside ours."""
    table = [["row", "quantity", "published", "on", "source", "ours", "on"]]
    for article in results.articles:
        for cost in article.costs:
            published = (cost.printed, cost.machine, cost.source)
            ours = _our_cost(results, article, cost)
            table.append([f"`{article.name}/{cost.row}`", _COSTS[cost.what], *published, *ours])
    return tables.section("## What training takes", _COSTS_TEXT, table)


def _our_cost(results: Results, article: Article, cost: Cost) -> tuple[str, str]:
    if cost.what == "memory":
        return _our_memory(article.row(cost.row).recipe)
    runs = results.runs[article.name, cost.row, "jax"]
    if not runs:
        return "not measured", ""
    quickest = min(runs, key=lambda run: run.seconds / run.epochs)
    return f"{quickest.seconds / quickest.epochs:.1f} s", durations.device(quickest)


def _our_memory(recipe: Recipe) -> tuple[str, str]:
    """The benchmark's value at this batch size; it measures a network's own arguments only."""
    if recipe.model_args != model_entry(recipe.model).recipe.model_args:
        return "not measured", ""
    kept = json.loads(_TRAINING.read_text())
    for row in kept["rows"]:
        measured = row["model"], row["batch_size"], row["variant"], row["seeds"]
        if measured == (recipe.model, recipe.batch_size, "ours", 1):
            return f"{row['peak_memory_mib']:,.0f} MiB", f"{kept['cores']} CPU cores"
    return "not measured", ""
