"""The articles' rows and the scripts that run them."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from toy_records import ARTICLE

from experiments import records
from experiments.articles import all_articles
from mnist_jax.errors import UsageError
from mnist_jax.models import abstract_model

ARTICLES = all_articles()

ROWS = [(article, row) for article in ARTICLES for row in article.rows]


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
