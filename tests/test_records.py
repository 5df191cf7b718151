"""Records: written, read and checked, including the committed ones."""

import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from toy_records import EXAMPLES, LABELS, RECIPE, record, results_of

from experiments.evidence import records
from experiments.evidence.steps import MOST, Steps
from mnist_jax.errors import Failure
from mnist_jax.training.schedule import Schedule

CURVE, ENVIRONMENT = (json.loads(record().to_json())[name] for name in ("curve", "environment"))


def test_a_record_survives_a_round_trip(tmp_path):
    written = record()
    records.append(written, tmp_path)
    (read,) = records.load("toy", tmp_path)
    assert read.recipe == written.recipe
    assert read.curve == written.curve
    np.testing.assert_array_equal(read.predictions, written.predictions)
    np.testing.assert_array_equal(read.correct, written.predictions == LABELS)
    assert (read.accuracy, read.seed, read.seconds) == (90.0, 0, 60.0)
    assert "/private/path" not in (tmp_path / "toy.jsonl").read_text()


def made_log(steps=36, seed=0):
    """Losses of many orders of magnitude, and accuracies on 50 images."""
    random = np.random.default_rng(seed)
    log = np.stack([np.exp(random.normal(-3, 2, steps)), random.integers(40, 51, steps) / 50], 1)
    return log.astype(np.float32)


def steps_of(log):
    kept = Steps.of_log(log, Schedule.of(RECIPE, EXAMPLES))
    assert kept is not None
    return kept.to_json()


def test_a_record_keeps_the_loss_and_accuracy_of_every_step(tmp_path):
    log = made_log()
    written = record(log=log)
    records.append(record(1), tmp_path)
    before = (tmp_path / "toy.jsonl").read_text()
    assert '"steps"' not in before
    records.append(written, tmp_path)
    without, read = records.load("toy", tmp_path)
    assert without.steps is None
    assert read.steps is not None
    # Unchanged, byte for byte.
    assert without.to_json() + "\n" == before
    assert read.to_json() == written.to_json()
    np.testing.assert_allclose(read.steps.accuracy, 100 * log[:, 1], rtol=1e-6)
    np.testing.assert_allclose(read.steps.loss, log[:, 0], rtol=2**-6, atol=1e-6)
    assert read.steps.images.tolist() == 2 * [*17 * [100], 50]


def test_a_record_omits_steps_that_are_unknown_or_too_many():
    log = made_log()
    log[3] = np.nan
    log[5, 0] = 1e9
    schedule = Schedule.of(RECIPE, EXAMPLES)
    for unknown in (log[:4], log[5:], made_log()[:-1], None):
        assert Steps.of_log(unknown, schedule) is None
    long = Schedule(examples=MOST + 1, batch_size=1, epochs=1, eval_every=0)
    assert Steps.of_log(made_log(MOST + 1), long) is None
    short = Schedule(examples=MOST, batch_size=1, epochs=1, eval_every=0)
    assert Steps.of_log(np.ones((MOST, 2), np.float32), short) is not None


def test_the_steps_of_the_longest_run_take_little_space():
    """As in article F: batches of 32, nearly all images right, and a falling loss."""
    random = np.random.default_rng(0)
    steps = 28_125
    right = random.binomial(32, np.linspace(0.97, 0.998, steps))
    loss = np.exp(random.normal(np.linspace(-2, -5, steps), 1.5))
    log = np.stack([loss, right / 32], 1).astype(np.float32)
    kept = Steps.of_log(log, Schedule(examples=60_000, batch_size=32, epochs=15, eval_every=0))
    assert kept is not None
    assert len(json.dumps(kept.to_json())) < 60_000


@pytest.mark.parametrize(
    "change",
    [
        {"examples": 1700},
        {"right": "x"},
        {"loss": steps_of(made_log(seed=1))["loss"]},
        {"more": 1},
    ],
)
def test_steps_that_contradict_the_record_are_refused(tmp_path, change):
    values = json.loads(record(log=made_log()).to_json())
    values["steps"].update(change)
    (tmp_path / "toy.jsonl").write_text(json.dumps(values) + "\n")
    with pytest.raises(Failure, match=r"Line 1 of .* is damaged"):
        records.load("toy", tmp_path)


@pytest.mark.parametrize("article", [path.stem for path in records.RESULTS.glob("*.jsonl")])
def test_newer_fields_do_not_change_the_recipes_of_committed_records(article):
    lines = (records.RESULTS / f"{article}.jsonl").read_text().splitlines()
    assert lines
    for line, read in zip(lines, records.load(article), strict=True):
        assert json.loads(read.recipe.to_json()) == json.loads(line)["recipe"]


def test_a_curve_by_epoch_has_the_last_test_accuracy_and_the_mean_training_loss():
    by_epoch = record().by_epoch
    assert by_epoch("test_accuracy") == [0.5, 0.9]
    first = (15 * 2 / 15 + 3 * 2 / 18) / 18
    assert by_epoch("train_loss")[0] == pytest.approx(first, rel=1e-5)
    assert record().accuracy_at(1) == 50.0


def test_a_second_record_of_a_run_is_not_added(tmp_path):
    assert records.append(record(), tmp_path)
    before = (tmp_path / "toy.jsonl").read_bytes()
    assert not records.append(record(wrong=5), tmp_path)
    assert (tmp_path / "toy.jsonl").read_bytes() == before


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(Failure, match="file is no folder; give another --results"):
        records.load("toy", tmp_path / "file")


def test_a_file_with_two_records_of_a_seed_is_refused(tmp_path):
    lines = [record(wrong=wrong).to_json() + "\n" for wrong in (10, 5)]
    (tmp_path / "toy.jsonl").write_text("".join(lines))
    with pytest.raises(Failure, match=r"Lines 1 and 2 .* both of row plain, seed 0, jax"):
        records.load("toy", tmp_path)


def test_a_process_killed_while_it_adds_a_record_leaves_the_file_whole(tmp_path, monkeypatch):
    records.append(record(), tmp_path)
    before = (tmp_path / "toy.jsonl").read_bytes()

    def killed(path, content):
        path.write_text(content[: len(content) // 2].decode())
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", killed)
    with pytest.raises(KeyboardInterrupt):
        records.append(record(1), tmp_path)
    assert (tmp_path / "toy.jsonl").read_bytes() == before


def test_concurrent_appends_add_each_record_once(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        seeds = [seed for seed in range(20) for _ in range(2)]
        added = list(pool.map(lambda seed: records.append(record(seed), tmp_path), seeds))
    assert sum(added) == 20
    assert {r.seed for r in records.load("toy", tmp_path)} == set(range(20))


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
        ({"curve": {}}, "columns of its curve are not"),
        ({"curve": CURVE | {"step": [1]}}, "different lengths"),
        ({"curve": CURVE | {"validation_accuracy": []}}, "columns of its curve are not"),
        ({"curve": {name: [] for name in CURVE}}, "damaged"),
        ({"framework": "keras"}, "its framework is 'keras'"),
        ({"seconds": 0}, "its duration or speed"),
        ({"seconds": "long"}, "damaged"),
        ({"images_per_second": float("nan")}, "its duration or speed"),
        ({"environment": {}}, "damaged"),
        ({"environment": ENVIRONMENT | {"seeds_together": 0}}, "its device is none"),
        ({"environment": ENVIRONMENT | {"device": {"platform": "cpu"}}}, "damaged"),
        ({"environment": ENVIRONMENT | {"git": {}}}, "its code revision is none"),
        ({"environment": ENVIRONMENT | {"before": [{}]}}, "damaged"),
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


def test_a_record_is_added_to_a_file_without_a_final_newline(tmp_path):
    (tmp_path / "toy.jsonl").write_text(record().to_json())
    assert records.append(record(1), tmp_path)
    assert [one.seed for one in records.load("toy", tmp_path)] == [0, 1]


def test_bytes_that_are_not_utf_8_are_refused(tmp_path):
    (tmp_path / "toy.jsonl").write_bytes(record().to_json().encode() + b"\n\xff")
    with pytest.raises(Failure, match=r"Line 2 of .* is damaged: 'utf-8' codec"):
        records.load("toy", tmp_path)


def test_a_folder_that_cannot_have_records_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(Failure, match=r"file/results can't be written .*; give another --results"):
        records.require_writable(tmp_path / "file/results")


def test_a_truncated_line_is_refused(tmp_path):
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
