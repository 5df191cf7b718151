"""scikit-learn's digits, scaled and centred as in MNIST."""

import os
import subprocess
import sys

import numpy as np
import pytest
from sklearn import datasets

from mnist_jax.data import CLASS_NAMES, DATASETS, Dataset, frame_digit


def centre_of_mass(image: np.ndarray) -> np.ndarray:
    weights = image.astype(float)
    return np.array([(weights * axis).sum() for axis in np.indices(image.shape)]) / weights.sum()


def test_digits_split_is_fixed_and_complete(digits: Dataset) -> None:
    assert digits.train.images.shape == (1500, 28, 28)
    assert digits.test.images.shape == (297, 28, 28)
    assert digits.train.images.dtype == np.uint8
    assert digits.train.labels.dtype == np.int32
    labels = np.concatenate([digits.train.labels, digits.test.labels])
    np.testing.assert_array_equal(labels, datasets.load_digits().target)
    # The digest is part of every run's record, so a change of the framing must not go unnoticed.
    assert digits.sha256[:16] == "2ead52d50071478d"


def test_digits_are_framed_as_in_mnist(digits: Dataset) -> None:
    for image in digits.train.images[:200]:
        rows, columns = image.any(axis=1).nonzero()[0], image.any(axis=0).nonzero()[0]
        assert max(np.ptp(rows), np.ptp(columns)) + 1 in (19, 20)
        np.testing.assert_allclose(centre_of_mass(image), 14, atol=0.5)


def test_a_nearest_neighbour_classifies_most_digits(digits: Dataset) -> None:
    train = digits.train.images.reshape(len(digits.train), -1).astype(np.float32)
    test = digits.test.images.reshape(len(digits.test), -1).astype(np.float32)
    distance = (train**2).sum(1) - 2 * test @ train.T
    predicted = digits.train.labels[distance.argmin(axis=1)]
    assert (predicted == digits.test.labels).mean() > 0.94


def test_frame_keeps_the_aspect_ratio_and_centres_the_mass() -> None:
    image = np.zeros((300, 200), np.uint8)
    image[10:110, 50:75] = 255
    framed = frame_digit(image)
    assert (framed == 255).sum() == 20 * 5
    # 20 rows are centred on 14 ± 0.5, 5 columns exactly.
    np.testing.assert_allclose(centre_of_mass(framed), 14, atol=0.5)
    assert framed[:, 12:17].sum() == framed.sum()


def test_frame_draws_lines_thinner_than_a_pixel_in_grey() -> None:
    image = np.zeros((200, 200), np.uint8)
    image[np.arange(200), np.arange(200)] = 255
    framed = frame_digit(image)
    assert 0 < framed.max() < 255


def test_frame_holds_a_digit_whose_centre_of_mass_is_off_centre() -> None:
    image = np.zeros((40, 40), np.uint8)
    image[0, :] = 255
    image[:, 0] = 1
    image[39, 39] = 1
    framed = frame_digit(image)
    assert framed.shape == (28, 28)
    assert framed.max() > 100


@pytest.mark.parametrize("shape", [(1, 1), (8, 8), (2000, 3)])
def test_frame_of_an_empty_image_is_empty(shape: tuple[int, int]) -> None:
    assert not frame_digit(np.zeros(shape, np.uint8)).any()


def test_frame_of_ink_too_faint_to_survive_scaling_is_empty() -> None:
    image = np.zeros((2000, 2000), np.uint8)
    image[np.arange(2000), np.arange(2000)] = 1
    assert not frame_digit(image).any()


def test_every_dataset_has_ten_class_names() -> None:
    assert set(CLASS_NAMES) == set(DATASETS)
    assert all(len(set(names)) == 10 for names in CLASS_NAMES.values())


def test_importing_the_data_package_loads_no_large_library() -> None:
    heavy = "{'jax', 'tensorflow_datasets', 'sklearn', 'scipy', 'PIL'}"
    code = f"import sys, mnist_jax.data; print({heavy} & set(sys.modules))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    loaded = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
    assert loaded.strip() == "set()"
