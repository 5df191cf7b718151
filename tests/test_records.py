"""The committed records: written, read, checked."""

import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from toy_records import LABELS, RECIPE, record, results_of

from experiments.evidence import records
from mnist_jax.errors import Failure


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


@pytest.mark.parametrize("article", [path.stem for path in records.RESULTS.glob("*.jsonl")])
def test_younger_fields_leave_the_recipes_of_records_as_they_were(article):
    lines = (records.RESULTS / f"{article}.jsonl").read_text().splitlines()
    for line, read in zip(lines, records.load(article), strict=True):
        assert json.loads(read.recipe.to_json()) == json.loads(line)["recipe"]


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


def test_a_deeply_nested_line_is_refused(tmp_path):
    (tmp_path / "toy.jsonl").write_text(10**5 * '{"a":')
    with pytest.raises(Failure, match=r"Line 1 of .* is damaged: it is nested too deeply"):
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
