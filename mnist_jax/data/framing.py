"""Scaling and centring of images as in MNIST for digits, and in Fashion-MNIST for garments."""

import numpy as np

FRAME = 28
BOX = 20

# Fashion-MNIST trims pixels that differ from the background by fewer grey levels: 5% of 255.
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
    if not small.any():  # No ink, or ink so faint and thin that scaling has removed it.
        return np.zeros((FRAME, FRAME), np.uint8)
    return _placed(small, _corner(small, axis=1), _corner(small, axis=0))


def is_framed(image: np.ndarray) -> bool:
    """Whether an image, uint8 [height, width, 3], is framed as by `frame_digit`.

    All of MNIST is: grey on exactly 0, in a box of 20 pixels (19 for 16 images), with the centre of
    mass within half a pixel of row 14 and column 14.
    """
    if image.shape != (FRAME, FRAME, 3) or (image != image[..., :1]).any() or not image.any():
        return False
    sums = [image[..., 0].sum(axis, dtype=np.float64) for axis in (0, 1)]
    sides = [int(np.ptp(np.flatnonzero(weights))) + 1 for weights in sums]
    centres = [float(weights @ np.arange(FRAME) / weights.sum()) for weights in sums]
    return BOX - 1 <= max(sides) <= BOX and all(abs(c - FRAME / 2) < 0.53 for c in centres)


def frame_garment(image: np.ndarray) -> np.ndarray:
    """Frames a garment as Fashion-MNIST does (Xiao et al., "Fashion-MNIST", section 2).

    Margins within 5% of the background are trimmed; the rest is scaled, keeping its aspect ratio,
    until its longer side is 28 pixels, and centred. The published images were subsampled and then
    sharpened, instead of which they are resampled with antialiasing here.

    Args:
        image: uint8 [height, width], bright on a background of 0: the negative of one on white.

    Returns:
        uint8 [28, 28]; all zeros if nothing stands out from the background.
    """
    small = _scaled(image, image >= FAINTEST_CLOTH, FRAME)
    return _placed(small, *((FRAME - side) // 2 for side in small.shape))


def _scaled(image: np.ndarray, inside: np.ndarray, longer_side: int) -> np.ndarray:
    """Crops to the bounding box of the mask `inside` and scales it; [0, 0] if it is empty."""
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
