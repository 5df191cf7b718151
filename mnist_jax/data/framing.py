"""Bringing a picture into the frame that MNIST gives its digits, Fashion-MNIST its garments."""

import numpy as np

FRAME = 28
BOX = 20

# Fashion-MNIST trims what differs from the ground by fewer grey levels: 5% of 255.
FAINTEST_CLOTH = 13


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
    small = _scaled(image, image > 0, BOX)
    if not small.any():  # No ink, or so faint and thin that scaling down has lost it.
        return np.zeros((FRAME, FRAME), np.uint8)
    return _placed(small, _corner(small, axis=1), _corner(small, axis=0))


def is_framed(image: np.ndarray) -> bool:
    """Whether a picture, uint8 [height, width, 3], is what `frame_digit` might have made.

    That is so for all of MNIST: grey on exactly 0, in a box of 20 pixels (16 images' have 19), the
    centre of mass within half a pixel of row 14 and column 14.
    """
    if image.shape != (FRAME, FRAME, 3) or (image != image[..., :1]).any() or not image.any():
        return False
    sums = [image[..., 0].sum(axis, dtype=np.float64) for axis in (0, 1)]
    sides = [int(np.ptp(np.flatnonzero(weights))) + 1 for weights in sums]
    centres = [float(weights @ np.arange(FRAME) / weights.sum()) for weights in sums]
    return BOX - 1 <= max(sides) <= BOX and all(abs(c - FRAME / 2) < 0.53 for c in centres)


def frame_garment(image: np.ndarray) -> np.ndarray:
    """Frames a garment as Fashion-MNIST does (Xiao et al., "Fashion-MNIST", section 2).

    What is within 5% of the ground is trimmed; the rest is scaled, keeping its aspect ratio,
    until its longer side is 28 pixels, and put in the middle. The published images were thinned
    out and then sharpened, which scaling by averages replaces.

    Args:
        image: uint8 [height, width], bright on a ground of 0: the negative of a picture on white.

    Returns:
        uint8 [28, 28]; all zeros if nothing stands out from the ground.
    """
    small = _scaled(image, image >= FAINTEST_CLOTH, FRAME)
    return _placed(small, *((FRAME - side) // 2 for side in small.shape))


def _scaled(image: np.ndarray, inside: np.ndarray, longer_side: int) -> np.ndarray:
    """Scales the bounding box of what is `inside`; [0, 0] if nothing is."""
    # Imported here: importing the package must stay fast, and only digits and photographs need it.
    from PIL import Image

    rows, columns = (np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return np.zeros((0, 0), np.uint8)
    box = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = longer_side / max(box.shape)
    height, width = (max(1, round(side * scale)) for side in box.shape)
    return np.asarray(Image.fromarray(box).resize((width, height), Image.Resampling.BICUBIC))


def _placed(small: np.ndarray, top: int, left: int) -> np.ndarray:
    framed = np.zeros((FRAME, FRAME), np.uint8)
    framed[top : top + small.shape[0], left : left + small.shape[1]] = small
    return framed


def _corner(small: np.ndarray, axis: int) -> int:
    """Where `small` starts along the other axis, with its centre of mass in the middle."""
    weights = small.sum(axis=axis, dtype=np.float64)
    centre = float(weights @ np.arange(len(weights)) / weights.sum())
    return min(max(0, round(FRAME / 2 - centre)), FRAME - len(weights))
