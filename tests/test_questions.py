"""Analyses of the records: pairs of rows, PyTorch, selection of the epoch, early stopping."""

import dataclasses

import numpy as np
import pytest
from scipy import stats
from toy_records import ARTICLE, RECIPE, VARIANT, record, results_of

from experiments.evidence import comparisons, questions, rendering, statistics, stopping
from experiments.evidence.results import Results


def test_variants_are_compared_on_shared_seeds(tmp_path):
    plain = [record(seed, wrong) for seed, wrong in ((0, 10), (1, 12), (2, 9), (5, 1))]
    variant = [
        record(seed, wrong, "variant", VARIANT) for seed, wrong in ((0, 6), (1, 7), (2, 7), (6, 50))
    ]
    found = comparisons.variants(results_of(tmp_path, *plain, *variant), ARTICLE.ablations[0])
    assert (found.first, found.second) == ([94.0, 93.0, 93.0], [90.0, 88.0, 91.0])
    assert found.difference is not None
    assert found.difference.mean == pytest.approx(11 / 3)
    assert found.mcnemar == pytest.approx([2 * 0.5**4, 2 * 0.5**5, 2 * 0.5**2])
    assert found.changed == ["pooling max / avg"]
    (line,) = (
        line
        for line in rendering.markdown(results_of(tmp_path)).splitlines()
        if line.startswith("| Better? |")
    )
    assert "| pooling max / avg | 3 |" in line
    # A single comparison needs no adjustment of its p-value.
    p = f"{stats.ttest_rel(found.first, found.second).pvalue:.3g}"
    assert line.endswith(f"| {p} | {p} | < 0.05 for 0 of 3 seeds; 0.0625 to 0.5 |")


def test_two_seeds_or_a_stuck_run_allow_no_test(tmp_path):
    runs = [record(0, 10), record(1, 12), record(5, 9)]
    others = [record(seed, 7 + seed, "variant", VARIANT) for seed in range(2)]
    results = results_of(tmp_path, *runs, *others)
    assert comparisons.variants(results, ARTICLE.ablations[0]).difference is None
    learned = [*runs[:2], record(2, 9)], [*others, record(2, 8, "variant", VARIANT)]
    names = ("toy", "plain", "jax"), ("toy", "variant", "jax")
    tried = Results([ARTICLE], dict(zip(names, learned, strict=True)))
    assert comparisons.variants(tried, ARTICLE.ablations[0]).difference is not None
    learned[0][0] = dataclasses.replace(runs[0], predictions=np.zeros(100, np.uint8))
    assert comparisons.variants(tried, ARTICLE.ablations[0]).difference is None
    assert "| 2 *provisional* |  |  |  | < 0.05 for 0 of 2 seeds;" in rendering.markdown(results)


def test_variants_are_compared_by_the_chosen_measure():
    accuracies = {  # After epochs 1 to 4, of which the last two are the second half.
        "variant": ([10, 20, 90, 94], [30, 20, 90, 92]),
        "plain": ([5, 6, 7, 8], [9, 6, 5, 5]),
    }
    runs = {}
    for name, recipe in (("variant", VARIANT), ("plain", RECIPE)):
        recipe = dataclasses.replace(recipe, epochs=4)
        runs["toy", name, "jax"] = [
            dataclasses.replace(
                record(seed, 10, name, recipe),
                ended_after=None,
                curve={"step": [18, 36, 54, 72], "test_accuracy": [a / 100 for a in by_epoch]},
            )
            for seed, by_epoch in enumerate(accuracies[name])
        ]
    results = Results([ARTICLE], runs)

    def compared(measure):
        return comparisons.variants(
            results, dataclasses.replace(ARTICLE.ablations[0], measure=measure)
        )

    first = compared("first_epoch")
    assert (first.first, first.second) == ([10.0, 30.0], [5.0, 9.0])
    fluctuation = compared("fluctuation")
    assert fluctuation.first == pytest.approx([8**0.5, 2**0.5])
    assert fluctuation.second == pytest.approx([0.5**0.5, 0])
    # McNemar's test applies to the selected networks only.
    assert len(compared("accuracy").mcnemar) == 2
    assert not [*first.mcnemar, *fluctuation.mcnemar]


def test_a_fluctuation_of_one_seed_is_provisional(tmp_path):
    question = dataclasses.replace(ARTICLE.ablations[0], measure="fluctuation")
    article = dataclasses.replace(ARTICLE, ablations=(question,))
    found = [record(0, 10), record(0, 8, "variant", VARIANT)]
    # Four epochs, the last two of which are the second half.
    runs = results_of(tmp_path, *found).runs
    runs = {
        key: [
            dataclasses.replace(
                run,
                recipe=dataclasses.replace(run.recipe, epochs=4),
                curve={**run.curve, "step": [18, 36, 54, 72]},
            )
            for run in value
        ]
        for key, value in runs.items()
    }
    text = rendering.markdown(Results([article], runs))
    (line,) = (one for one in text.splitlines() if one.startswith("| Better? |"))
    # 70 and 92%, 70 and 90%.
    assert "| Better? | fluctuation | `toy/variant` 15.556 | `toy/plain` 14.142 |" in line
    assert "| 1 *provisional* |  |  |  |  |" in line


@pytest.mark.parametrize(("patience", "expected"), [(1, 3), (2, 6), (3, 7), (4, 8)])
def test_early_stopping_ends_after_patience_epochs_without_improvement(patience, expected):
    # An equal accuracy is no improvement.
    validation = [0.5, 0.6, 0.6, 0.7, 0.6, 0.7, 0.6, 0.5]
    assert stopping.last_epoch(validation, patience) == expected


def test_validation_images_evaluate_the_last_epoch_if_it_is_selected():
    held = dataclasses.replace(RECIPE, validation=10)
    row = dataclasses.replace(ARTICLE.rows[0], recipe=held)
    article = dataclasses.replace(ARTICLE, rows=(row, *ARTICLE.rows[1:]))
    found = [
        dataclasses.replace(
            record(seed, 10),
            curve={"step": [18, 36], "validation_accuracy": [0.9, last]},
            recipe=dataclasses.replace(held, seed=seed),
        )
        for seed, last in enumerate((0.5, 0.7))
    ]
    runs = {("toy", "plain", "jax"): found, ("toy", "variant", "jax"): []}
    lines = questions.held_out(Results([article], runs)).splitlines()
    assert lines[-1] == "| `toy/plain` | 91.00% | 10 | 2 | 60.00 ± 14.14 | 0.0003 |"
    chosen = dataclasses.replace(held, selection="best_validation")
    article = dataclasses.replace(article, rows=(dataclasses.replace(row, recipe=chosen),))
    assert not questions.held_out(Results([article], runs))


def test_early_stopping_is_computed_from_the_curves():
    chosen = dataclasses.replace(RECIPE, validation=10, selection="best_validation", epochs=4)
    row = dataclasses.replace(ARTICLE.rows[0], recipe=chosen)
    run = record(0, 10)
    # Two evaluations per epoch, the second one at its end.
    curve = {
        "step": [9, 18, 27, 36, 45, 54, 63, 72],
        "validation_accuracy": [0.8, 0.5, 0.8, 0.5, 0.5, 0.6, 0.9, 0.9],
        "test_accuracy": [0.81, 0.1, 0.82, 0.1, 0.1, 0.1, 0.9, 0.91],
    }
    run = dataclasses.replace(
        run, curve=curve, selected_step=72, recipe=dataclasses.replace(chosen, seed=0)
    )
    results = Results([ARTICLE], {("toy", "plain", "jax"): [run]})
    one, three = stopping.early_stopping(results, ARTICLE, row)
    assert (one.patience, one.ended.mean, one.saved.mean) == (1, 2, 2)
    # It selects the latest of the best evaluations so far, even within an epoch.
    assert (one.stopped.mean, one.full.mean) == (pytest.approx(82), pytest.approx(90))
    assert one.difference.mean == pytest.approx(-8)
    assert (three.patience, three.ended.mean, three.saved.mean) == (3, 4, 0)
    assert three.stopped.mean == pytest.approx(91)
    # Rows that select the last epoch have no criterion for stopping.
    assert not stopping.early_stopping(results, ARTICLE, ARTICLE.rows[0])


def test_the_gain_from_selecting_by_the_test_set_is_computed(tmp_path):
    # 70% within the second epoch, then 90% and 20% at its end: the second run is better before.
    results = results_of(tmp_path, record(0, 10), record(1, 80))
    found = comparisons.selection(results, ARTICLE, ARTICLE.rows[0])
    assert found is not None
    assert (found.n, found.last, found.validation, found.test) == (2, 55.0, None, 80.0)
    assert (found.gain.mean, found.gain.low, found.gain.high) == (25.0, 0.0, 50.0)
    assert comparisons.selection(results, ARTICLE, ARTICLE.rows[1]) is None
    text = rendering.markdown(results)
    assert "| `toy/plain` | 2 | 2 | 55.00 |  | 80.00 | 25.00 ± 35.36 |" in text
    assert "Over 1 rows, the median gain is 25.00 points" in text


def test_selection_by_the_test_set_is_compared_with_selection_by_validation():
    chosen = dataclasses.replace(RECIPE, validation=10, selection="best_validation")
    row = dataclasses.replace(ARTICLE.rows[0], recipe=chosen)
    # 90% at the first epoch, which was selected, and 95% at the last.
    run = record(0, 10)
    curve = {**run.curve, "test_accuracy": [0.1, 0.9, 0.7, 0.95]}
    run = dataclasses.replace(run, curve=curve, selected_step=18)
    results = Results([ARTICLE], {("toy", "plain", "jax"): [run]})
    found = comparisons.selection(results, ARTICLE, row)
    assert found is not None
    assert (found.last, found.validation, found.test) == (95.0, 90.0, 95.0)
    assert found.gain.mean == pytest.approx(5.0)


def test_frameworks_are_compared_by_difference_and_equivalence(tmp_path):
    ours = [record(seed, wrong) for seed, wrong in ((0, 9), (1, 10), (2, 8))]
    theirs = [record(seed, wrong, framework="torch") for seed, wrong in ((0, 12), (1, 13), (2, 11))]
    results = results_of(tmp_path, *ours, *theirs)
    compared = comparisons.cross_framework(results, ARTICLE, ARTICLE.rows[0])
    assert compared is not None
    assert compared.difference.mean == pytest.approx(3.0)
    # t with 4 degrees of freedom: (3 - 0.1) / sqrt(2/3).
    assert compared.equivalence == pytest.approx(stats.t.cdf(2.9 / (2 / 3) ** 0.5, 4))
    # From variances of 1 and two normal quantiles.
    needed = 2 * (stats.norm.ppf([0.95, 0.9]).sum() / 0.1) ** 2
    assert compared.needed == int(needed) + 1
    assert f"| {compared.needed:,} | out of reach |" in rendering.markdown(results)
    assert comparisons.cross_framework(results, ARTICLE, ARTICLE.rows[1]) is None
    assert "+3.00 [" in rendering.markdown(results)


@pytest.mark.parametrize(
    ("p", "rows", "shown"), [(0.04, 1, "yes"), (0.04, 2, "not shown"), (0.3, 1, "not shown")]
)
def test_equivalence_is_shown_by_the_adjusted_p_value(monkeypatch, p, rows, shown):
    """Of two rows with p = 0.04, neither is below 0.05 after the adjustment."""
    found = comparisons.Frameworks(statistics.Difference(0.0, -1.0, 1.0, 0.9), p, 20)
    monkeypatch.setattr(comparisons, "cross_framework", lambda *_: found)
    article = dataclasses.replace(ARTICLE, rows=ARTICLE.rows[:rows])
    runs = {
        ("toy", row.id, framework): [record(0, 10, row.id, row.recipe, framework)]
        for row in article.rows
        for framework in ("jax", "torch")
    }
    text = questions.cross_framework(Results([article], runs))
    assert text.count(f"| {p} | {rows * p:.3g} | 20 | {shown} |") == rows
