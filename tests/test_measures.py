"""The quantities that are printed and plotted, against values worked out by hand."""

import numpy as np
import pytest

from mnist_jax import measures
from mnist_jax.measures import Series


def test_by_epoch_takes_the_mean_or_the_last_value() -> None:
    # Two epochs of 10 steps, and less than half of a third one.
    steps, values = [4, 8, 10, 14, 20, 24], [1.0, 2.0, 5.0, 3.0, 1.0, 9.0]
    training = measures.by_epoch(steps, values, 10, mean=True)
    assert training.x.tolist() == [1, 2]
    assert training.y.tolist() == pytest.approx([(4 + 8 + 10) / 10, (12 + 6) / 10])
    test = measures.by_epoch(steps, values, 10, mean=False)
    assert (test.x.tolist(), test.y.tolist()) == ([1, 2], [5.0, 1.0])


def test_by_epoch_weights_a_smaller_last_batch() -> None:
    # Steps 1 to 3 of an epoch have full batches, step 4 half of one.
    found = measures.by_epoch([3, 4, 8], [1.0, 2.0, 5.0], 4, mean=True, last_batch=0.5)
    assert found.y.tolist() == pytest.approx([(3 * 1 + 0.5 * 2) / 3.5, 5])


@pytest.mark.parametrize("mean", [True, False])
def test_by_epoch_is_empty_before_the_first_epoch_ends(mean: bool) -> None:
    assert len(measures.by_epoch([4, 8], [1.0, 2.0], 10, mean=mean).x) == 0
    assert len(measures.by_epoch([], [], 10, mean=mean).x) == 0


def test_band_covers_the_points_that_all_series_have() -> None:
    long = Series(np.asarray([1, 2, 3]), np.asarray([0.0, 4.0, 7.0]))
    short = Series(np.asarray([1, 2]), np.asarray([2.0, 1.0]))
    band = measures.band([long, short])
    assert band.x.tolist() == [1, 2]
    assert (band.low.tolist(), band.mean.tolist(), band.high.tolist()) == (
        [0.0, 1.0],
        [1.0, 2.5],
        [2.0, 4.0],
    )


def test_thinned_band_keeps_means_and_extremes() -> None:
    whole = measures.Band(*map(np.asarray, ([1, 2, 3, 4, 5], [2, 4, 3, 1, 7], range(5), range(5))))
    thin = measures.thinned(whole, 2)
    found = [values.tolist() for values in (thin.x, thin.mean, thin.low, thin.high)]
    assert found == [[2.0, 4.5], [3.0, 4.0], [0, 3], [2, 4]]
    assert measures.thinned(whole, 5).mean.tolist() == whole.mean.tolist()


def test_confusion_counts_by_true_and_predicted_class() -> None:
    counts = measures.confusion(np.asarray([0, 0, 1, 2]), np.asarray([0, 2, 1, 2]), 3)
    assert counts.tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 1]]


def test_rates_have_wilson_s_interval() -> None:
    # The published example of 81 of 263 (Newcombe 1998): 0.2553 to 0.3662.
    rates = measures.rates(np.asarray([81, 0, 10, 0]), np.asarray([263, 10, 10, 0]))
    assert rates.rate[0] == pytest.approx(81 / 263)
    assert (rates.low[0], rates.high[0]) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert (rates.low[1], rates.high[2]) == pytest.approx((0.0, 1.0))
    assert rates.high[1] == pytest.approx(1 - rates.low[2])
    assert (rates.low <= rates.rate)[:3].all()
    assert (rates.high >= rates.rate)[:3].all()
    assert np.isnan([rates.rate[3], rates.low[3], rates.high[3]]).all()


def test_calibration_matches_values_computed_by_hand() -> None:
    # Confidences 0.6, 0.65 and 1.0; of the first two one is right, and the third one is wrong.
    probability = np.asarray([[0.6, 0.4], [0.35, 0.65], [1.0, 0.0]])
    found = measures.calibration(probability, np.asarray([0, 0, 1]), bins=10)
    assert found.count.tolist() == [0, 0, 0, 0, 0, 0, 2, 0, 0, 1]
    assert found.confidence[[6, 9]].tolist() == pytest.approx([0.625, 1.0])
    assert found.accuracy.rate[[6, 9]].tolist() == [0.5, 0.0]
    assert found.error == pytest.approx((2 * 0.125 + 1 * 1.0) / 3)
    assert np.isnan(found.confidence[0])


def test_misclassified_are_in_order_of_confidence() -> None:
    probability = np.asarray([[0.6, 0.4], [0.1, 0.9], [0.8, 0.2], [0.7, 0.3]])
    assert measures.misclassified(probability, np.asarray([1, 1, 1, 0])).tolist() == [2, 0]


def test_mosaic_frames_every_picture() -> None:
    maps = np.arange(3 * 2 * 2).reshape(3, 2, 2)
    grid = measures.mosaic(maps, columns=2)
    assert grid.shape == (7, 7)
    for i, (row, column) in enumerate([(1, 1), (1, 4), (4, 1)]):
        np.testing.assert_array_equal(grid[row : row + 2, column : column + 2], maps[i])
    assert np.isnan(grid[[0, 3, 6]]).all()
    assert np.isnan(grid[:, [0, 3, 6]]).all()
    assert np.isnan(grid[4:6, 4:6]).all()
