"""Image files: what is read of them, and how it is framed."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from image_files import Picture, bomb, encoded, enlarged, on_page, photographed, saved, shape_of
from PIL import Image

from mnist_jax.data import Dataset
from mnist_jax.data.framing import frame_digit, frame_garment
from mnist_jax.data.images import frame_image, read_image
from mnist_jax.errors import Failure


def test_a_digit_is_20_pixels_high_with_its_centre_of_mass_in_the_middle(tmp_path: Path) -> None:
    page = np.zeros((400, 300), np.uint8)
    page[20:140, 100:115] = page[120:140, 100:180] = 255
    seen = frame_image(read_image(saved(255 - page, tmp_path / "page.png")), "mnist") / 255
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    assert len(rows) == 20
    assert len(columns) == 13
    row, column = (np.arange(28) @ seen.sum(axis=axis) / seen.sum() for axis in (1, 0))
    assert abs(row - 14) <= 0.5
    assert abs(column - 14) <= 0.5
    assert abs((rows[0] + rows[-1]) / 2 - 14) > 1  # Unlike the middle of the box.


def test_specks_do_not_move_the_digit(digits: Dataset, tmp_path: Path) -> None:
    page = on_page(enlarged(digits.test.images[0], 4), 60, 60, 300)
    clean = frame_image(read_image(saved(255 - page, tmp_path / "clean.png")), "mnist")
    page[2:4, 2:4] = page[290:293, 280] = 255
    specked = frame_image(read_image(saved(255 - page, tmp_path / "specked.png")), "mnist")
    np.testing.assert_allclose(specked.astype(int), clean, atol=3)


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
def test_every_kind_of_png_shows_the_same(mode: str, tmp_path: Path) -> None:
    ink = shape_of()
    MODES[mode](ink).save(tmp_path / "image.png")
    seen = frame_image(read_image(tmp_path / "image.png"), "mnist")
    np.testing.assert_array_equal(seen, frame_digit(ink))


def test_cmyk_jpeg_is_read(tmp_path: Path) -> None:
    Image.fromarray(255 - shape_of()).convert("CMYK").save(tmp_path / "image.jpg", quality=95)
    seen = frame_image(read_image(tmp_path / "image.jpg"), "mnist")
    assert np.abs(seen.astype(int) - frame_digit(shape_of())).mean() < 3


def test_a_camera_s_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # To be turned clockwise by a quarter.
    path = saved(np.rot90(255 - shape_of()), tmp_path / "turned.jpg", exif=exif, quality=95)
    seen = frame_image(read_image(path), "mnist")
    assert np.abs(seen.astype(int) - frame_digit(shape_of())).mean() < 3


def test_a_large_picture_is_reduced(tmp_path: Path) -> None:
    path = saved(255 - shape_of(4002), tmp_path / "large.png")
    assert read_image(path).shape == (1024, 1024, 3)
    seen = frame_image(read_image(path), "mnist")
    assert np.abs(seen.astype(int) - frame_digit(shape_of())).mean() < 8


@pytest.mark.parametrize("light", [False, True])
def test_a_garment_fills_the_frame_and_keeps_its_grey(light: bool, tmp_path: Path) -> None:
    page = np.zeros((90, 200), np.uint8)
    page[10:80, 100:140] = 60
    page[30:40, 100:140] = 200
    path = saved(page if light else 255 - page, tmp_path / "garment.png")
    seen = frame_image(read_image(path), "fashion_mnist")
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (0, 27, 6, 21)
    assert seen[20, 14] == 60
    assert seen[9, 14] > 190
    np.testing.assert_array_equal(frame_garment(page), seen)


def test_framed_garments_stay_as_they_are(tmp_path: Path) -> None:
    garment = frame_garment(np.arange(40, 240, dtype=np.uint8)[:, None] * np.ones(60, np.uint8))
    path = saved(garment, tmp_path / "garment.png")
    np.testing.assert_array_equal(frame_image(read_image(path), "fashion_mnist"), garment)


def test_specks_do_not_move_a_garment(tmp_path: Path) -> None:
    page = np.zeros((90, 200), np.uint8)
    page[10:80, 100:140] = 60
    expected = frame_garment(page)
    page[85:87, 5] = 200
    path = saved(255 - page, tmp_path / "garment.png")
    np.testing.assert_array_equal(frame_image(read_image(path), "fashion_mnist"), expected)


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
def test_an_empty_page_shows_nothing(page: str, tmp_path: Path) -> None:
    image = read_image(saved(empty_pages()[page], tmp_path / "page.png"))
    assert not frame_image(image, "mnist").any()


def test_any_pixels_have_a_frame() -> None:
    rng = np.random.default_rng(0)
    stripes = np.repeat(255 * np.eye(3, dtype=np.uint8)[None], 3, axis=0)  # No colour leads.
    noise = rng.integers(0, 256, (50, 40, 3), np.uint8)
    for image in (stripes, stripes[:1], stripes[:2, :2], stripes[:1, :1], noise):
        for dataset in ("mnist", "fashion_mnist"):
            assert frame_image(image, dataset).shape == (28, 28)


DAMAGED = {
    "no image": (b"hello", "is no PNG, JPEG, GIF, WebP or BMP image"),
    "empty file": (b"", "is no PNG, JPEG, GIF, WebP or BMP image"),
    "TIFF": (encoded("tiff"), "is no PNG, JPEG, GIF, WebP or BMP image"),
    "half a PNG": (encoded("png")[:-200], "is damaged or cut short"),
    "half a JPEG": (encoded("jpeg")[:-900], "is damaged or cut short"),
    "large": (bomb(10_000), "has more than 89,478,485 pixels"),
    "huge": (bomb(200_000), "has more than 89,478,485 pixels"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_what_is_no_picture_is_one_sentence(kind: str, tmp_path: Path) -> None:
    content, sentence = DAMAGED[kind]
    path = tmp_path / "image.png"
    path.write_bytes(content)
    with pytest.raises(Failure) as caught:
        read_image(path)
    assert str(caught.value).startswith(f"{path} {sentence}")
    assert str(caught.value).count(".") == str(path).count(".") + 1


def test_damaged_bytes_are_a_sentence_or_a_picture(tmp_path: Path) -> None:
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
                outcomes.add(frame_image(read_image(path), "mnist").shape)
            except Failure:
                outcomes.add(())
    assert outcomes == {(), (28, 28)}


@pytest.mark.parametrize("format_", ["png", "jpeg", "gif", "webp", "bmp"])
def test_a_file_that_is_cut_short_is_refused_in_a_sentence(format_: str, tmp_path: Path) -> None:
    whole = encoded(format_)
    path = tmp_path / f"image.{format_}"
    path.write_bytes(whole)
    read_image(path)
    sentences = []
    for kept in range(0, len(whole) - 1, max(1, len(whole) // 50)):
        path.write_bytes(whole[:kept])
        try:
            read_image(str(path))
        except Failure as failure:
            sentences.append(str(failure))
    assert len(sentences) > 5
    assert all(sentence.startswith(f"{path} ") for sentence in sentences)
