"""The drawing page in a real browser: it predicts what `predict` does, and is usable."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mnist_jax import load_pretrained
from mnist_jax.data import Dataset
from mnist_jax.data.images import frames_of, read_image
from mnist_jax.drawing import page as drawing
from mnist_jax.interchange.pretrained import pretrained_names
from mnist_jax.models import model_names
from mnist_jax.runs.network import LoadedRun, load_run

PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 844},
    "is_mobile": True,
    "has_touch": True,
}
SCREEN: dict[str, Any] = {"viewport": {"width": 1280, "height": 900}}
# The sides of a saved picture and of the drawing pad, in pixels.
SIDE, PAD = 380, 280


@pytest.fixture(scope="module")
def run(runs_folder: Path) -> LoadedRun:
    return load_run(runs_folder / "seed-0")


@pytest.fixture(scope="module")
def written(run: LoadedRun, digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "demo.html"
    drawing.write(run, digits, path)
    return path


@pytest.fixture
def opened(browser: Any, written: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The page, which must not request anything or log an error."""
    context = browser.new_context(**getattr(request, "param", SCREEN))
    page = context.new_page()
    messages: list[str] = []
    requested: list[str] = []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: requested.append(request.url))
    page.goto(written.as_uri())
    yield page
    context.close()
    assert messages == []
    assert [url for url in requested if not url.startswith("data:")] == [written.as_uri()]


def drag(page: Any, *strokes: list[tuple[int, int]]) -> None:
    """Draws strokes with the mouse, in coordinates of the pad."""
    box = page.locator("#pad").bounding_box()
    for first, *others in strokes:
        for index, (x, y) in enumerate((first, *others)):
            at = (box["x"] + x * box["width"] / PAD, box["y"] + y * box["width"] / PAD)
            page.mouse.move(*at, steps=5 if index else 1)
            if not index:
                page.mouse.down()
        page.mouse.up()


FOUR = ([(110, 40), (70, 150), (210, 150)], [(170, 90), (160, 245)])


def test_predict_agrees_with_the_page_on_a_saved_picture(opened: Any, run: LoadedRun) -> None:
    drag(opened, *FOUR)
    with opened.expect_download() as saving:
        opened.get_by_role("link", name="Save picture").click()
    picture = read_image(io.BytesIO(Path(saving.value.path()).read_bytes()))
    assert picture.shape == (SIDE, SIDE, 3)
    (ways,) = frames_of(picture, run.recipe.dataset)
    probability = run.probabilities(ways)
    best = probability[probability.max(-1).argmax()]
    seen = opened.evaluate("[Array.from(shown.pixels), shown.probability]")
    np.testing.assert_array_equal(seen[0], ways[probability.max(-1).argmax()].ravel())
    np.testing.assert_allclose(seen[1], best, atol=1e-6)
    assert opened.locator("#reading").inner_text() == str(best.argmax())
    assert opened.get_by_role("status").inner_text().startswith(f"{best.argmax()}, ")
    widths = opened.locator(".track div").evaluate_all(
        "bars => bars.map((bar) => parseFloat(bar.style.width) / 100)"
    )
    np.testing.assert_allclose(widths, best, atol=1e-4)
    opened.get_by_role("button", name="Undo").click()
    assert opened.evaluate("strokes.length") == 1
    opened.get_by_role("button", name="Clear").click()
    assert opened.evaluate("[strokes.length, shown, largest(picture.pixels)]") == [0, None, 0]
    assert opened.locator("#hint").is_visible()


def test_two_digits_are_not_read_as_one(opened: Any) -> None:
    drag(opened, [(60, 60), (60, 220)], [(220, 60), (220, 220)])
    assert opened.locator("#reading").inner_text() == "?"
    assert "These are 2 digits" in opened.locator("#framing").inner_text()


def test_test_images_are_classified_unchanged(opened: Any, run: LoadedRun, digits: Dataset) -> None:
    for group in ("right", "wrong"):
        button = opened.locator(f"#{group} button").nth(1)
        button.click()
        number = int(str(button.get_attribute("aria-label")).split()[2].rstrip(":"))
        pixels, probability = opened.evaluate("[Array.from(shown.pixels), shown.probability]")
        np.testing.assert_array_equal(pixels, digits.test.images[number].ravel())
        (expected,) = run.probabilities(digits.test.images[number][None])
        np.testing.assert_allclose(probability, expected, atol=1e-6)
        assert (expected.argmax() == digits.test.labels[number]) == (group == "right")
        assert button.get_attribute("aria-pressed") == "true"


def test_the_keyboard_draws_strokes(opened: Any) -> None:
    opened.locator("#pad").focus()
    for key in ["ArrowDown", "Space", *["ArrowDown"] * 9, "ArrowRight", "Space"]:
        opened.keyboard.press(key)
    assert opened.evaluate("strokes") == [
        [[140, y] for y in range(80, 171, 10)] + [[150, 170]],
    ]
    assert opened.get_by_role("status").inner_text() != ""
    opened.keyboard.press("Backspace")
    assert opened.evaluate("strokes") == []
    opened.keyboard.press("Tab")  # Disabled buttons are skipped.
    assert opened.evaluate("document.activeElement.parentElement.id") == "right"


@pytest.mark.parametrize(
    ("key", "left"), [("Escape", 0), ("Backspace", 1), ("Space", 2), ("ArrowDown", 2)]
)
def test_keys_pressed_during_a_stroke_do_not_draw(opened: Any, key: str, left: int) -> None:
    box = opened.locator("#pad").bounding_box()

    def at(x: float, y: float) -> tuple[float, float]:
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    opened.mouse.move(*at(0.2, 0.2))
    opened.mouse.down()
    opened.mouse.move(*at(0.2, 0.8))
    opened.mouse.up()
    before = opened.evaluate("strokes[0]")
    opened.mouse.move(*at(0.8, 0.2))
    opened.mouse.down()
    opened.keyboard.press(key)
    opened.mouse.move(*at(0.8, 0.8))
    opened.mouse.up()
    strokes = opened.evaluate("strokes")
    assert len(strokes) == left
    assert strokes[:1] == [before][:left]
    assert all(abs(x - 224) < 2 for stroke in strokes[1:] for x, _ in stroke)


@pytest.mark.parametrize("opened", [PHONE], indirect=True)
def test_a_finger_draws_and_does_not_scroll(opened: Any) -> None:
    box = opened.locator("#pad").bounding_box()
    client = opened.context.new_cdp_session(opened)
    for kind, y in [("touchStart", 0.2), *(("touchMove", 0.2 + i / 20) for i in range(12))]:
        at = {"x": box["x"] + box["width"] / 2, "y": box["y"] + y * box["height"]}
        client.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [at]})
    client.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    opened.wait_for_function("shown?.count === 1")
    ((first, *_, last),) = opened.evaluate("strokes")
    np.testing.assert_allclose([first, last], [[140, 56], [140, 210]], atol=2)
    assert opened.evaluate("scrollY") == 0


@pytest.mark.parametrize(
    "opened",
    [{**size, "color_scheme": scheme} for size in (PHONE, SCREEN) for scheme in ("light", "dark")],
    indirect=True,
)
def test_the_page_fits_is_labelled_and_legible(opened: Any) -> None:
    drag(opened, *FOUR)
    width = opened.viewport_size["width"]
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    assert opened.evaluate("innerWidth") == width
    sizes = opened.locator("main *, header *").evaluate_all(
        "all => all.map((one) => parseFloat(getComputedStyle(one).fontSize))"
    )
    assert min(sizes) >= 12
    # Large enough for a finger.
    buttons = opened.locator("button, .button").all()
    assert len(buttons) > 10
    for button in buttons:
        assert min(button.bounding_box()[side] for side in ("width", "height")) >= 44
    labelled = opened.locator("canvas:not([aria-hidden])")
    assert labelled.count() > 10
    assert all(labelled.evaluate_all("all => all.map((one) => one.getAttribute('aria-label'))"))
    dark = opened.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    for selector in ("#frame", "#layers canvas", ".examples canvas"):
        png = opened.locator(selector).first.screenshot()
        picture = np.asarray(Image.open(io.BytesIO(png)).convert("L"))
        assert (np.median(picture) < 128) == dark
        assert np.ptp(picture) > 40


PAINTED = """() => {
  const canvas = page.layers.appendChild(document.createElement("canvas"));
  const values = new Float32Array(9 * 10 * 2);
  values[(3 * 10 + 7) * 2 + 1] = 1;
  mosaic(canvas, { count: 2, height: 9, width: 10, columns: 2, values });
  canvas.remove();
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const pixels = [...new Uint32Array(data.buffer)];
  return [canvas.width, pixels.flatMap((v, i) => (v === shades.above[255] ? [i] : []))];
}"""


def test_an_activation_is_drawn_at_its_row_column_and_channel(opened: Any) -> None:
    width, found = opened.evaluate(PAINTED)
    # The second of two channels of 10 columns, with a pixel between them.
    assert width == 21
    assert [divmod(index, width) for index in found] == [(3, 11 + 7)]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name != "dbl_conv_relu"))
        for name in pretrained_names()
        if name in model_names()
    ],
)
def test_a_prediction_takes_no_longer_than_the_guide_says(
    browser: Any, tmp_path: Path, name: str
) -> None:
    drawing.write(load_pretrained(name), None, tmp_path / "demo.html")
    page = browser.new_page(viewport=SCREEN["viewport"])
    page.goto((tmp_path / "demo.html").as_uri())
    drag(page, *FOUR)
    # The page's own CPU time, so that other load on the machine does not count.
    client = page.context.new_cdp_session(page)
    client.send("Performance.enable", {"timeDomain": "threadTicks"})
    before, after = (
        (page.evaluate(f"for (let i = 0; i < {times}; i++) read()"), _cpu_time(client))[1]
        for times in (0, 20)
    )
    page.close()
    # Fifteen and twenty million multiply-adds for each framing of the digit, and more to show.
    limits = {"strided_cnn": 0.1, "residual_cnn": 0.15}
    assert 0 < (after - before) / 20 < limits.get(name, 0.05)


def _cpu_time(client: Any) -> float:
    """The page's CPU time in seconds."""
    metrics = client.send("Performance.getMetrics")["metrics"]
    return next(one["value"] for one in metrics if one["name"] == "TaskDuration")
