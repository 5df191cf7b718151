"""Augmentations against SciPy, and bit for bit against Pillow, with the same random numbers."""

import dataclasses
import json
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from mnist_jax import named
from mnist_jax.errors import UsageError
from mnist_jax.transforms import (
    TRANSFORMS,
    Affine,
    CropResize,
    Elastic,
    GridDistortion,
    HorizontalFlip,
    MagnifyingRotation,
    Standardize,
    Transform,
    eight_bit,
)

BICUBIC = Image.Resampling.BICUBIC
KEYS = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(7), jnp.arange(2000))


def noise(count: int) -> np.ndarray:
    """Noise, which tests every rounding; every other image has few values, for exact halves."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 28, 28), np.uint8)
    images[::2] = rng.integers(0, 10, images[::2].shape) * 28
    return images


def scaled(images: np.ndarray) -> jax.Array:
    return jnp.asarray(images, jnp.float32) / 255


def applied(transform: Transform, images: np.ndarray, drawn: Any) -> np.ndarray:
    return np.asarray(jax.jit(jax.vmap(transform.apply))(scaled(images), drawn))


def as_bytes(images: np.ndarray) -> np.ndarray:
    numbers = np.rint(images * 255)
    np.testing.assert_allclose(images * 255, numbers, atol=1e-4)
    return numbers.astype(np.uint8)


def drawn_by(transform: Transform, count: int = len(KEYS)) -> Any:
    return jax.device_get(jax.jit(jax.vmap(transform.draw))(KEYS[:count]))


@pytest.mark.parametrize(("fill", "mode"), [("nearest", "nearest"), ("zero", "grid-constant")])
def test_affine_transform_agrees_with_scipy(fill: Any, mode: str) -> None:
    images, affine = noise(60), Affine(rotation=40, shift=6, zoom=0.5, fill=fill)
    drawn = drawn_by(affine, 60)
    found = applied(affine, images, drawn)
    for image, got, radians, shift, scale in zip(images, found, *_values(drawn), strict=True):
        # Keras: rotation · shift · zoom about the centre, of (row, column, 1).
        c, s = math.cos(radians), math.sin(radians)
        rotation = np.asarray([[c, -s, 0], [s, c, 0], [0, 0, 1]])
        moved = np.asarray([[1, 0, shift[0]], [0, 1, shift[1]], [0, 0, 1]])
        there, back = np.eye(3), np.eye(3)
        there[:2, 2], back[:2, 2] = 13.5, -13.5
        matrix = there @ rotation @ moved @ np.diag([*scale, 1]) @ back
        expected = ndimage.affine_transform(
            image / 255, matrix[:2, :2], matrix[:2, 2], order=1, mode=mode
        )
        np.testing.assert_allclose(got, expected, atol=2e-5)


def _values(drawn: dict[str, np.ndarray]) -> list[np.ndarray]:
    return [drawn[name].astype(np.float64) for name in ("radians", "shifts", "scales")]


def test_affine_draws_are_uniform_and_independent() -> None:
    affine = Affine()
    radians, shifts, scales = _values(drawn_by(affine))
    columns = np.column_stack([np.rad2deg(radians) / 15, shifts / 2.8, (scales - 1) / 0.15])
    assert np.abs(columns).max() <= 1 + 1e-6
    # 2,000 uniform numbers in ±1: deviations of mean, of spread and of correlation by 5 sigma.
    assert np.abs(columns.mean(axis=0)).max() < 5 * 3**-0.5 * 2000**-0.5
    np.testing.assert_allclose(columns.std(axis=0), 3**-0.5, atol=0.03)
    assert np.abs(np.corrcoef(columns.T) - np.eye(5)).max() < 5 * 2000**-0.5


def test_affine_transform_of_size_zero_is_the_identity() -> None:
    images, nothing = noise(3), Affine(rotation=0, shift=0, zoom=0)
    np.testing.assert_array_equal(
        applied(nothing, images, drawn_by(nothing, 3)), np.asarray(scaled(images))
    )


def test_elastic_deformation_agrees_with_scipy() -> None:
    images, elastic = noise(8), Elastic(alpha=20, sigma=3)
    fields = drawn_by(elastic, 8)
    assert np.abs(fields).max() <= 1
    assert fields.std() == pytest.approx(3**-0.5, rel=0.02)
    for image, field, got in zip(images, fields, applied(elastic, images, fields), strict=True):
        smooth = [ndimage.gaussian_filter(one, 3, mode="constant") for one in field.astype(float)]
        expected = ndimage.map_coordinates(
            image / 255,
            np.indices((28, 28)) + 20 * np.asarray(smooth),
            order=1,
            mode="grid-constant",
        )
        np.testing.assert_allclose(got, expected, atol=1e-4)


@pytest.mark.parametrize("window", [25, 20, 28])
def test_crop_equals_pillow_s_bit_for_bit(window: int) -> None:
    images, crop = noise(200), CropResize(window=window)
    starts = drawn_by(crop, 200)
    found = as_bytes(applied(crop, images, starts))
    for image, (top, left), got in zip(images, starts.tolist(), found, strict=True):
        cropped = Image.fromarray(image).crop((left, top, left + window, top + window))
        np.testing.assert_array_equal(got, np.asarray(cropped.resize((28, 28), BICUBIC)))


def test_windows_are_drawn_uniformly() -> None:
    starts = drawn_by(CropResize())
    counts = np.bincount(4 * starts[:, 0] + starts[:, 1], minlength=16)
    assert np.abs(counts - 125).max() < 5 * 125**0.5


@pytest.mark.parametrize("centre", ["published", "true", "turned"])
def test_crop_of_evaluated_images_equals_pillow_s_bit_for_bit(centre: Any) -> None:
    images = noise(50)
    evaluate = jax.jit(jax.vmap(CropResize(centre=centre).evaluation))
    for image, got in zip(images, as_bytes(np.asarray(evaluate(scaled(images)))), strict=True):
        picture = Image.fromarray(image)
        if centre == "published":
            # Pillow rounds 1.5 and 26.5 itself.
            expected = picture.crop((1.5, 1.5, 26.5, 26.5)).resize((28, 28), BICUBIC)
            np.testing.assert_array_equal(
                expected, picture.crop((2, 2, 26, 26)).resize((28, 28), BICUBIC)
            )
        else:
            # A rotation keeps 28 pixels of a side from 0 to 3 degrees, 26 from 4 to 6, 24 by 26 at
            # 7, and 24 from 8 to 10.
            left = (4 * 28 + 3 * 26 + 25 + 3 * 24) / 11 / 28 if centre == "turned" else 1.0
            start, stop = 14 - 12.5 * left, 14 + 12.5 * left
            expected = picture.resize((28, 28), BICUBIC, box=(start, start, stop, stop))
        np.testing.assert_array_equal(got, np.asarray(expected))


def test_grid_distortion_equals_pillow_s_bit_for_bit() -> None:
    images, distortion = noise(600), GridDistortion()
    moves = drawn_by(distortion, 600)
    found = as_bytes(applied(distortion, images, moves))
    for image, inner, got in zip(images, moves, found, strict=True):
        corners = 7 * np.indices((5, 5)) + np.pad(inner, ((0, 0), (1, 1), (1, 1)))
        mesh = []
        for row, column in np.ndindex(4, 4):
            around = ((row, column), (row + 1, column), (row + 1, column + 1), (row, column + 1))
            quad = [
                int(number) for place in around for number in corners[(slice(None), *place)][::-1]
            ]
            box = (7 * column, 7 * row, 7 * column + 7, 7 * row + 7)
            mesh.append((box, tuple(quad)))
        expected = Image.fromarray(image).transform((28, 28), Image.Transform.MESH, mesh, BICUBIC)
        np.testing.assert_array_equal(got, np.asarray(expected))


def test_moves_of_corners_are_uniform_and_independent() -> None:
    moves = drawn_by(GridDistortion()).reshape(2000, 18)
    for move in (-1, 0, 1):
        assert np.abs((moves == move).sum(axis=0) - 2000 / 3).max() < 5 * (2000 * 2 / 9) ** 0.5
    assert np.abs(np.corrcoef(moves.T) - np.eye(18)).max() < 5 * 2000**-0.5


def cut_box(degrees: int, width: int, height: int) -> tuple[int, int, int, int]:
    """The box that Augmentor crops, with the operator-precedence error in its formula."""
    a, b = math.sin(math.radians(abs(degrees))), math.sin(math.radians(90 - abs(degrees)))
    across = a / b * (height - width * (a / b))
    across = across / 1 - (a**2 / b**2)
    down = a / b * (width - across)
    corners = (across, down, width - across, height - down)
    return tuple(round(number) for number in corners)  # type: ignore[return-value]


@pytest.mark.parametrize("degrees", range(-10, 11))
def test_magnifying_rotation_equals_augmentor_s_bit_for_bit(degrees: int) -> None:
    images = noise(60)
    found = as_bytes(applied(MagnifyingRotation(), images, jnp.full(60, degrees)))
    for image, got in zip(images, found, strict=True):
        rotated = Image.fromarray(image).rotate(degrees, BICUBIC, expand=True)
        cut = rotated.crop(cut_box(degrees, *rotated.size))
        np.testing.assert_array_equal(got, np.asarray(cut.resize((28, 28), BICUBIC)))


def test_angles_have_augmentor_s_distribution() -> None:
    angles = drawn_by(MagnifyingRotation())
    counts = np.bincount(angles + 10, minlength=21)
    expected = np.where(np.arange(21) == 10, 2000 / 11, 2000 / 22)
    assert len(counts) == 21
    assert np.abs(counts - expected).max() < 5 * (2000 / 11) ** 0.5


def test_half_of_the_images_are_flipped_left_to_right() -> None:
    flip, images = HorizontalFlip(), noise(2)
    drawn = drawn_by(flip)
    assert abs(drawn.sum() - 1000) < 5 * 500**0.5
    found = as_bytes(applied(flip, images, np.asarray([True, False])))
    np.testing.assert_array_equal(found, [np.fliplr(images[0]), images[1]])


def test_images_are_standardised_one_by_one() -> None:
    images = noise(4)
    images[3] = 77
    for change in (Standardize().evaluation, lambda image: Standardize().apply(image, ())):
        found = np.asarray(jax.jit(jax.vmap(change))(scaled(images)))
        pixels = images[:3].reshape(3, -1).astype(np.float64)
        expected = (pixels - pixels.mean(1, keepdims=True)) / pixels.std(1, keepdims=True)
        np.testing.assert_allclose(found[:3].reshape(3, -1), expected, atol=1e-5)
        assert (found[3] == 0).all()


@pytest.mark.parametrize("name", TRANSFORMS)
def test_only_crops_and_standardisation_change_evaluated_images(name: str) -> None:
    image = scaled(noise(1)[0])
    changed = (np.asarray(TRANSFORMS[name]().evaluation(image)) != np.asarray(image)).any()
    assert changed == (name in ("crop_resize", "standardize"))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_survive_a_round_trip_through_json(name: str) -> None:
    transform = TRANSFORMS[name]()
    text = json.dumps([dataclasses.asdict(transform)])
    assert named.read(json.loads(text), TRANSFORMS, "x") == (transform,)
    assert len({transform, TRANSFORMS[name]()}) == 1
    assert named.read([{"name": name}], TRANSFORMS, "x") == (transform,)


def test_equal_arguments_have_the_same_repr() -> None:
    assert repr(Affine(rotation=15)) == repr(Affine(rotation=15.0))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("affine", r"^here is 'affine'; give a list such as \[\{\"name\": ...\}\]\.$"),
        (["affine"], r"^here has 'affine'; give \{\"name\": ...\} with one of affine, crop_resize"),
        ([{"name": ["affine"]}], "with one of affine, "),
        ([{"name": "afine"}], "with one of affine, "),
        ([{"name": "affine", "angle": 1}], "no argument 'angle'; it has rotation, shift, zoom, "),
        ([{"name": "grid_distortion", "tiles": 1}], "no argument 'tiles'; it has none"),
        ([{"name": "affine", "rotation": "1"}], "rotation of affine is '1'; give a number"),
        ([{"name": "affine", "rotation": math.nan}], "is nan; give a number"),
        ([{"name": "affine", "shift": -1}], "shift of affine is -1.0; give 0 or more"),
        ([{"name": "affine", "zoom": 1}], "give less than 1"),
        ([{"name": "affine", "fill": "edge"}], "fill of affine is 'edge'; give nearest or zero"),
        ([{"name": "crop_resize", "window": 29}], "window .* 29; give a number from 2 to 28"),
        ([{"name": "crop_resize", "window": 25.0}], "is 25.0; give a whole number"),
        ([{"name": "elastic", "alpha": -1}], "give 0 or more"),
        ([{"name": "elastic", "sigma": 0}], "give a number from 0.1 to 28"),
        ([{"name": "elastic", "sigma": 1e18}], r"is 1e\+18; give a number from 0.1 to 28"),
        ([{"name": "affine", "rotation": True}], "rotation of affine is True; give a number"),
        ([{"name": "affine", "shift": 10**399}], "0; give a number"),
        ([{"name": "elastic", "alpha": 1e39}], r"alpha of elastic is 1e\+39; give a number"),
    ],
)
def test_invalid_transforms_are_refused_with_one_sentence(given: Any, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        named.read(given, TRANSFORMS, "here")


def test_boxes_are_those_that_augmentor_crops() -> None:
    assert [*eight_bit._CUTS] == [*range(11)]
    for degrees, (canvas, box) in eight_bit._CUTS.items():
        size = Image.new("L", (28, 28)).rotate(degrees, BICUBIC, expand=True).size
        assert (size, cut_box(degrees, *size)) == ((canvas, canvas), box)
