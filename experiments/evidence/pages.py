"""The contents of the report of the whole comparison."""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from experiments.evidence import (
    analysis,
    article_sections,
    charts,
    rendering,
)
from experiments.evidence.charts import ForestRow
from experiments.evidence.records import Record
from experiments.evidence.results import Results
from experiments.evidence.rows import Article, Ensemble, Row
from mnist_jax.data import DatasetNotFound, load_dataset
from mnist_jax.measures import Series
from mnist_jax.reporting import curves, network_contents
from mnist_jax.reporting.curves import Panel
from mnist_jax.reporting.page import Code, Page, Picture, Section, Table, Text

# Columns of an article's table that are shown: without the pooled spread and costs.
_SHOWN = 6
_NAMES = {"train": "training", "test": "test"}


def comparison(results: Results) -> Page:
    """The comparison as a page; reads the dataset to show what a vote misclassifies."""
    sections = [Section("Published figures and ours", list(_overview(results)))]
    sections += [
        Section(f"{article.letter}. {article.title}", list(_article(results, article)))
        for article in results.articles
    ]
    command = "python -m experiments.NAME --experiment=all\npython -m experiments.compare --report"
    sections.append(
        Section(
            "How to reproduce it",
            [
                Text(
                    "The first command runs an article's missing seeds; the second makes this page."
                ),
                Code(command),
            ],
        )
    )
    return Page("Published figures beside ours", sections)


def _overview(results: Results) -> Iterator[Text | Picture]:
    yield Text(rendering.headline(results))
    yield Text(
        "Inside, above or below: where a published figure lies relative to the interval in which"
        f" 95% of our runs fall. Provisional: fewer than {analysis.ENOUGH_SEEDS} runs. Not"
        " testable: inside, but rounded more coarsely than our runs are spread. No protocol: the"
        " recipe behind it is not stated. None: no figure is published for the row. Unexplained:"
        " the row's note says what was tried."
    )
    comparisons = []
    for article in results.articles:
        for row in article.entries:
            outcome = analysis.outcome(results, article, row)
            if (summary := outcome.summary) is None:
                continue
            for number, one in enumerate(outcome.comparisons, start=1):
                figure, interval = one.figure, one.own.interval if one.own else None
                if figure.value is not None:
                    label = f"{article.letter} {row.id}" + (f" ({number})" if number > 1 else "")
                    value, rounding = figure.value, figure.rounding
                    comparisons.append(ForestRow(label, value, rounding, summary, interval))
    if comparisons:
        yield Picture(
            "published-and-ours",
            charts.published_and_ours(comparisons),
            "One line per figure: the published accuracy, our mean and our interval.",
            "Published accuracies and ours. The bar is the 95% interval for a figure of its kind:"
            " one run, a mean of several, or the best of several. On the right: the published"
            " figure | our mean ± standard deviation. (2) marks a row's second figure.",
            wide=charts.published_and_ours(comparisons, wide=True),
        )


def _article(results: Results, article: Article) -> Iterator[Text | Table | Picture]:
    table = article_sections.article_table(results, article)
    head, *rows = [[cell.replace("`", "") for cell in row[:_SHOWN]] for row in table]
    yield Table(head, rows, numbers=(2, 3, 5))
    runs = {row.id: results.runs[article.name, row.id, "jax"] for row in article.rows}
    shown = {name: [_course(run) for run in found] for name, found in runs.items() if found}
    if shown:
        figures = {
            row.id: [figure.value for figure in row.figures if figure.value is not None]
            for row in article.rows
        }
        yield Picture(
            f"{article.name}-accuracy",
            charts.accuracy_by_epoch(shown, figures),
            f"Curves of test accuracy for {', '.join(shown)}.",
            "Test accuracy at every evaluation, on a logarithmic scale of the error; a dashed line"
            f" is a published figure. {curves.READING}",
            wide=charts.accuracy_by_epoch(shown, figures, wide=True),
        )
    if len({row.recipe.loss for row in article.rows}) > 1:
        yield Picture(
            f"{article.name}-losses",
            charts.losses_by_probability(),
            "Two curves; the steeper one grows without bound towards x = 0.",
            "The two losses compared in the rows above, for one image: cross-entropy, and the"
            " squared error of the output for its class.",
        )
    for row in article.rows:
        if runs[row.id] and any(curve.printed for curve in row.curves):
            yield _published_curves(article, row, runs[row.id])
    for row in article.rows:
        if row.iterations and (known := [run for run in runs[row.id] if run.steps is not None]):
            yield _every_step(article, row, known)
    for members in article.ensembles:
        yield from _ensemble_errors(results, article, members)


def _course(run: Record) -> Series:
    """A run's test accuracy in percent against the epoch, at every evaluation."""
    steps = np.asarray(run.curve["step"])
    epochs = steps * (run.epochs / steps[-1])
    return Series(epochs, 100 * np.asarray(run.curve["test_accuracy"]))


def _published_curves(article: Article, row: Row, runs: Sequence[Record]) -> Picture:
    """The values that the article prints epoch by epoch, beside ours in the same unit."""
    panels = []
    for curve in row.curves:
        epochs = np.arange(1, row.recipe.epochs + 1)
        ours = [
            Series(epochs[: run.epochs], curve.scale * np.asarray(run.by_epoch(curve.column)))
            for run in runs
        ]
        printed = Series(epochs[: len(curve.values)], np.asarray(curve.values))
        published = printed if curve.printed else None
        part, what = curve.column.split("_")
        name = _NAMES[part]
        panels.append(Panel(f"{name} {what}", {name: ours}, what == "loss", published))
    wide = curves.plot(panels, "epoch", wide=True) if len(panels) > 1 else None
    return Picture(
        f"{article.name}-{row.id}-published",
        curves.plot(panels, "epoch"),
        f"Curves of {row.id} beside the values that the article prints.",
        f"{row.id} beside the values that the article prints, in its units. {curves.READING}",
        wide=wide,
    )


def _every_step(article: Article, row: Row, runs: Sequence[Record]) -> Picture:
    """Training by iteration, which the article shows as a plot."""
    steps = [run.steps for run in runs if run.steps is not None]
    count = len(steps[0].right)
    iterations = np.arange(1, count + 1)
    # As many points as the article has, if there is room.
    most = math.ceil(count / row.iterations) if row.iterations > 1 else curves.ROOM
    panels = [
        Panel(
            "training loss", {"training": [Series(iterations, s.loss) for s in steps]}, most=most
        ),
        Panel(
            "batch accuracy (%)",
            {"training": [Series(iterations, s.accuracy) for s in steps]},
            most=most,
        ),
    ]
    return Picture(
        f"{article.name}-{row.id}-iterations",
        curves.plot(panels, "iteration (batches)"),
        f"Loss and batch accuracy of {row.id} against the iteration.",
        f"{row.id}: loss and accuracy of every iteration on its batch, which the article shows as a"
        f" plot. {curves.reading_thinned(count, len(steps), most)}",
        wide=curves.plot(panels, "iteration (batches)", wide=True),
    )


def _ensemble_errors(
    results: Results, article: Article, members: Ensemble
) -> Iterator[Text | Picture]:
    """The images that a vote misclassifies, if all its members have run; needs the dataset."""
    if (voters := analysis.ensemble_voters(results, article, members)) is None:
        return
    try:
        dataset = load_dataset(voters[0].recipe.dataset)
    except DatasetNotFound:
        yield Text("The images that the vote misclassifies can't be shown without the dataset.")
        return
    predictions = np.stack([run.predictions for run in voters])
    votes = analysis.votes(members, voters)
    agreeing = (predictions == votes).sum(axis=0)
    labels = dataset.test.labels
    wrong = np.flatnonzero(votes != labels)
    if not len(wrong):
        yield Text("The vote is right on every test image.")
        return
    wrong = wrong[np.argsort(-agreeing[wrong], kind="stable")]
    yield network_contents.errors(
        dataset.test.images[wrong],
        labels[wrong],
        votes[wrong],
        [f"{count} of {len(voters)}" for count in agreeing[wrong]],
        dataset=dataset.name,
        noted=f"how many of the {len(voters)} networks of the {members.id} voted for it",
        name=f"{article.name}-{members.id}-misclassified",
    )
