"""From the ink of a page to its digits, with strokes as wide as MNIST's."""

import numpy as np

_SMALLEST_PIECE = 0.02  # As a part of the largest connected piece: less is a speck.
_SMALLEST_DIGIT = 0.4  # As a part of the tallest digit's height: less is a mark.
_WIDEST_GAP = 0.25  # Between strokes of a digit, one above the other, as a part of its height.
_STROKE = (
    0.1  # Of a digit's longer side: three quarters of MNIST's training images have wider ones.
)
_WORKING_SIDE = 160


def digits_of(ink: np.ndarray) -> list[np.ndarray]:
    """Parts ink into digits, left to right: uint8 [height, width] each, bright on exactly 0.

    Strokes belong to one digit if they lie above each other, or so near that the pen, not the
    writer, has left the gap.
    """
    from scipy import ndimage

    pieces, count = ndimage.label(ink, np.ones((3, 3)))
    amounts = np.bincount(pieces.ravel(), ink.ravel(), count + 1)
    large = np.flatnonzero(amounts >= _SMALLEST_PIECE * amounts.max())
    groups: list[np.ndarray] = []
    for piece in large[large > 0]:
        group = pieces == piece
        near = [other for other in groups if _are_one(group, other)]
        groups = [other for other in groups if not any(other is one for one in near)]
        groups.append(np.any([group, *near], axis=0))
    boxes = [ndimage.find_objects(group.astype(int))[0] for group in groups]
    tallest = max((rows.stop - rows.start for rows, _ in boxes), default=0)
    digits = [
        (columns.start + columns.stop, np.where(group[rows, columns], ink[rows, columns], 0))
        for group, (rows, columns) in zip(groups, boxes, strict=True)
        if rows.stop - rows.start >= _SMALLEST_DIGIT * tallest
    ]
    return [digit for _, digit in sorted(digits, key=lambda digit: digit[0])]


def _are_one(one: np.ndarray, other: np.ndarray) -> bool:
    from scipy import ndimage

    columns = [np.flatnonzero(part.any(axis=0)) for part in (one, other)]
    starts, ends = zip(*((c[0], c[-1] + 1) for c in columns), strict=True)
    shared = min(ends) - max(starts)
    rows = [np.flatnonzero(part.any(axis=1)) for part in (one, other)]
    height = max(r[-1] - r[0] for r in rows) + 1
    gap = float(ndimage.distance_transform_edt(~one)[other].min())
    if shared >= 0.5 * min(end - start for start, end in zip(starts, ends, strict=True)):
        return bool(gap <= _WIDEST_GAP * height)
    return bool(gap <= max(2, 0.5 * min(stroke_width(one), stroke_width(other))))


def stroke_width(ink: np.ndarray) -> float:
    """The typical width of strokes, in pixels, from the ridges of the distance to the paper."""
    from scipy import ndimage

    distance = ndimage.distance_transform_edt(np.pad(ink, 1))
    ridge = (distance > 0) & (distance == ndimage.maximum_filter(distance, 3))
    return 2 * float(np.median(distance[ridge])) - 0.5


def strengthened(digit: np.ndarray) -> np.ndarray:
    """Widens the strokes of a digit that are thinner than MNIST's: uint8 [height, width]."""
    from PIL import Image
    from scipy import ndimage

    height, width = digit.shape
    times = -(-_WORKING_SIDE // max(height, width))
    large = Image.fromarray(digit).resize((width * times, height * times), Image.Resampling.BICUBIC)
    ink = np.asarray(large)
    inside = ink > min(127, ink.max() // 2) if times > 1 else ink > 0
    missing = (_STROKE * max(ink.shape) - stroke_width(inside)) / 2 / (1 - _STROKE)
    if missing <= 0:
        return digit
    distance = ndimage.distance_transform_edt(~np.pad(inside, int(missing) + 1))
    return np.where(distance <= missing, 255, 0).astype(np.uint8)
