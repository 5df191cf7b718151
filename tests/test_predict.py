"""Image files: what is read of them, how it is framed, and what the command says of it."""

import dataclasses
import io
import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from mnist_jax.data import CLASS_NAMES, Dataset, DatasetNotFound, load_dataset
from mnist_jax.data.framing import frame_digit, frame_garment
from mnist_jax.data.images import frame_image, read_image
from mnist_jax.errors import Failure
from mnist_jax.fit import fit
from mnist_jax.models import model_entry
from mnist_jax.runs import RunDirectory, describe_environment
from mnist_jax.trained import classifier, load_network
from mnist_jax.trainer import Trainer

Picture = np.ndarray


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """MNIST where it is, without looking for it on the network; otherwise the small digits."""
    if folder := os.environ.get("MNIST_JAX_DATA_DIR"):
        try:
            return load_dataset("mnist", folder)
        except DatasetNotFound:
            pass
    return load_dataset("digits")


@pytest.fixture(scope="module")
def run(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A network that has seen 1,500 digits a few times."""
    train = dataclasses.replace(
        dataset.train, images=dataset.train.images[:1500], labels=dataset.train.labels[:1500]
    )
    dataset = dataclasses.replace(dataset, train=train)
    recipe = dataclasses.replace(
        model_entry("lenet").recipe,
        dataset=dataset.name,
        model_args={"activation": "relu", "pooling": "max"},
        batch_size=50,
        learning_rate=0.1,
        momentum=0.5,
        mean=0.1307,
        std=0.3081,
        epochs=10,
    )
    run = RunDirectory(tmp_path_factory.mktemp("run"))
    run.create(recipe, describe_environment(dataset, {}))
    fit(Trainer(recipe, dataset, seeds=[0], num_devices=1), [run], lambda _: None)
    return run


def saved(picture: Picture, path: Path, **options: object) -> Path:
    Image.fromarray(picture).save(path, **options)  # type: ignore[arg-type]
    return path


def enlarged(digit: Picture, times: int) -> Picture:
    side = times * 28
    return np.asarray(Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC))


def on_page(digit: Picture, row: int, column: int, side: int) -> Picture:
    page = np.zeros((side, side), np.uint8)
    page[row : row + len(digit), column : column + len(digit)] = digit
    return page


def coloured(digit: Picture, ink: tuple[int, ...], paper: tuple[int, ...]) -> Picture:
    share = digit[..., None] / 255
    return np.rint(np.array(paper) * (1 - share) + np.array(ink) * share).astype(np.uint8)


def photographed(digit: Picture) -> Picture:
    """On grey paper under uneven light, with noise."""
    height, width = digit.shape
    rows, columns = np.mgrid[0:height, 0:width] / height
    noise = np.random.default_rng(0).normal(0, 4, digit.shape)
    light = 190 + 40 * columns - 25 * rows + noise
    return np.rint((light * (1 - 0.6 * digit / 255)).clip(0, 255)).astype(np.uint8)


ENCODINGS: dict[str, tuple[str, Callable[[Picture], Picture]]] = {
    "as it is": ("png", lambda digit: digit),
    "as JPEG": ("jpeg", lambda digit: digit),
    "enlarged and dark on light": ("jpeg", lambda digit: 255 - enlarged(digit, 4)),
    "small in a corner": ("png", lambda digit: 255 - on_page(enlarged(digit, 3), 200, 7, 300)),
    "yellow on blue": (
        "png",
        lambda digit: coloured(enlarged(digit, 3), (255, 220, 0), (20, 60, 120)),
    ),
    "red on a green as bright": (
        "png",
        lambda digit: coloured(enlarged(digit, 3), (255, 0, 0), (0, 130, 0)),
    ),
    "photographed": (
        "jpeg",
        lambda digit: photographed(on_page(enlarged(digit, 5), 9, 110, 256)),
    ),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_file_is_classified_like_the_array(
    encoding: str, dataset: Dataset, run: RunDirectory, tmp_path: Path
) -> None:
    ending, make = ENCODINGS[encoding]
    images, labels = dataset.test.images[:120], dataset.test.labels[:120]
    files = [saved(make(d), tmp_path / f"{i}.{ending}", quality=75) for i, d in enumerate(images)]
    framed = np.stack([frame_image(read_image(file), dataset.name) for file in files])
    # A shift by one pixel leaves 0.91 at most, another scale by a tenth 0.89.
    assert likeness(framed, images) > (0.98 if encoding == "as it is" else 0.93)
    classify = classifier(load_network(run)[1], run.recipe())
    from_files, from_arrays = classify(framed).argmax(-1), classify(images).argmax(-1)
    assert np.mean(from_arrays == labels) > 0.85
    assert np.mean(from_files == labels) >= np.mean(from_arrays == labels) - 0.05


def likeness(images: Picture, others: Picture) -> float:
    """The mean correlation of pairs of images."""
    pairs = zip(images, others, strict=True)
    return float(np.mean([np.corrcoef(one.ravel(), other.ravel())[0, 1] for one, other in pairs]))


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


def test_specks_do_not_move_the_digit(dataset: Dataset, tmp_path: Path) -> None:
    page = on_page(enlarged(dataset.test.images[0], 4), 60, 60, 300)
    clean = frame_image(read_image(saved(255 - page, tmp_path / "clean.png")), "mnist")
    page[2:4, 2:4] = page[290:293, 280] = 255
    specked = frame_image(read_image(saved(255 - page, tmp_path / "specked.png")), "mnist")
    np.testing.assert_allclose(specked.astype(int), clean, atol=3)


def shape_of(side: int = 60) -> Picture:
    """An L, different from its mirror images: uint8 [side, side], 0 and 255."""
    digit = np.zeros((side, side), np.uint8)
    digit[side // 6 : -side // 6, side // 3 : side // 2] = 255
    digit[-side // 3 : -side // 6, side // 3 : -side // 4] = 255
    return digit


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


def bomb(side: int) -> bytes:
    """A PNG of a few bytes that claims side × side pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"")
    chunks = (header, data, b"IEND")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in chunks
    )


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(255 - shape_of(200)).save(buffer, kind)
    return buffer.getvalue()


DAMAGED = {
    "no image": (b"hello", "is no PNG or JPEG image"),
    "empty file": (b"", "is no PNG or JPEG image"),
    "GIF": (encoded("gif"), "is no PNG or JPEG image"),
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


def test_probabilities_are_those_of_the_loss(run: RunDirectory, dataset: Dataset) -> None:
    network, images = load_network(run)[1], dataset.test.images[:5]
    recipe = run.recipe()
    softmax = classifier(network, recipe)(images)
    np.testing.assert_allclose(softmax.sum(-1), 1, rtol=1e-5)
    pixels = jnp.asarray((images[..., None].astype(np.float32) / 255 - 0.1307) / 0.3081)
    np.testing.assert_allclose(softmax, jax.nn.softmax(network(pixels)), rtol=1e-4, atol=1e-6)
    squared = dataclasses.replace(recipe, loss="mean_squared_error")
    outputs = np.maximum(network(pixels), 1e-6)
    expected = outputs / outputs.sum(-1, keepdims=True)
    np.testing.assert_allclose(classifier(network, squared)(images), expected, rtol=1e-3)


def predict(home: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache")}
    return subprocess.run(
        [sys.executable, "-m", "mnist_jax.predict", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=env,
    )


def test_the_command_classifies_what_it_can(
    run: RunDirectory, dataset: Dataset, tmp_path: Path
) -> None:
    good = [
        saved(255 - enlarged(d, 3), tmp_path / f"{i}.png")
        for i, d in enumerate(dataset.test.images[:2])
    ]
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "bomb.png").write_bytes(bomb(10_000))
    blank = saved(np.full((9, 9), 255, np.uint8), tmp_path / "blank.png")
    bad = [tmp_path / "text.png", tmp_path / "bomb.png", blank, tmp_path / "none.png", tmp_path]
    shown = tmp_path / "shown"
    options = (f"--workdir={run.path}", "--json", f"--show={shown}")
    done = predict(tmp_path, good[0], *bad, good[1], *options)
    assert done.returncode == 1, done.stderr
    sentences = done.stderr.splitlines()
    assert len(sentences) == len(bad)
    for path, sentence, part in zip(
        bad,
        sentences,
        ("is no PNG", "89,478,485", "is an empty page", "No such", "directory"),
        strict=True,
    ):
        assert sentence.startswith(f"{path} ")
        assert part in sentence
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["image"] for row in rows] == [str(path) for path in good]
    seen = np.stack([frame_image(read_image(path), "mnist") for path in good])
    expected = classifier(load_network(run)[1], run.recipe())(seen)
    for row, probabilities in zip(rows, expected, strict=True):
        np.testing.assert_allclose(row["probabilities"], probabilities, rtol=1e-3, atol=1e-6)
        assert row["label"] == probabilities.argmax()
        assert row["class"] == CLASS_NAMES[dataset.name][row["label"]]
    assert sorted(path.name for path in shown.iterdir()) == ["1-0.png", "7-1.png"]
    with Image.open(shown / "1-0.png") as picture:
        assert picture.size == (560, 280)
        np.testing.assert_array_equal(np.asarray(picture)[5::10, 285::10, 0], seen[0])


def test_the_command_prints_label_and_probabilities(
    run: RunDirectory, dataset: Dataset, tmp_path: Path
) -> None:
    path = saved(dataset.test.images[0], tmp_path / "[bold] é.png")
    done = predict(tmp_path, f"--workdir={run.path}", path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    network = classifier(load_network(run)[1], run.recipe())
    (probabilities,) = network(frame_image(read_image(path), "mnist")[None])
    label = int(probabilities.argmax())
    assert done.stdout.startswith(f"{path}: {label} {probabilities[label]:.2%}")


def test_misuse_is_one_sentence(run: RunDirectory, tmp_path: Path) -> None:
    image = saved(255 - shape_of(), tmp_path / "image.png")
    workdir = f"--workdir={run.path}"
    for arguments, code, sentence in (
        ([image], 2, "No run given; add --workdir=DIR."),
        ([workdir], 2, "No image given; add the names of PNG or JPEG files."),
        ([image, workdir, f"--show={image}"], 1, "can't be written"),
    ):
        done = predict(tmp_path, *arguments)
        assert done.returncode == code
        assert sentence in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_what_has_no_checkpoint_is_one_sentence(run: RunDirectory, tmp_path: Path) -> None:
    with pytest.raises(Failure, match=r"is .* the workdir of a run\?$") as caught:
        load_network(RunDirectory(tmp_path))
    assert caught.value.exit_code == 1
    untrained = RunDirectory(tmp_path / "untrained")
    with untrained.locked():
        untrained.create(run.recipe(), run.environment())
    with pytest.raises(Failure, match="has no intact checkpoint; train once more") as caught:
        load_network(untrained)
    assert caught.value.exit_code == 1
