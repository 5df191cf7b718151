"""Segmentation of a page's ink into digits, with strokes as wide as MNIST's."""

import itertools
from typing import NamedTuple

import numpy as np

from mnist_jax.errors import Failure

SMALLEST_PIECE = 0.02  # As a fraction of the largest connected component: less is a speck.
_SMALLEST_DIGIT = 0.4  # As a fraction of the tallest digit's height: less is a mark.
_WIDEST_GAP = 0.25  # Between strokes of a digit, as a fraction of its height.
_STROKE = 0.1  # Width, as a fraction of a digit's longer side; 3/4 of MNIST's strokes are wider.
_WORKING_SIDE = 160

# The angles in degrees that a digit may be rotated by, and the penalty per degree on the ratio of
# width to height: training images are not upright either, so a small gain is not worth a rotation.
_TURNS = range(-30, 31, 5)
_PRICE = 0.01


def digits_of(ink: np.ndarray) -> list[np.ndarray]:
    """Splits ink into digits, left to right: uint8 [height, width] each, bright on exactly 0.

    Strokes up to a quarter of the height apart belong to one digit if they lie above each other or
    one is too low for a digit; others, only if the gap is so narrow that it is a break in the line.
    Components that are too low for a digit and far from any are dropped.

    Raises:
        Failure: one digit is below another, so that they have no order from left to right.
    """
    from scipy import ndimage
    from scipy.sparse.csgraph import connected_components

    labels, count = ndimage.label(ink, np.ones((3, 3)))
    amounts = np.bincount(labels.ravel(), ink.ravel(), count + 1)
    large = [i for i in range(1, count + 1) if amounts[i] >= SMALLEST_PIECE * amounts.max()]
    boxes = ndimage.find_objects(labels)
    pieces = [_Piece(boxes[i - 1], labels[boxes[i - 1]] == i) for i in large]
    linked = np.zeros((len(pieces), len(pieces)))
    for one, other in itertools.combinations(range(len(pieces)), 2):
        linked[one, other] = _are_one(pieces[one], pieces[other])
    count, groups = connected_components(linked) if pieces else (0, [])
    digits = []
    for group in range(count):
        alone = np.where(np.isin(labels, np.array(large)[groups == group]), ink, 0)
        box = ndimage.find_objects((alone > 0).astype(int))[0]
        digits.append((box, alone[box]))
    tallest = max((len(digit) for _, digit in digits), default=0)
    digits = [digit for digit in digits if len(digit[1]) >= _SMALLEST_DIGIT * tallest]
    rows = [box[0] for box, _ in digits]
    if digits and max(row.start for row in rows) >= min(row.stop for row in rows):
        raise Failure("shows digits on more than one line; crop it to one.")
    digits.sort(key=lambda digit: digit[0][1].start + digit[0][1].stop)
    return [digit for _, digit in digits]


class _Piece(NamedTuple):
    """A connected component of ink: its bounding box, and its mask within the box."""

    box: tuple[slice, slice]
    inside: np.ndarray


def _are_one(one: _Piece, other: _Piece) -> bool:
    """Whether two pieces belong to one digit; see `digits_of`."""
    from scipy.spatial import KDTree

    low, high = sorted((len(one.inside), len(other.inside)))
    down, across = (
        max(a.start, b.start) - min(a.stop, b.stop) for a, b in zip(one.box, other.box, strict=True)
    )
    if max(down, across) > _WIDEST_GAP * high:
        return False
    first, second = (
        np.argwhere(piece.inside) + [side.start for side in piece.box] for piece in (one, other)
    )
    gap = float(KDTree(first).query(second)[0].min())
    narrow = min(one.inside.shape[1], other.inside.shape[1])
    if -across >= 0.5 * narrow or low < _SMALLEST_DIGIT * high:
        return gap <= _WIDEST_GAP * high
    return gap <= max(2, 0.5 * min(stroke_width(one.inside), stroke_width(other.inside)))


def stroke_width(ink: np.ndarray) -> float:
    """The median width of strokes, in pixels, from the ridges of the distance to the paper."""
    from scipy import ndimage

    distance = ndimage.distance_transform_edt(np.pad(ink, 1))
    ridge = (distance > 0) & (distance == ndimage.maximum_filter(distance, 3))
    return 2 * float(np.median(distance[ridge])) - 0.5


def strengthened(digit: np.ndarray) -> np.ndarray:
    """Thickens a digit's strokes if they are thinner than MNIST's: uint8 [height, width]."""
    from PIL import Image
    from scipy import ndimage

    height, width = digit.shape
    times = -(-_WORKING_SIDE // max(height, width))
    large = Image.fromarray(digit).resize((width * times, height * times), Image.Resampling.BICUBIC)
    ink = np.asarray(large)
    inside = ink > _half_black(ink) if times > 1 else ink > 0
    missing = (_STROKE * max(ink.shape) - stroke_width(inside)) / 2 / (1 - _STROKE)
    if missing <= 0:
        return digit
    distance = ndimage.distance_transform_edt(~np.pad(inside, int(missing) + 1))
    return np.where(distance <= missing, 255, 0).astype(np.uint8)


def turned(digit: np.ndarray) -> np.ndarray | None:
    """Rotates a digit by up to 30° to make it narrowest; None if it already is.

    A digit is taller than wide, and a rotated one is wider than an upright one.
    """
    from PIL import Image

    rows, columns = np.nonzero(digit > _half_black(digit))
    prices = []
    for degrees in _TURNS:
        sine, cosine = np.sin(np.radians(degrees)), np.cos(np.radians(degrees))
        width = np.ptp(columns * cosine + rows * sine) + 1
        height = np.ptp(rows * cosine - columns * sine) + 1
        prices.append(width / height + _PRICE * abs(degrees))
    degrees = _TURNS[int(np.argmin(prices))]
    if degrees == 0:
        return None
    image = Image.fromarray(digit).rotate(degrees, Image.Resampling.BICUBIC, expand=True)
    return np.asarray(image)


def _half_black(ink: np.ndarray) -> int:
    """A grey level: half of black, or half of the darkest ink if that is paler."""
    return min(127, int(ink.max()) // 2)
