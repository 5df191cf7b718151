"""The report of the comparison: what it plots of the records."""

import dataclasses
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
from commands import run
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from report_runs import PHONE, SCREEN, check_legible
from toy_records import ARTICLE, LABELS, record, results_of

from experiments import compare
from experiments.evidence import charts, pages, records, statistics
from experiments.evidence.charts import ForestRow
from experiments.evidence.results import Results
from experiments.evidence.rows import all_articles
from mnist_jax.data import Dataset, DatasetNotFound, Split
from mnist_jax.errors import Failure
from mnist_jax.measures import Series
from mnist_jax.reporting.page import Page, Picture, Table, Text
from mnist_jax.reporting.style import COLORS

IMAGES = np.arange(100, dtype=np.uint8)[:, None, None] * np.ones((1, 28, 28), np.uint8)
DATASET = Dataset("digits", Split(IMAGES, LABELS), Split(IMAGES, LABELS), "", "made up")


def blocks(page: Page, kind: type) -> list[Any]:
    return [block for section in page.sections for block in section.blocks if type(block) is kind]


def figure(page: Page, name: str) -> Figure:
    (found,) = (block.figure for block in blocks(page, Picture) if block.name == name)
    return found


def lines(axes: Any, color: str) -> list[tuple[list[float], list[float]]]:
    return [
        (np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist())
        for line in axes.lines
        if line.get_color() == COLORS[color]
    ]


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Page:
    monkeypatch.setattr(pages, "load_dataset", lambda name: {"digits": DATASET}[name])
    return pages.comparison(results_of(tmp_path, *(record(seed, 8 + seed) for seed in range(3))))


def test_the_forest_plot_places_accuracies_by_their_error():
    many = statistics.summarize([98.9, 99.0, 99.1], (0.0, 100.0))
    few = statistics.summarize([97.0], (0.0, 100.0))
    comparisons = [
        ForestRow("one", 99.2, 0.005, many, many.interval),
        ForestRow("two", 98.0, 0.5, few, None),
    ]
    drawn = charts.published_and_ours(comparisons)
    axes: Any = drawn.axes[0]
    interval, mean, single = lines(axes, "test")
    low, high = many.interval
    assert interval == (pytest.approx([100 - low, 100 - high]), [0, 0])
    assert (mean, single) == (([pytest.approx(1.0)], [0]), ([pytest.approx(3.0)], [1]))
    published = lines(axes, "published")
    assert published == [([pytest.approx(0.8)], [0]), ([pytest.approx(2.0)], [1])]
    filled, hollow = (to_hex(axes.lines[i].get_markerfacecolor()) for i in (1, 3))
    assert (filled, hollow) == (COLORS["test"].lower(), "#ffffff")
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["one", "99.20 | 99.00 ± 0.10", "two", "98 | 97.00"]
    wide: Any = charts.published_and_ours(comparisons, wide=True).axes[0]
    texts = [text.get_text() for text in wide.texts]
    assert texts == ["one", "99.20 | 99.00 ± 0.10 (n = 3)", "two", "98 | 97.00 (n = 1)"]
    drawn.draw_without_rendering()
    labels = {tick.get_text(): tick.get_position()[0] for tick in axes.get_xticklabels()}
    assert labels["99"] == 1.0
    # Better results are further to the right.
    assert axes.get_xlim()[0] > axes.get_xlim()[1]


def test_the_forest_plot_has_rows_with_a_figure_and_ensembles(page):
    (axes,) = figure(page, "published-and-ours").axes
    assert [text.get_text() for text in axes.texts[::2]] == ["T plain", "T plain (2)", "T vote"]
    texts = [block.text for block in blocks(page, Text)]
    assert any(text.startswith("The 3 rows have 4 published figures: 1 inside,") for text in texts)


def test_every_evaluation_is_drawn(page):
    axes = figure(page, "toy-accuracy").axes[0]
    assert axes.get_title(loc="left") == "plain"
    *seeds, mean = lines(axes, "test")
    epochs = [15 / 18, 1.0, 33 / 18, 2.0]
    expected = [pytest.approx([90, 50, 30, 8 + seed]) for seed in range(3)]
    assert seeds == [(pytest.approx(epochs), errors) for errors in expected]
    assert mean[1] == pytest.approx([90, 50, 30, 9])
    # The published figures, 91% and 99.5%, as lines across the plot.
    published = [ends for _, ends in lines(axes, "published")]
    assert published == [[pytest.approx(9.0)] * 2, [pytest.approx(0.5)] * 2]


def test_plots_of_all_rows_are_legible_on_a_phone_and_on_a_screen():
    articles = all_articles()
    names = [
        f"{article.letter} {row.id}{end}"
        for article in articles
        for row in article.entries
        for figure, end in zip(row.figures, ("", " (2)"), strict=False)
        if figure.value is not None
    ]
    ours = statistics.summarize([99.1, 99.2, 99.3], (0.0, 100.0))
    comparisons = [
        ForestRow(name, 75.6 + i / 2, 0.005, ours, ours.interval) for i, name in enumerate(names)
    ]
    # From ten percent up to narrow ranges, which need different tick labels.
    ends = {row.id: 99.6 - i / 50 for i, row in enumerate(articles[1].rows)}
    epochs = np.arange(1, 31)
    rows = {
        name: [Series(epochs, np.linspace(10 + 80 * i / len(ends), end, 30))]
        for i, (name, end) in enumerate(ends.items())
    }
    for wide, shown in ((False, PHONE), (True, SCREEN)):
        check_legible(charts.published_and_ours(comparisons, wide=wide), shown)
        published = {name: [end, end - 0.1] for name, end in ends.items()}
        drawn = charts.accuracy_by_epoch(rows, published, wide=wide)
        check_legible(drawn, shown)
        assert len(drawn.axes) == len(ends)
        assert all(len(axes.get_yticks()) > 1 for axes in drawn.axes)


def test_published_curves_are_drawn_with_ours(page):
    accuracy, loss = figure(page, "toy-plain-published").axes
    assert lines(accuracy, "published") == [([1, 2], [0.5, 0.91])]
    assert lines(accuracy, "test")[-1] == ([1, 2], pytest.approx([0.5, 0.91]))
    assert lines(loss, "published") == []
    assert lines(loss, "training")[0][1] == pytest.approx(record().by_epoch("train_loss"))


def test_the_two_losses_are_plotted_if_the_rows_use_both(page):
    assert not [one.name for one in blocks(page, Picture) if one.name.endswith("-losses")]
    squared = dataclasses.replace(ARTICLE.rows[0].recipe, loss="mean_squared_error")
    rows = (ARTICLE.rows[0], dataclasses.replace(ARTICLE.rows[1], recipe=squared))
    article = dataclasses.replace(ARTICLE, rows=rows, ensembles=(), ablations=())
    runs: dict[tuple[str, str, str], list[Any]] = {("toy", row.id, "jax"): [] for row in rows}
    runs |= {("toy", "plain", "jax"): [record(0)]}
    (axes,) = figure(pages.comparison(Results([article], runs)), "toy-losses").axes
    ((x, entropy),), ((_, squares),) = lines(axes, "training"), lines(axes, "test")
    half = np.argmin(np.abs(np.subtract(x, 0.5)))
    assert entropy[half] == pytest.approx(np.log(2), abs=0.02)
    assert squares[half] == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("iterations", [1, 10])
def test_training_is_plotted_by_iteration_with_the_article_s_averaging(iterations):
    log = np.stack([np.linspace(2, 1, 36), np.repeat([0.5, 0.9], 18)], axis=1).astype(np.float32)
    row = dataclasses.replace(ARTICLE.rows[0], iterations=iterations)
    article = dataclasses.replace(ARTICLE, rows=(row,), ensembles=(), ablations=())
    runs = [record(0, log=log), record(1, log=log / 2), record(2)]
    page = pages.comparison(Results([article], {("toy", "plain", "jax"): runs}))
    loss, accuracy = figure(page, "toy-plain-iterations").axes
    ((x, y),) = lines(loss, "training")
    assert y[0] == pytest.approx(0.75 * log[:iterations, 0].mean(), rel=0.02)
    assert len(x) == (36 if iterations == 1 else 4)
    ((_, y),) = lines(accuracy, "training")
    assert (y[0], y[-1]) == (pytest.approx(37.5, abs=0.6), pytest.approx(67.5, abs=0.6))


def test_images_that_the_ensemble_misclassifies_are_shown_with_its_votes(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "load_dataset", lambda name: {"digits": DATASET}[name])
    # Errors on images 0-9, 1-10 and 2-11.
    page = pages.comparison(results_of(tmp_path, *(record(seed) for seed in range(3))))
    axes = figure(page, "toy-vote-misclassified").axes
    order = [*range(2, 10), 1, 10]
    shown = [int(np.asarray(one.images[0].get_array())[0, 0]) for one in axes]
    assert shown == order
    titles = [one.get_title() for one in axes]
    assert titles[0] == "2 → 3\n3 of 3"
    assert titles[-1] == "0 → 1\n2 of 3"


def test_without_the_dataset_only_its_images_are_left_out(tmp_path, monkeypatch):
    def missing(name):
        raise DatasetNotFound(f"no {name}")

    monkeypatch.setattr(pages, "load_dataset", missing)
    page = pages.comparison(results_of(tmp_path, *(record(seed) for seed in range(3))))
    assert not any("misclassified" in block.name for block in blocks(page, Picture))
    assert any("can't be shown without" in block.text for block in blocks(page, Text))


def test_without_records_there_are_only_tables(tmp_path):
    page = pages.comparison(Results.load([ARTICLE], tmp_path))
    assert blocks(page, Picture) == []
    (table,) = blocks(page, Table)
    assert [row[0] for row in table.rows] == ["plain", "", "variant", "vote"]
    assert [row[2] for row in table.rows] == ["not run", "", "not run", "not run"]


def test_report_and_check_are_mutually_exclusive(tmp_path):
    done = run(tmp_path, "experiments.compare", "--report", "--check")
    assert done.returncode == 2
    (sentence,) = done.stderr.splitlines()
    assert "(report, check)" in sentence


@pytest.mark.slow
def test_tables_of_other_records_are_written_to_their_folder(tmp_path):
    folder = tmp_path / "mine" / "results"
    missing = run(tmp_path, "experiments.compare", f"--results={folder}")
    assert missing.returncode == 1
    assert "is not a folder" in missing.stderr
    folder.mkdir(parents=True)
    shutil.copy(records.RESULTS / "cmu_cnn.jsonl", folder)
    assert run(tmp_path, "experiments.compare", f"--results={folder}").returncode == 0
    # Not into the parent folder, where those of our own records are.
    assert [path.name for path in folder.parent.iterdir()] == ["results"]
    written = (folder / "RESULTS.md").read_text()
    ours = (records.RESULTS.parent / "RESULTS.md").read_text()
    row = next(line for line in ours.splitlines() if line.startswith("| `cmu_cnn` |"))
    assert row in written.splitlines()

    assert (folder / "table.csv").exists()
    check = run(tmp_path, "experiments.compare", f"--results={folder}", "--check")
    assert check.returncode == 0
    (folder / "table.tex").unlink()
    (folder / "table.tex").mkdir()
    refused = run(tmp_path, "experiments.compare", f"--results={folder}")
    assert refused.returncode == 1
    assert "table.tex can't be written (Is a directory)" in refused.stderr.splitlines()[0]


def test_our_records_have_the_tracked_pages_also_by_another_path(tmp_path, monkeypatch):
    for module in ("Results", "cards", "exports", "rendering", "sections", "times"):
        monkeypatch.setattr(compare, module, MagicMock())  # Only the paths matter here.
    monkeypatch.chdir(records.RESULTS.parent)
    link = tmp_path / "link"
    link.symlink_to(records.RESULTS)
    for folder in (Path("results"), link):
        assert [path.resolve() for path in compare.files(folder)] == list(compare.files())


def test_a_page_that_is_missing_or_old_fails_the_check(tmp_path, monkeypatch):
    page = tmp_path / "RESULTS.md"
    monkeypatch.setattr(compare, "files", lambda _: {page: "as generated"})
    for name, value in {"_RESULTS": tmp_path, "_REPORT": False, "_CHECK": True}.items():
        monkeypatch.setattr(compare, name, SimpleNamespace(value=value))
    for text in (None, "edited"):
        if text:
            page.write_text(text)
        with pytest.raises(Failure, match=r"RESULTS\.md is out of date; .* without --check"):
            compare.main([])
    page.write_text("as generated")
    compare.main([])
