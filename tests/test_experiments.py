"""The articles' rows, their records, the statistics and the tables, on synthetic records."""

import dataclasses
import json
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from experiments import analysis, compare, records, rendering, statistics
from experiments.analysis import Results
from experiments.articles import Article, Comparison, Curve, Ensemble, Row, all_articles
from experiments.records import Record
from mnist_jax.config import Recipe
from mnist_jax.errors import Failure, UsageError
from mnist_jax.models import abstract_model

ARTICLES = all_articles()
ROWS = [(article, row) for article in ARTICLES for row in article.rows]
RECIPE = Recipe(model="lenet", dataset="digits", batch_size=100, epochs=2, learning_rate=0.5)
VARIANT = dataclasses.replace(RECIPE, model_args={"pooling": "max"})
ARTICLE = Article(
    name="toy",
    letter="T",
    title="A toy",
    rows=(
        Row(
            id="plain",
            recipe=RECIPE,
            published="91.00%",
            figure=91.0,
            source="nowhere",
            curves=(
                Curve(column="test_accuracy", values=(0.5, 0.91), rounding=0.005),
                Curve(column="train_loss"),
            ),
        ),
        Row(id="variant", recipe=VARIANT, published="nothing", figure=None, source="nowhere"),
    ),
    ensembles=(
        Ensemble(
            id="vote",
            members="plain",
            size=3,
            published="92.00%",
            figure=92.0,
            framework="PyTorch",
            source="nowhere",
        ),
    ),
    comparisons=(Comparison(question="Better?", first="toy/variant", second="toy/plain"),),
)
LABELS = np.arange(100) % 10


def record(seed=0, wrong=10, row="plain", recipe=RECIPE, framework="jax", dirty=False):
    """A run that errs on `wrong` images, beginning with number `seed`."""
    predictions = LABELS.copy()
    predictions[seed : seed + wrong] = (LABELS[seed : seed + wrong] + 1) % 10
    accuracy = (100 - wrong) / 100
    rows = [
        {
            "step": step,
            "train_loss": 2.0 / step,
            "train_accuracy": 0.5,
            "test_loss": 1.0,
            "test_accuracy": found,
            "images_per_second": 1000.0,
        }
        for step, found in ((15, 0.1), (18, 0.5), (33, 0.7), (36, accuracy))
    ]
    return Record.of_run(
        dataclasses.replace(recipe, seed=seed),
        rows,
        36,
        predictions,
        LABELS,
        {
            "seeds_together": 2,
            "git": {"revision": "0" * 40, "dirty": dirty},
            "command": ["/private/path"],
            "device": {"platform": "cpu", "kind": "cpu", "mesh": {"seed": 2, "data": 1}},
        },
        article="toy",
        row=row,
        framework=framework,
        seconds=60.0,
    )


def results_of(tmp_path, *found):
    for one in found:
        records.append(one, tmp_path)
    return Results.load([ARTICLE], tmp_path)


def test_articles_are_found_by_being_there():
    assert [article.letter for article in ARTICLES] == list("ABCDEF")
    folder = Path(records.__file__).parent
    assert all((folder / f"{article.name}.py").exists() for article in ARTICLES)


@pytest.mark.parametrize(("article", "row"), ROWS, ids=lambda value: getattr(value, "id", ""))
def test_rows_can_be_trained_and_state_what_was_printed(article, row):
    assert [other.id for other in article.rows].count(row.id) == 1
    abstract_model(row.recipe.model, **row.recipe.model_args)
    if row.figure is not None:
        assert any(f"{row.figure / scale:g}" in row.published for scale in (1, 100))
    for curve in row.curves:
        assert len(curve.values) <= row.recipe.epochs


def test_comparisons_and_ensembles_name_rows():
    names = {f"{article.name}/{row.id}" for article, row in ROWS}
    for article in ARTICLES:
        for comparison in article.comparisons:
            assert {comparison.first, comparison.second} <= names
        for members in article.ensembles:
            article.row(members.members)


def test_an_unknown_row_is_named_with_the_rows_there_are():
    with pytest.raises(UsageError, match="no row 'plane'; its rows are plain, variant"):
        ARTICLE.row("plane")


def test_a_record_survives_its_file(tmp_path):
    written = record()
    records.append(written, tmp_path)
    (read,) = records.load("toy", tmp_path)
    assert read.recipe == written.recipe
    assert read.curve == written.curve
    np.testing.assert_array_equal(read.predictions, written.predictions)
    np.testing.assert_array_equal(read.correct, written.predictions == LABELS)
    assert (read.accuracy, read.seed, read.seconds) == (90.0, 0, 60.0)
    assert "/private/path" not in (tmp_path / "toy.jsonl").read_text()


def test_a_curve_by_epoch_takes_the_last_test_and_the_mean_of_training():
    by_epoch = record().by_epoch
    assert by_epoch("test_accuracy") == [0.5, 0.9]
    first = (15 * 2 / 15 + 3 * 2 / 18) / 18
    assert by_epoch("train_loss")[0] == pytest.approx(first, rel=1e-5)
    assert record().accuracy_at(1) == 50.0


def test_a_record_is_refused_twice(tmp_path):
    records.append(record(), tmp_path)
    with pytest.raises(Failure, match=r"Lines 1 and 2 .* both of row plain, seed 0, jax"):
        records.append(record(wrong=5), tmp_path)
    assert len(records.load("toy", tmp_path)) == 1


def test_processes_append_at_the_same_time(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda seed: records.append(record(seed), tmp_path), range(40)))
    assert {r.seed for r in records.load("toy", tmp_path)} == set(range(40))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"test_accuracy": 0.95}, "contradict"),
        ({"seed": 1}, "contradict"),
        ({"selected_step": 33}, "contradict"),
        ({"schema": 0}, "not of schema"),
        ({"article": "other"}, "a record of other"),
        ({"recipe": {"model": "lenet"}}, "recipe_sha256"),
        ({"extra": 1}, "extra is missing or unknown"),
        ({"predictions": "?"}, "damaged"),
        ({"curve": {}}, "damaged"),
    ],
)
def test_a_changed_record_is_refused(tmp_path, change, what):
    line = json.dumps(json.loads(record().to_json()) | change)
    (tmp_path / "toy.jsonl").write_text(line + "\n")
    with pytest.raises(Failure, match=f"Line 1 of .*{what}"):
        records.load("toy", tmp_path)


def test_half_a_line_is_refused(tmp_path):
    (tmp_path / "toy.jsonl").write_text(record().to_json()[:1000])
    with pytest.raises(Failure, match=r"Line 1 of .* is damaged"):
        records.load("toy", tmp_path)


def test_records_of_another_recipe_or_row_are_refused(tmp_path):
    longer = dataclasses.replace(RECIPE, epochs=3)
    with pytest.raises(Failure, match="row plain, seed 0 was made with another recipe"):
        results_of(tmp_path, record(recipe=longer))
    (tmp_path / "toy.jsonl").unlink()
    with pytest.raises(Failure, match="row gone, which it does not have"):
        results_of(tmp_path, record(row="gone"))


def test_the_prediction_interval_is_that_of_one_more_run():
    summary = statistics.summarize([1.0, 2.0, 3.0], (0.0, 6.0))
    # t for 2 degrees of freedom is 4.3027.
    assert summary.interval == (0.0, 6.0)
    wide = statistics.summarize([1.0, 2.0, 3.0], (-math.inf, math.inf))
    reach = 4.302653 * math.sqrt(4 / 3)
    assert wide.interval == pytest.approx((2 - reach, 2 + reach), rel=1e-6)
    assert math.isnan(statistics.summarize([1.0], (0.0, 1.0)).sd)


def test_the_prediction_interval_holds_19_of_20():
    draws = np.random.default_rng(0).normal(50, 1, (2000, 6))
    intervals = [statistics.summarize(d[:5].tolist(), (0, 100)).interval for d in draws]
    hits = [low < d[5] < high for d, (low, high) in zip(draws, intervals, strict=True)]
    assert np.mean(hits) == pytest.approx(0.95, abs=0.015)


def test_paired_and_welch():
    first, second = [3.0, 4.0, 6.0], [1.0, 3.0, 4.0]
    paired = statistics.paired(first, second)
    # Differences 2, 1, 2: mean 5/3, standard error 1/3, t = 5.
    assert paired.mean == pytest.approx(5 / 3)
    assert (paired.low, paired.high) == pytest.approx((5 / 3 - 4.302653 / 3, 5 / 3 + 4.302653 / 3))
    assert paired.p == pytest.approx(0.03775, abs=1e-4)
    welch = statistics.welch(first, second)
    assert welch.mean == pytest.approx(5 / 3)
    assert welch.p > paired.p
    for test in (statistics.paired, statistics.welch):
        certain = test([2.0, 2.0], [1.0, 1.0])
        assert (certain.mean, certain.low, certain.high) == (1.0, 1.0, 1.0)
        assert math.isnan(certain.p)


def test_mcnemar_counts_only_what_differs():
    first, second = np.ones(100, bool), np.ones(100, bool)
    second[:6] = False
    assert statistics.mcnemar(first, second) == (6, 0, pytest.approx(2 * 0.5**6))
    assert statistics.mcnemar(first, first) == (0, 0, 1.0)


def test_a_vote_takes_the_majority_and_of_equals_the_lowest():
    votes = np.array([[3, 9, 5], [3, 1, 4], [7, 2, 5]])
    np.testing.assert_array_equal(statistics.vote(votes), [3, 1, 5])


@pytest.mark.parametrize(
    ("figure", "rounding", "expected"),
    [
        (90.0, 0.005, "inside"),
        (96.0, 0.005, "above"),
        (84.0, 0.005, "below"),
        (96.0, 3.0, "inside"),
        (None, 0.005, "not a claim"),
    ],
)
def test_verdicts(figure, rounding, expected):
    summary = analysis.percentages([89.0, 90.0, 91.0])
    assert analysis.verdict(summary, figure, rounding) == expected


def test_too_few_runs_get_no_verdict():
    assert analysis.verdict(analysis.percentages([89.0, 90.0]), 90.0, 0.005) == "provisional"


def test_outcomes(tmp_path):
    found = [record(seed, wrong) for seed, wrong in ((0, 9), (1, 10), (2, 8))]
    results = results_of(tmp_path, *found)
    outcome = analysis.outcome(results, ARTICLE, ARTICLE.rows[0])
    assert outcome.summary is not None
    assert (outcome.summary.n, outcome.summary.mean) == (3, pytest.approx(91.0))
    assert (outcome.verdict, outcome.seconds, outcome.estimated) == ("inside", 30.0, False)
    assert (outcome.images_per_second, outcome.device) == (2000.0, "2 CPU cores")
    other = analysis.outcome(results, ARTICLE, ARTICLE.rows[1])
    assert (other.summary, other.seconds, other.estimated) == (None, 2 * 60_000 / 2000, True)
    at_first = dataclasses.replace(ARTICLE.rows[0], epoch=1)
    summary = analysis.outcome(results, ARTICLE, at_first).summary
    assert summary is not None
    assert summary.mean == pytest.approx(50.0)


def test_variants_are_compared_on_shared_seeds(tmp_path):
    plain = [record(seed, wrong) for seed, wrong in ((0, 10), (1, 12), (2, 9), (5, 1))]
    variant = [
        record(seed, wrong, "variant", VARIANT) for seed, wrong in ((0, 6), (1, 7), (2, 7), (6, 50))
    ]
    found = analysis.variants(results_of(tmp_path, *plain, *variant), ARTICLE.comparisons[0])
    assert (found.first, found.second) == ([94.0, 93.0, 93.0], [90.0, 88.0, 91.0])
    assert found.difference is not None
    assert found.difference.mean == pytest.approx(11 / 3)
    assert found.only_right == (4, 0)
    assert found.p == pytest.approx(2 * 0.5**4)


def test_points_of_a_curve(tmp_path):
    results = results_of(tmp_path, *(record(seed, 9) for seed in range(3)))
    row = ARTICLE.rows[0]
    shown, picture = (analysis.points(results, ARTICLE, row, curve) for curve in row.curves)
    assert [(p.epoch, p.published, p.verdict) for p in shown] == [
        (1, 0.5, "inside"),
        (2, 0.91, "inside"),
    ]
    assert [(p.epoch, p.published) for p in picture] == [(1, None), (2, None)]


def test_an_ensemble_is_right_where_most_are(tmp_path):
    # Errors on images 0-9, 1-10 and 2-11: at least two err on images 1 to 10.
    results = results_of(tmp_path, *(record(seed) for seed in range(3)))
    assert analysis.ensemble(results, ARTICLE, ARTICLE.ensembles[0]) == pytest.approx(90.0)
    two = Results.load([ARTICLE], tmp_path / "empty")
    assert analysis.ensemble(two, ARTICLE, ARTICLE.ensembles[0]) is None


def test_frameworks_are_compared(tmp_path):
    ours = [record(seed, wrong) for seed, wrong in ((0, 9), (1, 10), (2, 8))]
    theirs = [record(seed, wrong, framework="torch") for seed, wrong in ((0, 12), (1, 13), (2, 11))]
    results = results_of(tmp_path, *ours, *theirs)
    difference = analysis.cross_framework(results, ARTICLE, ARTICLE.rows[0])
    assert difference is not None
    assert difference.mean == pytest.approx(3.0)
    assert analysis.cross_framework(results, ARTICLE, ARTICLE.rows[1]) is None
    assert "+3.00 [" in rendering.markdown(results)


def test_tables_say_what_there_is(tmp_path):
    results = results_of(tmp_path, *(record(seed, 8 + seed, dirty=seed > 0) for seed in range(3)))
    text = rendering.markdown(results)
    assert "| `plain` | 91.00%, PyTorch; last epoch | 91.00 ± 1.00 (n = 3) | 90.00–92.00 |" in text
    assert "Of 2 rows: 1 inside, 1 not run." in text
    assert "- T, `toy`: `variant`" in text
    assert "- `plain`: seeds 1, 2 ran code that is not a committed revision." in text
    (line,) = rendering.csv_table(results).splitlines()[1:]
    assert line.startswith("toy,plain,91.00%,91.0,PyTorch,last epoch,jax,3,91.0000,1.0000,")
    assert r"T & plain & 91.00\% (PyTorch) & 3 & 91.00 $\pm$ 1.00 &" in rendering.latex(results)
    for table in text.split("\n\n"):
        if table.startswith("|"):
            assert len({line.count("|") for line in table.splitlines()}) == 1


def test_files_follow_from_the_records_alone(tmp_path):
    assert compare.files(tmp_path) == compare.files(tmp_path)
    assert [path.name for path in compare.files(tmp_path)] == [
        *("README.md", "table.csv", "table.tex")
    ]


SCRIPT = """
from experiments import runner
from experiments.articles import Article, Row
from mnist_jax.config import Recipe

recipe = Recipe(
    model="shallow", dataset="digits", validation=100, batch_size=100, epochs=2, learning_rate=0.5,
    selection="best_validation", eval_every=10,
)
row = Row(id="row", recipe=recipe, published="", figure=None, source="")
runner.run(Article(name="toy", letter="T", title="", rows=(row,)))
"""


def test_an_article_script_runs_what_is_missing(tmp_path):
    def run(*flags):
        arguments = [f"--results={tmp_path}/results", f"--workdir={tmp_path}/runs", *flags]
        command = [sys.executable, "-c", SCRIPT, *arguments]
        environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "seeds to run [0, 1]" in run("--num_seeds=2")
    first = records.load("toy", tmp_path / "results")
    assert [r.seed for r in first] == [0, 1]
    # 1,400 images to train on: 14 steps an epoch, evaluated every 10 and at its end.
    assert first[0].curve["step"] == [10, 14, 20, 28]
    best = np.max(first[0].curve["validation_accuracy"])
    selected = first[0].curve["step"].index(first[0].selected_step)
    assert first[0].curve["validation_accuracy"][selected] == best
    # A record that was lost after its run is made from the run directory.
    lines = (tmp_path / "results/toy.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "results/toy.jsonl").write_text(lines[0])
    assert "epoch" not in run("--num_seeds=2", "--experiment=row")
    assert (tmp_path / "results/toy.jsonl").read_text().splitlines(keepends=True) == lines


@pytest.mark.parametrize(
    "recipe",
    [
        dataclasses.replace(RECIPE, epochs=3, eval_every=10),
        Recipe(
            model="shallow",
            model_args={"init": "nielsen"},
            dataset="digits",
            validation=100,
            shuffle="never",
            batch_size=10,
            epochs=3,
            learning_rate=0.1,
            weight_decay=0.1,
            weight_decay_sense="nielsen",
            selection="best_validation",
        ),
        Recipe(
            model="batchnorm_cnn",
            dataset="digits",
            mean=0.5,
            std=0.5,
            batch_size=100,
            epochs=2,
            optimizer="adam",
            learning_rate=0.001,
            evaluation="training_mode",
        ),
    ],
    ids=lambda recipe: recipe.model,
)
def test_torch_runs_make_records(recipe):
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)  # More only wait for each other in steps this small.
    from rich.console import Console

    from experiments import torch_runs
    from mnist_jax.data import load_dataset

    dataset = load_dataset("digits")
    run = torch_runs.train(Console(quiet=True), recipe, dataset)
    made = Record.of_run(
        recipe,
        run.metrics,
        run.selected_step,
        run.predictions,
        dataset.test.labels,
        torch_runs.environment(),
        article="toy",
        row="row",
        framework="torch",
        seconds=run.seconds,
    )
    read = Record.from_json(made.to_json())
    images = len(dataset.train) - recipe.validation
    assert read.curve["step"][-1] == recipe.epochs * math.ceil(images / recipe.batch_size)
    losses = read.by_epoch("train_loss")
    assert losses[-1] < losses[0]
    assert read.accuracy == pytest.approx(
        100 * read.curve["test_accuracy"][read.curve["step"].index(read.selected_step)], abs=1e-3
    )


def test_torch_refuses_what_it_has_no_reference_of():
    pytest.importorskip("torch")
    from rich.console import Console

    from experiments import torch_runs
    from mnist_jax.data import load_dataset

    train = partial(torch_runs.train, Console(quiet=True), dataset=load_dataset("digits"))
    with pytest.raises(UsageError, match="no PyTorch reference of lenet"):
        train(recipe=dataclasses.replace(RECIPE, model_args={"kernel_size": 3}))
    with pytest.raises(UsageError, match="one-pixel shifts"):
        train(recipe=dataclasses.replace(RECIPE, one_pixel_shifts=True))


@pytest.mark.parametrize("article", ARTICLES, ids=lambda article: article.letter)
def test_every_article_has_rows_for_torch(article):
    pytest.importorskip("torch")
    from rich.console import Console

    from experiments import torch_runs
    from mnist_jax.data import load_dataset

    row = next(row for row in article.rows if not row.recipe.one_pixel_shifts)
    recipe = dataclasses.replace(
        row.recipe, epochs=1, batch_size=500, validation=row.recipe.validation // 10, eval_every=0
    )
    run = torch_runs.train(Console(quiet=True), recipe, load_dataset("digits"))
    assert len(run.metrics) == 1
