"""What is usual among a dataset's training images, and what of an image is not."""

import numpy as np

from mnist_jax.data.strokes import stroke_width

# The measures, and their 0.5% and 99.5% quantiles over each dataset's training images.
_MEASURES = (
    "stroke width in pixels",
    "ink in full pixels",
    "number of pieces",
    "width by height",
    "slant to the right",
)
TYPICAL = {
    "mnist": ((1.19, 4.94), (35.18, 203.72), (1, 3), (0.2, 1.43), (-0.61, 0.86)),
    "fashion_mnist": ((0.44, 18.94), (44.45, 472.95), (1, 27), (0.32, 3.5), (-0.62, 0.99)),
    "digits": ((1.94, 7.49), (97.11, 156.4), (1, 3), (0.5, 0.9), (-0.33, 0.24)),
}


def measures(image: np.ndarray) -> np.ndarray:
    """Measures an image, uint8 [28, 28] and not all 0: float [5], in the order of the bounds.

    Strokes and pieces are what is brighter than half the brightest pixel, enlarged eight times. The
    slant is the covariance of column and height by the variance of the height: 1 leans by 45°.
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
    """Says in which measures an image, uint8 [28, 28], is beyond 99% of the training images.

    The bounds are the 0.5% and 99.5% quantiles over the dataset's 60,000 training images, 1,500 of
    `digits`; each of five measures is so in 1 of 100 images of the dataset itself.
    """
    return [
        f"{name} {value:.2g} instead of {low:g} to {high:g}"
        for name, value, (low, high) in zip(
            _MEASURES, measures(image), TYPICAL[dataset], strict=True
        )
        if not low <= value <= high
    ]
