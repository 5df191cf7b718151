"""The contents of a report, compared with the runs that it is about."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from report_runs import STEPS, pictures

from mnist_jax.data import CLASS_NAMES, Dataset
from mnist_jax.inputs import normalize
from mnist_jax.measures import Series, rates
from mnist_jax.models import create_model
from mnist_jax.reporting import contents, images, inspection, network_contents, scores
from mnist_jax.reporting.curves import Panel, plot
from mnist_jax.reporting.history import History, read_histories
from mnist_jax.reporting.page import Code, Page, Table, Text
from mnist_jax.reporting.style import COLORS
from mnist_jax.runs.network import load_run


@pytest.fixture(scope="module")
def probability(histories: list[History], digits: Dataset) -> np.ndarray:
    """The predictions of the first seed's network for the test images."""
    return load_run(histories[0].directory.path).probabilities(digits.test.images)


def texts(shown: Page, title: str) -> str:
    (section,) = (section for section in shown.sections if section.title == title)
    return "\n".join(b.text for b in section.blocks if isinstance(b, Text | Code))


def table(shown: Page, title: str) -> list[list[str]]:
    (section,) = (section for section in shown.sections if section.title == title)
    (found,) = (block for block in section.blocks if isinstance(block, Table))
    return [list(found.head), *(list(row) for row in found.rows)]


def lines(figure: Figure, panel: int, name: str) -> list[tuple[list[float], list[float]]]:
    """The lines in the colour of `name`: those of single seeds, then their mean."""
    return [
        (np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist())
        for line in figure.axes[panel].lines
        if line.get_color() == COLORS[name]
    ]


def test_curves_by_iteration_show_the_metrics(whole_report: Page, histories: list[History]) -> None:
    figure = pictures(whole_report)["training-by-iteration"]
    for panel, name, column, scale in (
        (0, "training", "train_loss", 1),
        (1, "test", "test_accuracy", 100),
    ):
        *seeds, mean = lines(figure, panel, name)
        expected = [[scale * getattr(row, column) for row in run.rows] for run in histories]
        assert [y for _, y in seeds] == [pytest.approx(values) for values in expected]
        assert mean[0] == list(STEPS)
        assert mean[1] == pytest.approx(np.mean(expected, axis=0).tolist())


def test_the_curve_of_every_iteration_shows_the_mean_over_seeds(
    whole_report: Page, histories: list[History]
) -> None:
    figure = pictures(whole_report)["every-iteration"]
    steps = np.stack([run.steps for run in histories if run.steps is not None])
    for panel, column, scale in ((0, 0, 1), (1, 1, 100)):
        (mean,) = lines(figure, panel, "training")
        assert mean[0] == list(range(1, STEPS[-1] + 1))
        assert mean[1] == pytest.approx((scale * steps[:, :, column].mean(axis=0)).tolist())


def test_unknown_steps_of_older_versions_are_omitted(histories: list[History]) -> None:
    known = np.array(histories[0].steps)
    known[:4] = np.nan
    series = dataclasses.replace(histories[0], steps=known).every_step()
    assert series is not None
    np.testing.assert_array_equal(series[0].x, np.arange(5, 21))
    np.testing.assert_array_equal(series[1].y, known[4:, 1])
    for none in (None, known[:4]):
        assert dataclasses.replace(histories[0], steps=none).every_step() is None


def test_curves_by_epoch_average_training_over_whole_epochs(
    whole_report: Page, histories: list[History]
) -> None:
    figure = pictures(whole_report)["accuracy-by-epoch"]
    training, test = (lines(figure, 0, name)[0] for name in ("training", "test"))
    rows = histories[0].rows
    first = 100 * np.average([row.train_accuracy for row in rows[:3]], weights=[4, 4, 2])
    assert training == ([1, 2], [pytest.approx(first), pytest.approx(training[1][1])])
    assert test[1] == pytest.approx([100 * rows[i].test_accuracy for i in (2, 5)])
    loss = pictures(whole_report)["loss-by-epoch"]
    assert lines(loss, 0, "test")[0][1] == pytest.approx([rows[i].test_loss for i in (2, 5)])


def test_a_single_run_has_one_line_next_to_published_values() -> None:
    series = Series(np.asarray([1, 2]), np.asarray([0.5, 0.25]))
    panel = Panel("loss", {"training": [series]}, logarithmic=True, published=series)
    figure = plot([panel], "epoch")
    assert lines(figure, 0, "training") == [([1, 2], [0.5, 0.25])]
    assert lines(figure, 0, "published") == [([1, 2], [0.5, 0.25])]
    assert figure.axes[0].get_xlabel() == "epoch"


def test_the_loss_axis_is_logarithmic_only_for_a_wide_positive_range() -> None:
    for values, scale in (([1.0, 0.1], "log"), ([1.0, 0.9], "linear"), ([1.0, 0.0], "linear")):
        series = Series(np.asarray([1, 2]), np.asarray(values))
        figure = plot([Panel("loss", {"test": [series]}, logarithmic=True)], "epoch")
        assert figure.axes[0].get_yscale() == scale


def test_training_images_are_shown_with_their_labels_as_in_article_e(
    whole_report: Page, digits: Dataset
) -> None:
    axes = pictures(whole_report)["training-images"].axes
    assert len(axes) == 40
    for i, one in enumerate(axes, start=1):
        np.testing.assert_array_equal(one.images[0].get_array(), digits.train.images[i])
        assert one.get_title() == str(digits.train.labels[i])


def test_a_sample_of_test_images_is_titled_with_the_predictions(
    whole_report: Page, digits: Dataset, probability: np.ndarray
) -> None:
    sample = pictures(whole_report)["test-sample"].axes
    assert len(sample) > 10
    for i, axes in enumerate(sample):
        guess, label = probability[i].argmax(), digits.test.labels[i]
        assert axes.get_title().startswith(str(guess))
        color = "#000000" if guess == label else COLORS["wrong"].lower()
        assert to_hex(axes.title.get_color()) == color


def test_misclassified_images_are_shown_most_confident_first(
    whole_report: Page, digits: Dataset, probability: np.ndarray
) -> None:
    guesses, labels = probability.argmax(axis=1), digits.test.labels
    wrong = np.flatnonzero(guesses != labels)
    wrong = wrong[np.argsort(-probability.max(axis=1)[wrong], kind="stable")]
    axes = pictures(whole_report)["misclassified"].axes
    assert len(axes) == min(36, len(wrong)) > 0
    for i, one in zip(wrong, axes, strict=False):
        np.testing.assert_array_equal(one.images[0].get_array(), digits.test.images[i])
        share = f"{probability[i].max():.1%}"
        assert one.get_title() == f"{labels[i]} → {guesses[i]}\n{share}"


def test_the_confusion_matrix_shows_every_count(
    whole_report: Page, digits: Dataset, probability: np.ndarray
) -> None:
    axes = pictures(whole_report)["confusion-matrix"].axes[0]
    shown = np.zeros((10, 10), int)
    for text in axes.texts:
        column, row = text.get_position()
        shown[int(row), int(column)] = int(text.get_text().replace(",", ""))
    expected = np.zeros((10, 10), int)
    np.add.at(expected, (digits.test.labels, probability.argmax(axis=1)), 1)
    np.testing.assert_array_equal(shown, expected)
    colored: np.ndarray = np.ma.filled(np.ma.asarray(axes.images[0].get_array()), -1)
    off = ~np.eye(10, dtype=bool)
    np.testing.assert_array_equal(colored[off], expected[off])


def test_class_accuracies_are_drawn_in_percent() -> None:
    found = rates(np.asarray([9, 40]), np.asarray([10, 40]))
    (axes,) = scores.class_accuracy(found, 0.98, ["cat", "dog"]).axes
    container: Any = axes.containers[0]
    data, _, bars = container.lines
    assert np.asarray(data.get_xdata()).tolist() == pytest.approx([90.0, 100.0])
    low, high = bars[0].get_segments()[0][:, 0]
    assert (low, high) == pytest.approx((100 * found.low[0], 100 * found.high[0]))
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog"]


def test_the_reliability_diagram_counts_every_image(
    whole_report: Page, digits: Dataset, probability: np.ndarray
) -> None:
    upper, lower = pictures(whole_report)["reliability"].axes
    heights = [bar.get_height() for bar in lower.patches]  # type: ignore[attr-defined]
    confidence = probability.max(axis=1)
    assert heights == np.histogram(confidence, np.linspace(0, 1, 11))[0].tolist()
    points = upper.containers[0].lines[0]  # type: ignore[attr-defined]
    last = confidence >= np.floor(10 * confidence.max()) / 10
    right = probability.argmax(axis=1) == digits.test.labels
    assert points.get_xdata()[-1] == pytest.approx(confidence[last].mean(), rel=1e-5)
    assert points.get_ydata()[-1] == pytest.approx(right[last].mean())


def test_filter_pictures_show_the_weights(whole_report: Page, histories: list[History]) -> None:
    network: Any = load_run(histories[0].directory.path).network
    first = np.asarray(network.conv1.kernel[...])
    grid = np.asarray(pictures(whole_report)["filters-conv1"].axes[0].images[0].get_array())
    # Each weight takes 3×3 pixels, after a border of one pixel.
    np.testing.assert_array_equal(grid[1:16:3, 1:16:3], first[:, :, 0, 0])
    np.testing.assert_array_equal(grid[1:16:3, 17:32:3], first[:, :, 0, 1])
    second = np.asarray(network.conv2.kernel[...])
    grid = np.asarray(pictures(whole_report)["filters-conv2"].axes[0].images[0].get_array())
    assert grid.shape == (6 * 16 + 1, 16 * 16 + 1)
    np.testing.assert_array_equal(grid[17:32:3, 33:48:3], second[:, :, 1, 2])


def test_filters_of_nested_networks_are_shown() -> None:
    network = create_model("residual_cnn", rngs=nnx.Rngs(0), width=2)
    found = inspection.kernels(network)
    expected = ["conv1", "res1.conv", "res2.conv", "conv2", "res3.conv", "conv3", "res4.conv"]
    assert list(found) == expected
    inner: Any = network
    np.testing.assert_array_equal(found["res3.conv"], inner.res3.conv.kernel[...])
    assert found["res3.conv"].shape == (3, 3, 4, 4)


def test_the_number_of_filters_shown_is_limited() -> None:
    kernel = np.random.default_rng(0).normal(size=(3, 3, 64, 128))
    grid = np.asarray(images.filters(kernel).axes[0].images[0].get_array())
    assert grid.shape == (20 * 16 + 1, 40 * 16 + 1)


def test_activations_of_every_layer_are_shown(
    whole_report: Page, histories: list[History], digits: Dataset, probability: np.ndarray
) -> None:
    image, *layers, bars = pictures(whole_report)["activations-5"].axes
    np.testing.assert_array_equal(image.images[0].get_array(), digits.test.images[5])
    titles = [axes.get_title(loc="left") for axes in layers]
    names = ["conv1", "act1", "pool1", "conv2", "act2", "pool2", "fc1", "fc_act1", "fc2"]
    assert [title.split(":")[0] for title in titles] == [*names, "fc_act2", "out"]
    network = load_run(histories[0].directory.path).network
    inputs = normalize(jnp.asarray(digits.test.images[5:6]), 0.0, 1.0)
    outputs = dict(network.layer_outputs(inputs))
    conv1 = np.asarray(layers[0].images[0].get_array())
    np.testing.assert_allclose(conv1[1:29, 30:58], outputs["conv1"][0, :, :, 1], atol=1e-5)
    widths = [bar.get_width() for bar in bars.patches]  # type: ignore[attr-defined]
    np.testing.assert_allclose(widths, 100 * probability[5], atol=1e-3)


def test_activations_of_different_images_share_a_colour_scale(whole_report: Page) -> None:
    one, two = (pictures(whole_report)[f"activations-{i}"].axes[1].images[0] for i in (5, 0))
    assert one.get_clim() == two.get_clim()
    largest = max(np.nanmax(np.abs(np.asarray(i.get_array()))) for i in (one, two))
    assert one.get_clim() == pytest.approx((-largest, largest))


def test_default_fashion_images_are_the_first_pullover_and_a_coat(digits: Dataset) -> None:
    fashion = dataclasses.replace(digits, name="fashion_mnist")
    first, second = network_contents.default_images(fashion)
    names = CLASS_NAMES["fashion_mnist"]
    labels = digits.test.labels
    assert (names[labels[first]], names[labels[second]]) == ("Pullover", "Coat")
    assert 2 not in labels[:first]


def test_the_page_describes_results_layers_and_configuration(
    whole_report: Page, histories: list[History]
) -> None:
    accuracies = [run.rows[-1].test_accuracy for run in histories]
    assert f"{np.mean(accuracies):.2%}" in texts(whole_report, "Result")
    head, *rows = table(whole_report, "Result")
    assert [row[head.index("test accuracy")] for row in rows] == [f"{a:.2%}" for a in accuracies]
    layers = {row[0]: row for row in table(whole_report, "Layers")}
    assert layers["conv1"] == [
        *("conv1", "Conv 5×5, stride 1, padding 2", "1×28×28×6", "156"),
        f"{2 * 28 * 28 * 150:,}",
    ]
    configuration = {row[0]: row[1] for row in table(whole_report, "Configuration")}
    assert (configuration["model"], configuration["seed"]) == ("lenet", "[0, 1]")
    assert "python -m mnist_jax.train '--seed=<0>'" in texts(whole_report, "How to reproduce it")


def test_a_run_made_by_a_script_is_reproduced_from_its_configuration(
    histories: list[History], digits: Dataset
) -> None:
    environment = {**histories[0].environment, "command": ["work/mine.py", "--fast"]}
    run = dataclasses.replace(histories[0], environment=environment)
    page = contents.report([run], digits, [0, 1])
    shown = texts(page, "How to reproduce it")
    assert "python -m mnist_jax.train --config=config.json" in shown
    assert "mine" not in shown


def test_an_unfinished_run_is_reported_so_far(
    runs_folder: Path, digits: Dataset, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs_folder / "seed-0", run)
    (run / "result.json").unlink()
    shutil.rmtree(run / "checkpoints")
    rows = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(rows[:2]))
    shown = contents.report(read_histories([run]), digits, [0])
    assert set(pictures(shown)) == {
        *("training-by-iteration", "every-iteration", "training-images")
    }
    assert table(shown, "Result")[1][2] == "not ended: at epoch 0.8 of 2"


def test_weights_without_a_training_history_are_reported(
    runs_folder: Path, digits: Dataset, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs_folder / "seed-0", run)
    for name in ("result.json", "metrics.jsonl", "steps.f32"):
        (run / name).unlink()
    shown = contents.report(read_histories([run]), digits, [0])
    assert "training-by-iteration" not in pictures(shown)
    assert "confusion-matrix" in pictures(shown)
    assert table(shown, "Result")[1][2:] == ["not evaluated", "", "", "", ""]
