"""Bringing a picture of a digit into the frame that MNIST gives its digits."""

import numpy as np

FRAME = 28
BOX = 20


def frame_digit(image: np.ndarray) -> np.ndarray:
    """Frames a digit as MNIST does (LeCun et al., "The MNIST database of handwritten digits").

    The bounding box of the ink is scaled, keeping its aspect ratio, until its longer side is 20
    pixels, with the grey levels that anti-aliasing gives; then it is shifted by whole pixels
    so that its centre of mass falls on row 14 and column 14 of 28×28, as in every MNIST image.

    Args:
        image: uint8 [height, width], bright ink on a background of exactly 0.

    Returns:
        uint8 [28, 28]; all zeros if there is no ink.
    """
    # Imported here: importing the package must stay fast, and only digits and photographs need it.
    from PIL import Image

    framed = np.zeros((FRAME, FRAME), np.uint8)
    rows, columns = (np.flatnonzero(image.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return framed
    ink = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = BOX / max(ink.shape)
    height, width = (max(1, round(side * scale)) for side in ink.shape)
    resized = Image.fromarray(ink).resize((width, height), Image.Resampling.BICUBIC)
    small = np.asarray(resized)
    if not small.any():  # Ink so faint and thin that scaling down has lost it.
        return framed
    top, left = _corner(small, axis=1), _corner(small, axis=0)
    framed[top : top + height, left : left + width] = small
    return framed


def _corner(small: np.ndarray, axis: int) -> int:
    """Where `small` starts along the other axis, with its centre of mass in the middle."""
    weights = small.sum(axis=axis, dtype=np.float64)
    centre = float(weights @ np.arange(len(weights)) / weights.sum())
    return min(max(0, round(FRAME / 2 - centre)), FRAME - len(weights))
