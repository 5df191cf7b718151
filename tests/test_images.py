"""Image files: how they are read, and how the digits and garments in them are framed."""

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from drawn_digits import FAMILIES, drawn, drawn_picture
from image_files import (
    Picture,
    bomb,
    encoded,
    enlarged,
    letter_l,
    network_input,
    on_page,
    photographed,
    saved,
)
from PIL import Image
from scipy import ndimage

from mnist_jax.data import Dataset, DatasetNotFound, load_dataset
from mnist_jax.data.framing import frame_digit, frame_garment
from mnist_jax.data.images import frames_of, read_image
from mnist_jax.data.typical import TYPICAL, measures, unusual
from mnist_jax.errors import Failure


def test_a_digit_is_scaled_to_20_pixels_and_centred_by_its_centre_of_mass(tmp_path: Path) -> None:
    page = np.zeros((400, 300), np.uint8)
    page[20:140, 100:115] = page[120:140, 100:180] = 255
    seen = network_input(saved(255 - page, tmp_path / "page.png")) / 255
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    assert len(rows) == 20
    assert len(columns) == 13
    row, column = (np.arange(28) @ seen.sum(axis=axis) / seen.sum() for axis in (1, 0))
    assert abs(row - 14) <= 0.5
    assert abs(column - 14) <= 0.5
    assert abs((rows[0] + rows[-1]) / 2 - 14) > 1  # The bounding box is not centred.


def test_specks_do_not_move_the_digit(digits: Dataset, tmp_path: Path) -> None:
    page = on_page(enlarged(digits.test.images[0], 4), 60, 60, 300)
    clean = network_input(saved(255 - page, tmp_path / "clean.png"))
    page[2:4, 2:4] = page[290:293, 280] = 255
    specked = network_input(saved(255 - page, tmp_path / "specked.png"))
    np.testing.assert_allclose(specked.astype(int), clean, atol=3)


PAGES = ("faint", "lined paper", "squared paper", "dark scan edge", "hard shadow", "uneven light")


@pytest.mark.parametrize("family", [*PAGES, "light on dark", "noise and JPEG"])
def test_paper_light_and_noise_do_not_change_the_digit(family: str) -> None:
    correlations = []
    for digit in range(10):
        rng = np.random.default_rng(digit)
        cover = drawn(digit, rng, width=14, height=150, shape=(260, 280))
        pages = (FAMILIES[look].look(rng, cover) for look in ("normal", family))
        clean, seen = (
            frames_of(np.rint(page).clip(0, 255).astype(np.uint8), "mnist") for page in pages
        )
        assert len(seen) == 1
        correlations.append(np.corrcoef(clean[0][0].ravel(), seen[0][0].ravel())[0, 1])
    assert np.median(correlations) > 0.97
    assert min(correlations) > 0.8


def test_a_hairline_is_thickened_to_a_typical_stroke_width() -> None:
    ((seen, *_),) = frames_of(drawn_picture("hairline", 3, 0), "mnist")
    assert unusual(seen, "mnist") == []
    assert measures(seen)[0] > 1.6


def test_a_pale_digit_between_dark_ones_is_framed() -> None:
    # Its ink is measured against theirs.
    page = strokes((50, 150, 40, 62), (50, 150, 210, 232))
    page[50:150, 125:151] = 153
    assert len(frames_of(page, "mnist")) == 3


def test_a_rotated_digit_is_also_framed_upright() -> None:
    page = np.full((200, 200, 3), 255, np.uint8)
    page[40:160, 90:104] = 0
    assert [len(ways) for ways in frames_of(page, "mnist")] == [1]
    rotated = np.asarray(Image.fromarray(page).rotate(30, fillcolor="white"))
    ((unchanged, upright),) = frames_of(rotated, "mnist")
    assert abs(measures(unchanged)[4]) > 0.4
    assert abs(measures(upright)[4]) < 0.1


def strokes(*lines: tuple[int, int, int, int]) -> Picture:
    """A white page with black bars: first row, last row, first column, last column."""
    page = np.full((200, 300, 3), 255, np.uint8)
    for top, bottom, left, right in lines:
        page[top:bottom, left:right] = 0
    return page


DIGITS = {
    "two": (2, strokes((50, 150, 40, 52), (50, 150, 200, 212))),
    "a five with a detached bar": (1, strokes((50, 62, 80, 150), (70, 150, 70, 82))),
    "a four with a detached stem": (
        1,
        strokes((50, 100, 60, 72), (100, 112, 60, 120), (70, 150, 124, 136)),
    ),
    "one and a speck": (1, strokes((50, 150, 40, 52), (150, 158, 250, 258))),
    "one and a cropped one": (1, strokes((50, 150, 100, 112), (50, 150, 296, 300))),
}


@pytest.mark.parametrize("name", DIGITS)
def test_strokes_are_grouped_into_digits(name: str) -> None:
    count, page = DIGITS[name]
    assert len(frames_of(page, "mnist")) == count


def test_digits_are_ordered_from_left_to_right() -> None:
    thin, wide = frames_of(
        strokes((70, 150, 40, 52), (40, 160, 180, 192), (148, 160, 180, 240)), "mnist"
    )
    assert thin[0].any(axis=0).sum() < wide[0].any(axis=0).sum()


@pytest.mark.parametrize("digit", [0, 3, 6, 8])
def test_a_crop_without_a_margin_gives_the_same_frame(digit: int) -> None:
    cover = drawn(digit, np.random.default_rng(0), width=20, height=150, shape=(260, 260))
    page = np.rint(255 - 255 * cover)[..., None].repeat(3, -1).astype(np.uint8)
    (box,) = ndimage.find_objects((cover > 0).astype(int))
    ((whole, *_),), ((crop, *_),) = (frames_of(image, "mnist") for image in (page, page[box]))
    assert np.corrcoef(whole.ravel(), crop.ravel())[0, 1] > 0.97


def test_digits_on_two_lines_are_refused() -> None:
    with pytest.raises(Failure, match=r"^shows digits on more than one line; crop it to one\.$"):
        frames_of(strokes((10, 70, 40, 52), (120, 180, 40, 52)), "mnist")


def test_framed_images_and_their_negatives_are_left_unchanged(digits: Dataset) -> None:
    for image in digits.test.images[:50]:
        for picture in (image, 255 - image):
            ((seen,),) = frames_of(np.stack([picture] * 3, axis=-1), "mnist")
            np.testing.assert_array_equal(seen, image)


@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "webp", "bmp"])
def test_every_format_is_read_from_a_path_a_string_and_a_stream(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(encoded(kind))
    expected = 255 - np.stack([letter_l(200)] * 3, axis=-1)
    for source in (path, str(path), io.BytesIO(encoded(kind))):
        assert np.abs(read_image(source).astype(int) - expected).mean() < 3


@pytest.mark.parametrize("name", ["mnist", "digits"])
def test_typical_ranges_are_quantiles_of_the_training_images(name: str) -> None:
    folder = os.environ.get("MNIST_JAX_DATA_DIR")
    try:
        images = load_dataset(name, folder).train.images if folder or name == "digits" else None
    except DatasetNotFound:
        images = None
    if images is None:
        pytest.skip(f"$MNIST_JAX_DATA_DIR has no {name}")
    measured = np.array([measures(image) for image in images[:1500]])
    low, high = np.array(TYPICAL[name]).T
    # The bounds are rounded to hundredths. With 1.5 of 1,500 expected outside, 8 have p = 1/3,000.
    assert max((measured < low - 0.005).sum(0).max(), (measured > high + 0.005).sum(0).max()) < 8
    # The bounds are not far outside the measured range.
    ranges = np.ptp(measured, axis=0)
    assert (low > measured.min(0) - 0.5 * ranges).all()
    assert (high < measured.max(0) + 0.5 * ranges).all()


MODES: dict[str, Callable[[Picture], Image.Image]] = {
    "1": lambda ink: Image.fromarray(255 - ink).convert("1"),
    "L": lambda ink: Image.fromarray(255 - ink),
    "16 bits": lambda ink: Image.fromarray((255 - ink).astype(np.uint16) * 100 + 20000),
    "palette": lambda ink: Image.fromarray(255 - ink).convert("RGB").convert("P"),
    "black on transparent": lambda ink: Image.fromarray(
        np.stack([np.zeros_like(ink), ink], axis=-1), "LA"
    ),
    "white on transparent": lambda ink: Image.fromarray(
        np.stack([np.full_like(ink, 255), ink], axis=-1), "LA"
    ),
    "page with transparent corner": lambda ink: Image.fromarray(
        np.dstack([255 - ink] * 3 + [np.where(np.indices(ink.shape).sum(0) < 15, 0, 255)]).astype(
            np.uint8
        )
    ),
}


@pytest.mark.parametrize("mode", MODES)
def test_every_png_mode_gives_the_same_frame(mode: str, tmp_path: Path) -> None:
    ink = letter_l()
    MODES[mode](ink).save(tmp_path / "image.png")
    seen = network_input(tmp_path / "image.png")
    np.testing.assert_array_equal(seen, frame_digit(ink))


def test_cmyk_jpeg_is_read(tmp_path: Path) -> None:
    Image.fromarray(255 - letter_l()).convert("CMYK").save(tmp_path / "image.jpg", quality=95)
    seen = network_input(tmp_path / "image.jpg")
    assert np.abs(seen.astype(int) - frame_digit(letter_l())).mean() < 3


def test_the_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # To be rotated by 90° clockwise.
    path = saved(np.rot90(255 - letter_l()), tmp_path / "rotated.jpg", exif=exif, quality=95)
    seen = network_input(path)
    assert np.abs(seen.astype(int) - frame_digit(letter_l())).mean() < 3


def test_a_large_picture_is_downscaled(tmp_path: Path) -> None:
    path = saved(255 - letter_l(4002), tmp_path / "large.png")
    assert read_image(path).shape == (1024, 1024, 3)
    seen = network_input(path)
    assert np.abs(seen.astype(int) - frame_digit(letter_l())).mean() < 8


@pytest.mark.parametrize("light", [False, True])
def test_a_garment_fills_the_frame_and_keeps_its_grey(light: bool, tmp_path: Path) -> None:
    page = np.zeros((90, 200), np.uint8)
    page[10:80, 100:140] = 60
    page[30:40, 100:140] = 200
    path = saved(page if light else 255 - page, tmp_path / "garment.png")
    seen = network_input(path, "fashion_mnist")
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (0, 27, 6, 21)
    assert seen[20, 14] == 60
    assert seen[9, 14] > 190
    np.testing.assert_array_equal(frame_garment(page), seen)


def test_framed_garments_are_left_unchanged(tmp_path: Path) -> None:
    garment = frame_garment(np.arange(40, 240, dtype=np.uint8)[:, None] * np.ones(60, np.uint8))
    path = saved(garment, tmp_path / "garment.png")
    np.testing.assert_array_equal(network_input(path, "fashion_mnist"), garment)


def test_specks_do_not_move_a_garment(tmp_path: Path) -> None:
    page = np.zeros((90, 200), np.uint8)
    page[10:80, 100:140] = 60
    expected = frame_garment(page)
    page[85:87, 5] = 200
    path = saved(255 - page, tmp_path / "garment.png")
    np.testing.assert_array_equal(network_input(path, "fashion_mnist"), expected)


def empty_pages() -> dict[str, Picture]:
    noise = np.random.default_rng(0).normal(0, 4, (200, 300))
    return {
        "white": np.full((40, 60), 255, np.uint8),
        "black": np.zeros((1, 1), np.uint8),
        "photographed": photographed(np.zeros((300, 300), np.uint8)),
        "noisy": (200 + noise).astype(np.uint8),
        "transparent": np.zeros((30, 30, 4), np.uint8),
    }


@pytest.mark.parametrize("page", empty_pages())
def test_an_empty_page_has_no_digits(page: str, tmp_path: Path) -> None:
    image = read_image(saved(empty_pages()[page], tmp_path / "page.png"))
    assert not len(frames_of(image, "mnist"))


def test_frames_of_any_pixels_have_the_right_shape() -> None:
    rng = np.random.default_rng(0)
    stripes = np.repeat(255 * np.eye(3, dtype=np.uint8)[None], 3, axis=0)  # No colour dominates.
    noise = rng.integers(0, 256, (50, 40, 3), np.uint8)
    images = (stripes, stripes[:1], stripes[:2, :2], stripes[:1, :1], noise)
    for dataset in ("mnist", "fashion_mnist"):
        shapes = {ways.shape[1:] for image in images for ways in frames_of(image, dataset)}
        assert shapes == {(28, 28)}


DAMAGED = {
    "no image": (b"hello", "is not a PNG, JPEG, GIF, WebP or BMP image"),
    "empty file": (b"", "is not a PNG, JPEG, GIF, WebP or BMP image"),
    "TIFF": (encoded("tiff"), "is not a PNG, JPEG, GIF, WebP or BMP image"),
    "half a PNG": (encoded("png")[:-200], "is damaged or truncated"),
    "half a JPEG": (encoded("jpeg")[:-900], "is damaged or truncated"),
    "large": (bomb(10_000), "has more than 89,478,485 pixels"),
    "huge": (bomb(200_000), "has more than 89,478,485 pixels"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_an_unreadable_picture_is_refused_in_one_sentence(kind: str, tmp_path: Path) -> None:
    content, sentence = DAMAGED[kind]
    path = tmp_path / "image.png"
    path.write_bytes(content)
    with pytest.raises(Failure) as caught:
        read_image(path)
    assert str(caught.value).startswith(f"{path} {sentence}")
    assert str(caught.value).count(".") == str(path).count(".") + 1


def test_a_damaged_picture_is_read_or_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "image"
    outcomes = set()
    for kind in ("png", "jpeg"):
        whole = np.frombuffer(encoded(kind), np.uint8)
        for _ in range(60):
            damaged = whole.copy()
            damaged[rng.integers(len(whole), size=3)] = rng.integers(256, size=3)
            path.write_bytes(damaged.tobytes())
            try:
                outcomes |= {ways.shape[1:] for ways in frames_of(read_image(path), "mnist")}
            except Failure:
                outcomes.add(())
    assert outcomes == {(), (28, 28)}


@pytest.mark.parametrize("format_", ["png", "jpeg", "gif", "webp", "bmp"])
def test_a_truncated_file_is_refused_in_one_sentence(format_: str, tmp_path: Path) -> None:
    whole = encoded(format_)
    path = tmp_path / f"image.{format_}"
    path.write_bytes(whole)
    read_image(path)
    # The last 20 bytes of a PNG are checksums and the end chunk, without which it can be read.
    end = len(whole) - (20 if format_ == "png" else 1)
    for kept in range(0, end, len(whole) // 50):
        path.write_bytes(whole[:kept])
        with pytest.raises(Failure) as caught:
            read_image(str(path))
        assert str(caught.value).startswith(f"{path} ")
