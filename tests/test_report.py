"""Reports of runs: the numbers drawn, the page that holds them, and what can go wrong."""

import base64
import dataclasses
import importlib
import io
import json
import os
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image
from report_runs import RECIPE, STEPS, write_runs

import mnist_jax.reporting
from mnist_jax.augment import normalize
from mnist_jax.data import CLASS_NAMES, Dataset, load_dataset
from mnist_jax.errors import Failure, UsageError
from mnist_jax.measures import Course, rates
from mnist_jax.reporting import contents, images, network_contents, page, scores
from mnist_jax.reporting.curves import Panel, courses
from mnist_jax.reporting.history import History, read_histories
from mnist_jax.reporting.page import Block, Code, Page, Picture, Section, Table, Text
from mnist_jax.reporting.style import COLORS
from mnist_jax.trained import classifier, load_network

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
VOID = {"meta", "link", "img", "br"}


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs")
    write_runs(path)
    return path


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return load_dataset("digits")


@pytest.fixture(scope="module")
def runs(parent: Path) -> list[History]:
    return read_histories([parent])


@pytest.fixture(scope="module")
def whole(runs: list[History], dataset: Dataset) -> Page:
    return contents.report(runs, dataset, [5, 0])


@pytest.fixture(scope="module")
def probability(runs: list[History], dataset: Dataset) -> np.ndarray:
    """Of the first seed's network."""
    _, network = load_network(runs[0].directory)
    return classifier(network, RECIPE)(dataset.test.images)


def pictures(shown: Page) -> dict[str, Figure]:
    blocks = [block for section in shown.sections for block in section.blocks]
    return {block.name: block.figure for block in blocks if isinstance(block, Picture)}


def texts(shown: Page, title: str) -> str:
    (section,) = (section for section in shown.sections if section.title == title)
    return "\n".join(b.text for b in section.blocks if isinstance(b, Text | Code))


def table(shown: Page, title: str) -> list[list[str]]:
    (section,) = (section for section in shown.sections if section.title == title)
    (found,) = (block for block in section.blocks if isinstance(block, Table))
    return [list(found.head), *(list(row) for row in found.rows)]


def lines(figure: Figure, panel: int, name: str) -> list[tuple[list[float], list[float]]]:
    """What is drawn in the colour of `name`: single seeds, then their mean."""
    return [
        (np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist())
        for line in figure.axes[panel].lines
        if line.get_color() == COLORS[name]
    ]


def test_curves_against_the_iteration_are_the_metrics(whole: Page, runs: list[History]) -> None:
    figure = pictures(whole)["training-by-iteration"]
    for panel, name, column, scale in (
        (0, "training", "train_loss", 1),
        (1, "test", "test_accuracy", 100),
    ):
        *seeds, mean = lines(figure, panel, name)
        expected = [[scale * row[column] for row in run.rows] for run in runs]
        assert [y for _, y in seeds] == [pytest.approx(values) for values in expected]
        assert mean[0] == list(STEPS)
        assert mean[1] == pytest.approx(np.mean(expected, axis=0).tolist())


def test_curves_per_epoch_hold_whole_epochs(whole: Page, runs: list[History]) -> None:
    figure = pictures(whole)["accuracy-by-epoch"]
    training, test = (lines(figure, 0, name)[0] for name in ("training", "test"))
    rows = runs[0].rows
    first = 100 * np.average([row["train_accuracy"] for row in rows[:3]], weights=[4, 4, 2])
    assert training == ([1, 2], [pytest.approx(first), pytest.approx(training[1][1])])
    assert test[1] == pytest.approx([100 * rows[i]["test_accuracy"] for i in (2, 5)])
    loss = pictures(whole)["loss-by-epoch"]
    assert lines(loss, 0, "test")[0][1] == pytest.approx([rows[i]["test_loss"] for i in (2, 5)])


def test_one_run_has_one_line_and_published_values_stand_beside_it() -> None:
    course = Course(np.asarray([1, 2]), np.asarray([0.5, 0.25]))
    panel = Panel("loss", {"training": [course]}, logarithmic=True, published=course)
    figure = courses([panel], "epoch")
    assert lines(figure, 0, "training") == [([1, 2], [0.5, 0.25])]
    assert lines(figure, 0, "published") == [([1, 2], [0.5, 0.25])]
    assert figure.axes[0].get_xlabel() == "epoch"


def test_a_wide_range_of_losses_is_logarithmic_and_a_narrow_one_is_not() -> None:
    for values, scale in (([1.0, 0.1], "log"), ([1.0, 0.9], "linear"), ([1.0, 0.0], "linear")):
        course = Course(np.asarray([1, 2]), np.asarray(values))
        figure = courses([Panel("loss", {"test": [course]}, logarithmic=True)], "epoch")
        assert figure.axes[0].get_yscale() == scale


def test_the_first_training_images_are_shown_with_their_labels(
    whole: Page, dataset: Dataset
) -> None:
    axes = pictures(whole)["training-images"].axes
    assert len(axes) == 40
    for i, one in enumerate(axes):
        np.testing.assert_array_equal(one.images[0].get_array(), dataset.train.images[i])
        assert one.get_title() == str(dataset.train.labels[i])


def test_a_sample_has_its_predictions_as_titles(
    whole: Page, dataset: Dataset, probability: np.ndarray
) -> None:
    for i, axes in enumerate(pictures(whole)["test-sample"].axes):
        guess, label = probability[i].argmax(), dataset.test.labels[i]
        assert axes.get_title().startswith(str(guess))
        color = "#000000" if guess == label else COLORS["wrong"].lower()
        assert to_hex(axes.title.get_color()) == color


def test_errors_are_shown_most_confident_first(
    whole: Page, dataset: Dataset, probability: np.ndarray
) -> None:
    guesses, labels = probability.argmax(axis=1), dataset.test.labels
    wrong = np.flatnonzero(guesses != labels)
    wrong = wrong[np.argsort(-probability.max(axis=1)[wrong], kind="stable")]
    axes = pictures(whole)["misclassified"].axes
    assert len(axes) == min(40, len(wrong))
    for i, one in zip(wrong, axes, strict=False):
        np.testing.assert_array_equal(one.images[0].get_array(), dataset.test.images[i])
        share = f"{probability[i].max():.1%}"
        assert one.get_title() == f"{labels[i]} → {guesses[i]}\n{share}"


def test_the_confusion_matrix_shows_every_count(
    whole: Page, dataset: Dataset, probability: np.ndarray
) -> None:
    axes = pictures(whole)["confusion-matrix"].axes[0]
    shown = np.zeros((10, 10), int)
    for text in axes.texts:
        column, row = text.get_position()
        shown[int(row), int(column)] = int(text.get_text().replace(",", ""))
    expected = np.zeros((10, 10), int)
    np.add.at(expected, (dataset.test.labels, probability.argmax(axis=1)), 1)
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
    whole: Page, dataset: Dataset, probability: np.ndarray
) -> None:
    upper, lower = pictures(whole)["reliability"].axes
    heights = [bar.get_height() for bar in lower.patches]  # type: ignore[attr-defined]
    confidence = probability.max(axis=1)
    assert heights == np.histogram(confidence, np.linspace(0, 1, 11))[0].tolist()
    points = upper.containers[0].lines[0]  # type: ignore[attr-defined]
    last = confidence >= np.floor(10 * confidence.max()) / 10
    right = probability.argmax(axis=1) == dataset.test.labels
    assert points.get_xdata()[-1] == pytest.approx(confidence[last].mean(), rel=1e-5)
    assert points.get_ydata()[-1] == pytest.approx(right[last].mean())


def test_filters_are_the_weights(whole: Page, runs: list[History]) -> None:
    network: Any = load_network(runs[0].directory)[1]
    first = np.asarray(network.conv1.kernel[...])
    grid = np.asarray(pictures(whole)["filters-conv1"].axes[0].images[0].get_array())
    # Each weight is 3×3 pixels, after a frame of one.
    np.testing.assert_array_equal(grid[1:16:3, 1:16:3], first[:, :, 0, 0])
    np.testing.assert_array_equal(grid[1:16:3, 17:32:3], first[:, :, 0, 1])
    second = np.asarray(network.conv2.kernel[...])
    grid = np.asarray(pictures(whole)["filters-conv2"].axes[0].images[0].get_array())
    assert grid.shape == (6 * 16 + 1, 16 * 16 + 1)
    np.testing.assert_array_equal(grid[17:32:3, 33:48:3], second[:, :, 1, 2])


def test_no_more_filters_are_shown_than_can_be_seen() -> None:
    kernel = np.random.default_rng(0).normal(size=(3, 3, 64, 128))
    grid = np.asarray(images.filters(kernel).axes[0].images[0].get_array())
    assert grid.shape == (20 * 16 + 1, 40 * 16 + 1)


def test_activations_are_those_of_every_layer(
    whole: Page, runs: list[History], dataset: Dataset, probability: np.ndarray
) -> None:
    image, *layers, bars = pictures(whole)["activations-5"].axes
    np.testing.assert_array_equal(image.images[0].get_array(), dataset.test.images[5])
    titles = [axes.get_title(loc="left") for axes in layers]
    names = ["conv1", "act1", "pool1", "conv2", "act2", "pool2", "fc1", "fc_act1", "fc2"]
    assert [title.split(":")[0] for title in titles] == [*names, "fc_act2", "out"]
    _, network = load_network(runs[0].directory)
    inputs = normalize(jnp.asarray(dataset.test.images[5:6]), 0.0, 1.0)
    outputs = dict(network.layer_outputs(inputs))
    conv1 = np.asarray(layers[0].images[0].get_array())
    np.testing.assert_allclose(conv1[1:29, 30:58], outputs["conv1"][0, :, :, 1], atol=1e-5)
    widths = [bar.get_width() for bar in bars.patches]  # type: ignore[attr-defined]
    np.testing.assert_allclose(widths, 100 * probability[5], atol=1e-3)


def test_activations_share_their_scale_over_images(whole: Page) -> None:
    one, two = (pictures(whole)[f"activations-{i}"].axes[1].images[0] for i in (5, 0))
    assert one.get_clim() == two.get_clim()
    most = max(np.nanmax(np.abs(np.asarray(i.get_array()))) for i in (one, two))
    assert one.get_clim() == pytest.approx((-most, most))


def test_default_images_are_a_sweater_and_a_coat(dataset: Dataset) -> None:
    fashion = dataclasses.replace(dataset, name="fashion_mnist")
    first, second = network_contents.default_images(fashion)
    names = CLASS_NAMES["fashion_mnist"]
    labels = dataset.test.labels
    assert (names[labels[first]], names[labels[second]]) == ("Pullover", "Coat")
    assert 2 not in labels[:first]


def test_the_page_says_what_was_run(whole: Page, runs: list[History]) -> None:
    accuracies = [run.rows[-1]["test_accuracy"] for run in runs]
    assert f"{np.mean(accuracies):.2%}" in texts(whole, "Result")
    head, *rows = table(whole, "Result")
    assert [row[head.index("test accuracy")] for row in rows] == [f"{a:.2%}" for a in accuracies]
    layers = {row[0]: row for row in table(whole, "Layers")}
    assert layers["conv1"] == ["conv1", "Conv", "1×28×28×6", "156", f"{2 * 28 * 28 * 150:,}"]
    configuration = {row[0]: row[1] for row in table(whole, "Configuration")}
    assert (configuration["model"], configuration["seed"]) == ("lenet", "[0, 1]")
    assert "python -m mnist_jax.train '--seed=<0>'" in texts(whole, "How to reproduce it")


def test_a_run_in_training_is_reported_so_far(
    parent: Path, dataset: Dataset, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(parent / "seed-0", run)
    (run / "result.json").unlink()
    shutil.rmtree(run / "checkpoints")
    rows = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(rows[:2]))
    shown = contents.report(read_histories([run]), dataset, [0])
    assert set(pictures(shown)) == {"training-by-iteration", "training-images"}
    assert table(shown, "Result")[1][2] == "not ended: at epoch 0.8 of 2"


def test_weights_without_a_training_are_reported(
    parent: Path, dataset: Dataset, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(parent / "seed-0", run)
    for name in ("result.json", "metrics.jsonl"):
        (run / name).unlink()
    shown = contents.report(read_histories([run]), dataset, [0])
    assert "training-by-iteration" not in pictures(shown)
    assert "confusion-matrix" in pictures(shown)
    assert table(shown, "Result")[1][2:] == ["not evaluated", "", "", "", ""]


def test_runs_are_taken_in_order_of_seed(parent: Path) -> None:
    found = read_histories([parent / "seed-1", parent / "seed-0"])
    assert [run.recipe.seed for run in found] == [0, 1]


def test_what_has_no_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="has neither a run nor seed-N folders with runs"):
        read_histories([tmp_path])


def test_a_run_without_an_evaluation_is_said(parent: Path, tmp_path: Path) -> None:
    for name in ("config.json", "environment.json"):
        shutil.copy(parent / "seed-0" / name, tmp_path / name)
    with pytest.raises(Failure, match="has no evaluation and no checkpoint yet"):
        read_histories([tmp_path])


def test_runs_of_different_recipes_are_refused(parent: Path, tmp_path: Path) -> None:
    shutil.copytree(parent / "seed-1", tmp_path / "run")
    config = json.loads((tmp_path / "run/config.json").read_text()) | {"learning_rate": 0.5}
    (tmp_path / "run/config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match=r"have learning_rate 0\.9 and 0\.5; give runs"):
        read_histories([parent, tmp_path / "run"])


def test_a_damaged_checkpoint_is_said(parent: Path, dataset: Dataset, tmp_path: Path) -> None:
    shutil.copytree(parent / "seed-0", tmp_path / "run")
    victim = max((tmp_path / "run/checkpoints").rglob("d/*"), key=lambda path: path.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    with pytest.raises(Failure, match="is damaged"):
        contents.report(read_histories([tmp_path / "run"]), dataset, [0])


def test_an_image_that_is_not_there_is_said(runs: list[History], dataset: Dataset) -> None:
    with pytest.raises(UsageError, match="There is no test image 297; give numbers from 0 to 296"):
        contents.report(runs, dataset, [3, 297])


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Failure, match="can't be written"):
        page.write(Page("", []), tmp_path / "file" / "report")


def test_without_matplotlib_a_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(Failure, match=r"need Matplotlib, .* pip install -r requirements\.txt"):
        importlib.reload(mnist_jax.reporting)


class Checker(HTMLParser):
    """Collects a page's elements, and makes sure that they are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, Any]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def parse(path: Path) -> Checker:
    checker = Checker()
    checker.feed(path.read_text("utf-8"))
    checker.close()
    assert checker.open == []
    return checker


@pytest.fixture(scope="module")
def written(whole: Page, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return page.write(whole, tmp_path_factory.mktemp("page"))


def test_the_page_holds_its_pictures(written: Path, whole: Page) -> None:
    elements = parse(written).elements
    sources = [attributes for tag, attributes in elements if tag == "img"]
    assert len(sources) == len(pictures(whole)) == len(list(written.parent.glob("*.png")))
    for attributes, name in zip(sources, pictures(whole), strict=True):
        head, data = attributes["src"].split(",")
        assert head == "data:image/png;base64"
        png = base64.b64decode(data, validate=True)
        assert png == (written.parent / f"{name}.png").read_bytes()
        with Image.open(io.BytesIO(png)) as image:
            size = (int(attributes["width"]), int(attributes["height"]))
            assert np.asarray(image.size) / 2 == pytest.approx(size, abs=1)
        assert len(attributes["alt"]) > 10


def test_the_page_needs_nothing_else(written: Path) -> None:
    elements = parse(written).elements
    for tag, attributes in elements:
        assert tag not in ("script", "iframe", "object")
        for name in ("src", "href", "srcset"):
            assert attributes.get(name, "#").startswith(("#", "data:"))
    targets = {attributes.get("id") for _, attributes in elements}
    links = [attributes["href"][1:] for tag, attributes in elements if tag == "a"]
    assert links
    assert set(links) <= targets
    assert "@import" not in written.read_text()
    assert "url(" not in written.read_text()


def test_everything_is_escaped(tmp_path: Path) -> None:
    nasty = "</td><script>alert('1')</script> & \"$title\""
    figure = Figure(figsize=(1, 1))
    blocks: list[Block] = [
        Picture("one", figure, nasty, nasty),
        Table([nasty], [[nasty], [nasty]], numbers=[0]),
        Code(nasty),
        Text(nasty),
    ]
    checker = parse(page.write(Page(nasty, [Section(nasty, blocks)]), tmp_path))
    assert "script" not in [tag for tag, _ in checker.elements]
    (alt,) = (attributes["alt"] for tag, attributes in checker.elements if tag == "img")
    assert alt == nasty
    assert checker.text.count(nasty) == 10


# In the page: what went wrong, and how wide everything is, told to the page around it.
_PROBE = """<script>
const errors = [];
addEventListener("error", event => errors.push(event.message));
addEventListener("load", () => parent.postMessage({
  errors,
  window: innerWidth,
  content: document.documentElement.scrollWidth,
  images: [...document.images].map(image => image.naturalWidth),
}, "*"));
</script>"""
_FRAMES = """<!DOCTYPE html>
<body><script>
const found = [];
addEventListener("message", event => {
  found.push(event.data);
  if (found.length == 2) document.body.textContent = JSON.stringify(found);
});
</script>
<iframe src="probed.html" width="390" height="800"></iframe>
<iframe src="probed.html" width="1280" height="800"></iframe>
</body>"""


def browse(path: Path, profile: Path) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
    options += ["--enable-logging=stderr", "--virtual-time-budget=5000", "--dump-dom"]
    command = [CHROMIUM, *options, path.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")
def test_a_browser_shows_the_page(written: Path, tmp_path: Path) -> None:
    done = browse(written, tmp_path / "profile")
    assert "How to reproduce it" in done.stdout
    assert "CONSOLE" not in done.stderr
    # The policy allows no script, so the copy that measures itself goes without it.
    text = written.read_text("utf-8")
    start = text.index("<meta http-equiv")
    end = text.index(">", text.index("unsafe-inline")) + 1
    (tmp_path / "probed.html").write_text(text[:start] + _PROBE + text[end:], "utf-8")
    (tmp_path / "frames.html").write_text(_FRAMES)
    done = browse(tmp_path / "frames.html", tmp_path / "profile")
    found = json.loads(done.stdout[done.stdout.index("[{") : done.stdout.rindex("}]") + 2])
    assert {one["window"] for one in found} == {390, 1280}
    for one in found:
        assert one["errors"] == []
        assert one["content"] <= one["window"]
        assert len(one["images"]) == len(list(written.parent.glob("*.png")))
        assert min(one["images"]) > 0


def command(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.endswith("_DATA_DIR")}
    env |= {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache")}
    env["MPLCONFIGDIR"] = matplotlib.get_cachedir()  # Looking for fonts takes seconds.
    return subprocess.run(
        [sys.executable, "-m", "mnist_jax.report", *arguments],
        capture_output=True,
        text=True,
        env=env,
    )


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["--workdir=.", "--images=first"], 1, "neither a run"),
        (["--workdir={}", "--images=first"], 2, "--images is 'first'; give numbers"),
    ],
)
def test_misuse_is_one_sentence(
    parent: Path, tmp_path: Path, arguments: list[str], code: int, sentence: str
) -> None:
    done = command(tmp_path, *(argument.format(parent) for argument in arguments))
    assert done.returncode == code
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
