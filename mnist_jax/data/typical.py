"""Detection of images that are unlike a dataset's training images."""

import numpy as np

from mnist_jax.data.strokes import stroke_width

# The measures, and their 0.1% and 99.9% quantiles over each dataset's training images.
_MEASURES = (
    "stroke width in pixels",
    "ink in full pixels",
    "number of pieces",
    "width by height",
    "slant to the right",
)
TYPICAL = {
    "mnist": ((1.06, 6.13), (28.33, 228.27), (1, 4), (0.2, 1.67), (-0.81, 1.04)),
    "fashion_mnist": ((0.19, 21.44), (34.96, 514.04), (1, 40), (0.26, 4.67), (-1.19, 1.17)),
    "digits": ((1.31, 8.37), (89.38, 158.97), (1, 4), (0.45, 0.98), (-0.34, 0.29)),
}


def measures(image: np.ndarray) -> np.ndarray:
    """Measures an image, uint8 [28, 28] and not all 0: float [5], in the order of `TYPICAL`.

    Strokes and pieces are pixels brighter than half the maximum, after enlarging eight times. The
    slant is the covariance of column and height divided by the variance of the height: 1 is 45°.
    """
    from PIL import Image
    from scipy import ndimage

    side = 8 * image.shape[0]
    large = np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))
    inside = large > int(image.max()) // 2
    rows, columns = (
        slice_.stop - slice_.start for slice_ in ndimage.find_objects((image > 0).astype(int))[0]
    )
    row, column = np.indices(image.shape)
    weights = image / image.sum()
    row, column = row - (weights * row).sum(), column - (weights * column).sum()
    slant = -(weights * row * column).sum() / max((weights * row * row).sum(), 0.1)
    pieces = ndimage.label(inside, np.ones((3, 3)))[1]
    return np.array([stroke_width(inside) / 8, image.sum() / 255, pieces, columns / rows, slant])


def unusual(image: np.ndarray, dataset: str) -> list[str]:
    """Describes which measures of an image, uint8 [28, 28], are unusual for the dataset.

    These are below the 0.1% or above the 99.9% quantile over the 60,000 training images, or 1,500
    of `digits`. At least one measure is unusual for 0.7% of MNIST's test images.
    """
    return [
        f"{name} {value:.2g} instead of {low:g} to {high:g}"
        for name, value, (low, high) in zip(
            _MEASURES, measures(image), TYPICAL[dataset], strict=True
        )
        if not low <= value <= high
    ]
