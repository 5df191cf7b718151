"""The tables of the comparison, computed from made-up records."""

import dataclasses

import numpy as np
import pytest
from scipy import stats
from toy_records import ARTICLE, LABELS, RECIPE, VARIANT, record, results_of

from experiments.evidence import analysis, durations, exports, rendering
from experiments.evidence.records import Record
from experiments.evidence.results import Results
from experiments.evidence.rows import Cost, Figure, no_figure
from mnist_jax.errors import Failure


@pytest.mark.parametrize(
    ("figure", "rounding", "expected"),
    [
        (90.0, 0.005, "inside"),
        (96.0, 0.005, "above"),
        (84.0, 0.005, "below"),
        (96.0, 3.0, "not testable"),
        (96.0, 0.9, "above"),
        (None, 0.005, ""),
    ],
)
def test_verdict_compares_a_figure_with_the_prediction_interval(figure, rounding, expected):
    summary = analysis.percentages([89.0, 90.0, 91.0])
    assert analysis.verdict(summary, figure, rounding) == expected


def test_a_best_of_three_figure_is_compared_with_the_best_of_three_of_our_runs(tmp_path):
    runs = []
    for seed, (wrong, validation) in enumerate(((8, 0.90), (10, 0.95), (12, 0.93), (14, 0.91))):
        run = record(seed, wrong)
        columns = run.curve | {"validation_accuracy": [0.1, 0.2, validation, 0.3]}
        runs.append(dataclasses.replace(run, curve=columns))
    results = dataclasses.replace(
        results_of(tmp_path), runs=results_of(tmp_path).runs | {("toy", "plain", "jax"): runs}
    )
    figure = dataclasses.replace(ARTICLE.rows[0].figures[0], value=86.0, best_of=3)
    row = dataclasses.replace(ARTICLE.rows[0], figures=(figure,))
    article = dataclasses.replace(ARTICLE, rows=(row, ARTICLE.rows[1]))
    (found,) = analysis.outcome(results, article, row).comparisons
    assert found.own is not None
    # Of the four subsets of three runs, the second run is the best in three, the third in one.
    mean, shares = (3 * 90 + 88) / 4, 9 / 16 + 1 / 16
    sd = np.std([92, 90, 88, 86], ddof=1)
    reach = stats.t.ppf(0.975, 3) * sd * (shares + 1) ** 0.5
    assert found.own.interval == pytest.approx((mean - reach, mean + reach))
    assert found.own.beyond == pytest.approx((89 - mean + reach + 0.005, mean - 89 + reach + 0.005))
    p = 2 * stats.t.sf((mean - 86.005) / (sd * (shares + 1) ** 0.5), 3)
    assert found.own.p == pytest.approx(p)
    text = rendering.markdown(dataclasses.replace(results, articles=[article]))
    assert "The figures are of the best of 3 runs by validation accuracy." in text
    assert "over all such subsets and in percent: `plain` 89.50." in text
    assert "about 0.1 would be outside by chance alone; the smallest p, adjusted by Holm's" in text
    assert f"over the 1 that have one, is {p:.3g}." in text


def test_too_few_runs_get_no_verdict():
    assert analysis.verdict(analysis.percentages([89.0, 90.0]), 90.0, 0.005) == "provisional"


def test_a_figure_is_compared_by_the_row_s_spread_and_by_the_pooled_spread(tmp_path):
    plain = [record(seed, wrong) for seed, wrong in ((0, 9), (1, 10), (2, 8))]
    variant = [record(seed, wrong, "variant", VARIANT) for seed, wrong in ((0, 9), (1, 15))]
    results = results_of(tmp_path, *plain, *variant)
    family = analysis.family(results, ARTICLE, ARTICLE.rows[0])
    assert family is not None
    assert (list(family.rows), family.runs, family.spread.df) == (["plain", "variant"], 5, 3)
    # Variances 1 and 18, with 2 and 1 degrees of freedom.
    assert family.spread.sd == pytest.approx((20 / 3) ** 0.5)
    other = analysis.outcome(results, ARTICLE, ARTICLE.rows[0]).comparisons[1]
    assert other.own is not None
    assert other.pooled is not None
    assert (other.verdict, other.own.verdict, other.pooled.verdict) == ("above", "above", "inside")
    # t is 4.302653 with 2 degrees of freedom and 3.182446 with 3; 99.5 ± 0.05 against 91.
    reach = 4.302653 * (4 / 3) ** 0.5
    assert other.own.interval == pytest.approx((91 - reach, 91 + reach))
    assert other.own.beyond == pytest.approx((reach + 0.05, reach + 0.05))
    assert other.pooled.beyond == pytest.approx([3.182446 * (80 / 9) ** 0.5 + 0.05] * 2)
    assert other.own.p == pytest.approx(2 * stats.t.sf(8.45 / (4 / 3) ** 0.5, 2))
    text = rendering.markdown(results)
    assert (
        "By the pooled spread of the family the verdict differs for T `plain`, 99.5%: inside."
        in text
    )
    assert "| T | `plain`, `variant` | 5 | 3 | 2.582 |" in text
    many = [record(seed, 9) for seed in range(3, 10)]
    results = results_of(tmp_path, *many)
    alone = analysis.outcome(results, ARTICLE, ARTICLE.rows[0]).comparisons[1]
    assert alone.own is not None
    assert alone.pooled is None


def test_a_family_has_rows_of_one_kind_of_network_whose_runs_all_learn():
    dense = dataclasses.replace(RECIPE, model="dense", model_args={})
    rows = [
        dataclasses.replace(ARTICLE.rows[1], id=name, recipe=recipe)
        for name, recipe in (("other", RECIPE), ("dense", dense), ("wider", dense), ("one", RECIPE))
    ]
    article = dataclasses.replace(ARTICLE, rows=(ARTICLE.rows[0], *rows), ablations=())
    runs: dict[tuple[str, str, str], list[Record]] = {}
    for row in article.rows:
        made = [record(s, 8 + s, row.id, row.recipe) for s in range(3)]
        runs |= {("toy", row.id, "jax"): made, ("toy", row.id, "torch"): []}
    # The last row's first run classifies every image as a 3.
    stuck, *others = runs["toy", "one", "jax"]
    same = np.full(100, 3, np.uint8)
    stuck = dataclasses.replace(stuck, predictions=same, correct=same == LABELS)
    runs["toy", "one", "jax"] = [stuck, *others]
    results = Results([article], runs)
    families = [analysis.family(results, article, row) for row in article.rows]
    members = [list(one.rows) if one else None for one in families]
    convolutions, without = ["plain", "other"], ["dense", "wider"]
    assert members == [convolutions, convolutions, without, without, None]
    text = rendering.markdown(results)
    assert (
        "- `one`: 1 of 3 runs assign the same class to every test image and stay at 10.00%" in text
    )


def test_a_figure_that_is_a_mean_is_compared_with_our_mean(tmp_path):
    results = results_of(tmp_path, *(record(seed, 8 + seed) for seed in range(3)))
    mean = dataclasses.replace(ARTICLE.rows[0].figures[0], value=94.0, runs=34)
    row = dataclasses.replace(ARTICLE.rows[0], figures=(mean,))
    (found,) = analysis.outcome(results, ARTICLE, row).comparisons
    reach = 4.302653 * (1 / 3 + 1 / 34) ** 0.5
    assert found.own is not None
    assert found.own.interval == pytest.approx((91 - reach, 91 + reach))
    assert found.verdict == "above"


def test_a_figure_of_a_row_that_jumps_is_compared_with_the_second_half_of_epochs(tmp_path):
    wrongs = (9, 10, 8, 30)
    results = results_of(tmp_path, *(record(seed, wrong) for seed, wrong in enumerate(wrongs)))
    low = dataclasses.replace(ARTICLE.rows[0].figures[0], value=72.0)
    untested = dataclasses.replace(low, value=None, untested="unexplained")
    row = dataclasses.replace(ARTICLE.rows[0], figures=(low, untested), jumps=True)
    found, unexplained = analysis.outcome(results, ARTICLE, row).comparisons
    assert found.own is not None
    # Quantiles of 70, 90, 91, 92: 0.075 of the way from the first to the second, and to the last.
    assert found.own.interval == pytest.approx((71.5, 91.925))
    article = dataclasses.replace(ARTICLE, rows=(row, ARTICLE.rows[1]))
    text = rendering.markdown(dataclasses.replace(results, articles=[article]))
    assert f"70.00 to 92.00, skewness {stats.skew([91, 90, 92, 70]):.2f}); in 1 of 4 epochs" in text
    assert (found.verdict, found.pooled, unexplained.verdict) == ("inside", None, "unexplained")
    # By the last epochs alone: 72 is 13.75 from their mean.
    error = np.std([91, 90, 92, 70], ddof=1) * 1.25**0.5
    low_end, p = 85.75 - stats.t.ppf(0.975, 3) * error, 2 * stats.t.sf(13.745 / error, 3)
    verdict = f"the verdict on 91.00% *inside* (p = {p:.3g}).\n"
    assert f"would be {low_end:.2f}–100.00 and {verdict}" in text
    assert analysis.family(results, ARTICLE, row) is None


def test_a_figure_on_batches_is_compared_with_the_batches_after_the_first_epoch():
    figure = Figure(printed="", value=None, selection="", source="", batches_from=90.0)
    row = dataclasses.replace(ARTICLE.rows[0], figures=(figure,))

    def log(low):
        """18 steps below the figure, then `low` of 18; the others reach it exactly."""
        right = np.repeat([0.1, 0.88, 0.9], [18, low, 18 - low])
        return np.stack([np.ones(36), right], axis=1).astype(np.float32)

    def found(*lows):
        runs = [record(seed, log=log(low)) for seed, low in enumerate(lows)]
        runs.append(record(9))  # A record without steps, as older ones are.
        results = Results([ARTICLE], {("toy", "plain", "jax"): runs})
        (one,) = analysis.outcome(results, ARTICLE, row).comparisons
        return one.verdict, analysis.batches(results, ARTICLE, row, figure)

    verdict, shares = found(0, 0, 0)
    assert verdict == "inside"
    assert (shares.n, shares.mean) == (3, 100.0)
    verdict, shares = found(0, 1, 0)
    assert verdict == "above"
    assert shares.low == pytest.approx(100 * 17 / 18)
    assert found(0, 0)[0] == "provisional"
    assert found() == ("provisional", None)


def test_an_outcome_has_a_summary_comparisons_and_the_time_per_seed(tmp_path):
    found = [record(seed, wrong) for seed, wrong in ((0, 9), (1, 10), (2, 8))]
    results = results_of(tmp_path, *found)
    outcome = analysis.outcome(results, ARTICLE, ARTICLE.rows[0])
    assert outcome.summary is not None
    assert (outcome.summary.n, outcome.summary.mean) == (3, pytest.approx(91.0))
    assert [one.verdict for one in outcome.comparisons] == ["inside", "above"]
    assert (outcome.seconds, outcome.device) == (30.0, "2 CPU cores")
    other = analysis.outcome(results, ARTICLE, ARTICLE.rows[1])
    assert (other.summary, other.seconds) == (None, 2 * 60_000 / 2000)
    # Runs may have shared the machine, so the shortest one determines the time per seed.
    runs = [
        dataclasses.replace(run, seconds=s) for run, s in zip(found, (500, 70, 90), strict=True)
    ]
    slow = dataclasses.replace(results, runs={**results.runs, ("toy", "plain", "jax"): runs})
    assert analysis.outcome(slow, ARTICLE, ARTICLE.rows[0]).seconds == 35.0
    first_epoch = dataclasses.replace(ARTICLE.rows[0], epoch=1)
    summary = analysis.outcome(results, ARTICLE, first_epoch).summary
    assert summary is not None
    assert summary.mean == pytest.approx(50.0)


def test_a_figure_outside_the_interval_is_compared_with_all_later_epochs(tmp_path):
    results = results_of(tmp_path, *(record(seed, wrong) for seed, wrong in enumerate((2, 3, 4))))
    assert analysis.later_epochs(results, ARTICLE, ARTICLE.rows[0], "jax") == [98.0, 97.0, 96.0]
    text = rendering.markdown(results)
    p = 2 * stats.t.sf(5.995 / (4 / 3) ** 0.5, 2)
    assert f"as far from our mean as 91.00% has p = {p:.3g} by the row's own spread.\n" in text
    assert "is 97.00 ± 1.00 (range 96.00 to 98.00); in 0 of 3 epochs it is at most 91" in text
    inside = [record(seed, wrong) for seed, wrong in ((0, 9), (1, 10), (2, 8))]
    text = rendering.markdown(results_of(tmp_path / "other", *inside))
    assert text.count("the second half of our runs") == 1
    assert "in 0 of 3 epochs it is at least 99.5%." in text


def test_normality_is_reported_for_a_figure_that_none_of_ten_runs_reaches(tmp_path):
    wrongs = (9, 10, 11, 9, 10, 12, 9, 10, 16)
    runs = [record(seed, wrong) for seed, wrong in enumerate(wrongs)]
    theirs = [record(0, 10, framework="torch")]
    found = results_of(tmp_path, *runs, *theirs)

    def noted(value, results=found):
        figure = dataclasses.replace(ARTICLE.rows[0].figures[0], value=value, printed="so much")
        row = dataclasses.replace(ARTICLE.rows[0], figures=(figure,))
        article = dataclasses.replace(ARTICLE, rows=(row, ARTICLE.rows[1]))
        text = rendering.markdown(dataclasses.replace(results, articles=[article]))
        return [line for line in text.splitlines() if "so much is inside, yet" in line]

    (line,) = noted(91.1)
    ours = [100.0 - wrong for wrong in wrongs]
    assert "is inside, yet above each of 10 runs, 1 of them PyTorch's." in line
    assert f"has p = {stats.shapiro(ours).pvalue:.3g}" in line
    assert f"skewness is {stats.skew(ours):.2f}. With this skew, fewer runs lie" in line
    assert "By rank alone, among all 11 values, p = 0.182." in line
    right_skewed = [record(seed, wrong) for seed, wrong in enumerate([15] * 5 + [10] * 4)]
    (line,) = noted(92.0, results_of(tmp_path / "right-skewed", *right_skewed, *theirs))
    assert f"skewness is {stats.skew([85] * 5 + [90] * 4):.2f}. By rank alone" in line
    assert not noted(91.0)
    many = [record(seed, wrongs[seed % 9]) for seed in range(39)]
    (line,) = noted(92.5, results_of(tmp_path / "many", *many, *theirs))
    assert "p = 0.0488: whether the figure is inside depends on how runs are dist" in line
    # Nine runs are too few.
    assert not noted(91.1, results_of(tmp_path / "few", *runs))


def test_records_that_took_over_three_times_the_expected_time_are_counted(tmp_path):
    # 120,000 images at 1000 per second.
    took = [dataclasses.replace(record(seed), seconds=s) for seed, s in enumerate((359.0, 361.0))]
    text = rendering.markdown(results_of(tmp_path, *took))
    assert " 1 of 2 records took over 3 times as long as their training images take" in text
    half = dataclasses.replace(took[0], ended_after=1)
    assert [durations.took_long(one) for one in (*took, half)] == [False, True, True]


def test_rows_without_a_figure_are_not_counted_as_published_figures(tmp_path):
    plain, variant = ARTICLE.rows
    without = dataclasses.replace(variant, figures=no_figure("−λ²", "nowhere"))
    article = dataclasses.replace(ARTICLE, rows=(plain, without))
    found = [record(seed, 8 + seed, "variant", VARIANT) for seed in range(3)]
    results = dataclasses.replace(results_of(tmp_path, *found), articles=[article])
    assert rendering.headline(results) == (
        "The 3 rows have 3 published figures: 3 not run. For 1 of the rows no figure is published:"
        " exercises, alternative readings, and our own variants."
    )
    assert "| T `variant` | −λ², no figure | 91.00 ± 1.00 | 3 | none |" in rendering.others(results)
    # Without a published figure there is neither a framework nor a selected epoch.
    assert "| `variant` | −λ², no figure; nowhere | 91.00" in rendering.markdown(results)
    assert r"T & variant & $-$$\lambda$$^2$, no figure & 3 &" in exports.latex(results)
    assert 'toy,variant,"−λ², no figure",,,,nowhere,jax,3' in exports.csv_table(results)


def test_figures_that_are_not_testable_do_not_count_as_tested(tmp_path):
    results = results_of(tmp_path, *(record(seed, 8 + seed) for seed in range(3)))
    plain, variant = ARTICLE.rows
    for rounding in (0.5, 3.0):
        figure = dataclasses.replace(plain.figures[0], value=91.0, rounding=rounding)
        row = dataclasses.replace(plain, figures=(figure,))
        article = dataclasses.replace(ARTICLE, rows=(row, variant))
        headline = rendering.headline(dataclasses.replace(results, articles=[article]))
        assert ("figures are tested" in headline) == (rounding < 1)
        assert ("1 not testable" in headline) == (rounding > 1)


def test_published_costs_are_listed_with_ours(tmp_path):
    time = Cost(row="plain", what="time", printed="60 s", machine="a CPU", source="nowhere")
    # For max-pooling, which the benchmark does not measure.
    memory = dataclasses.replace(time, row="variant", what="memory", printed="200 MB")
    article = dataclasses.replace(ARTICLE, costs=(time, memory))
    results = results_of(tmp_path, record(), record(1))
    text = rendering.markdown(dataclasses.replace(results, articles=[article]))
    # 60 s for two epochs, however many seeds were trained together.
    assert (
        "| `toy/plain` | an epoch | 60 s | a CPU | nowhere | 30.0 s | 2 CPU cores |\n"
        "| `toy/variant` | device memory | 200 MB | a CPU | nowhere | not measured |  |"
    ) in text
    assert "What training takes" not in rendering.markdown(results)


def test_each_point_of_a_published_curve_has_a_verdict(tmp_path):
    results = results_of(tmp_path, *(record(seed, 8 + seed) for seed in range(3)))
    row = ARTICLE.rows[0]
    shown, picture = (analysis.points(results, ARTICLE, row, curve) for curve in row.curves)
    assert [(p.epoch, p.published, p.verdict) for p in shown] == [
        (1, "0.50", "not testable"),
        (2, "0.91", "inside"),
    ]
    # The tolerance is half a unit of the last printed digit; ours is 0.499.
    for printed, expected in (("0.50", "not testable"), ("0.500", "above")):
        curve = dataclasses.replace(row.curves[0], printed=(printed, "0.908"), scale=0.998)
        assert analysis.points(results, ARTICLE, row, curve)[0].verdict == expected
    assert [(p.epoch, p.published) for p in picture] == [(1, ""), (2, "")]


def test_a_figure_on_a_curve_has_the_verdict_of_its_point(tmp_path):
    results = results_of(tmp_path, *(record(seed, 8 + seed) for seed in range(3)))

    def verdict_of(printed, epoch, runs=results):
        figure = Figure(printed="loss", value=None, selection="", source="", curve_epoch=epoch)
        curve = dataclasses.replace(ARTICLE.rows[0].curves[0], printed=printed)
        row = dataclasses.replace(ARTICLE.rows[0], figures=(figure,), curves=(curve,))
        (one,) = analysis.outcome(runs, ARTICLE, row).comparisons
        return one.verdict

    assert verdict_of(("0.5", "0.91"), 2) == "inside"
    assert verdict_of(("0.5", "0.80"), 2) == "below"
    assert verdict_of(("0.5", "0.80"), 1) == "not testable"
    two = results_of(tmp_path / "two", *(record(seed) for seed in range(2)))
    assert verdict_of(("0.5", "0.91"), 2, two) == "provisional"


def test_an_ensemble_may_average_probabilities():
    article = dataclasses.replace(
        ARTICLE, ensembles=(dataclasses.replace(ARTICLE.ensembles[0], vote="mean"),)
    )
    # Image 0 is a 0. One network is sure of that, two slightly prefer a 1.
    runs = []
    for seed, first in enumerate(([0.98, 0.02], [0.4, 0.6], [0.45, 0.55])):
        run = record(seed, wrong=0)
        shares = np.eye(10)[run.predictions]
        shares[0, :2] = first
        predictions = shares.argmax(-1).astype(np.uint8)
        made = dataclasses.replace(
            run,
            probabilities=shares,
            predictions=predictions,
            correct=predictions == run.predictions,
            curve=run.curve | {"test_accuracy": [0.1, 0.5, 0.7, 0.99 if seed else 1.0]},
        )
        assert len(made.to_json()) < len(run.to_json()) + 1000
        read = Record.from_json(made.to_json())
        assert read.probabilities is not None
        np.testing.assert_allclose(read.probabilities, shares, atol=1e-5)
        runs.append(read)
    results = Results([article], {("toy", "plain", "jax"): runs})
    assert analysis.ensemble(results, article, article.ensembles[0]) == 100
    assert analysis.ensemble(results, ARTICLE, ARTICLE.ensembles[0]) == 99
    without = [*runs[:2], dataclasses.replace(runs[2], probabilities=None)]
    with pytest.raises(Failure, match="vote is by probabilities, which a record of toy, row plain"):
        analysis.ensemble(
            Results([article], {("toy", "plain", "jax"): without}), article, article.ensembles[0]
        )


def test_an_ensemble_votes_by_majority(tmp_path):
    # Errors on images 0-9, 1-10 and 2-11: at least two err on images 1 to 10.
    results = results_of(tmp_path, *(record(seed) for seed in range(3)))
    assert analysis.ensemble(results, ARTICLE, ARTICLE.ensembles[0]) == pytest.approx(90.0)
    other = dataclasses.replace(ARTICLE.ensembles[0].figures[0], value=None, untested="of whom?")
    members = dataclasses.replace(ARTICLE.ensembles[0], figures=(other,))
    (compared,) = analysis.outcome(results, ARTICLE, members).comparisons
    assert compared.verdict == "of whom?"
    empty = Results.load([ARTICLE], tmp_path / "empty")
    assert analysis.ensemble(empty, ARTICLE, ARTICLE.ensembles[0]) is None
