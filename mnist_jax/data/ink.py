"""Separating ink from paper, under any lighting, in any colours, and on ruled paper."""

import numpy as np

# Upper bounds on the width of strokes and printed lines, as fractions of the page's shorter side;
# on evenly lit paper, of strokes as a fraction of the longer side.
_WIDEST_STROKE = 0.25
_WIDEST_BOLD_STROKE = 0.5
_WIDEST_LINE = 0.025
_STEEPEST_LINE = 0.06  # Slope of lines on a page that is rotated in its image, by about 3°.

# Distances from the colour of the page, in RGB levels.
_FAINTEST_INK = 20.0
_NOISE_SPREADS = 6.0
# Fractions of the full ink's distance: less is smudges or JPEG artefacts; ink in a shadow may be
# this much paler.
_FAINTEST_EDGE = 0.15
_DEEPEST_SHADOW = 0.3


def ink_of(image: np.ndarray) -> np.ndarray:
    """Separates ink from paper: uint8 [height, width], full ink 255, paper exactly 0.

    Ink differs clearly in colour from the paper around it, always in the same direction, so it may
    be darker, lighter or only of another hue. Paper is what a morphological opening with a square
    wider than any stroke leaves: the light may fall off, and shadows may have sharp edges. Thin
    lines across the whole width or height count as printed, and pieces that touch the border as the
    edge of a scan, if there is a digit that does not touch it.

    Args:
        image: uint8 [height, width, 3], RGB.
    """
    # Imported here: importing the package must stay fast.
    from scipy import ndimage

    height, width = image.shape[:2]
    colour = _colour_of_the_sides(image)
    if colour is None:
        side = 2 + round(_WIDEST_STROKE * min(height, width))
    else:  # Without shadows, a wider square is possible, for bold strokes.
        side = 2 + round(_WIDEST_BOLD_STROKE * max(height, width))
    # Strokes may touch the border of a crop: a margin of the page's colour, if known, ends them.
    margin = 0 if colour is None else side
    page = np.empty((height + 2 * margin, width + 2 * margin, 3), np.uint8)
    page[:] = 0 if colour is None else colour
    page[margin : margin + height, margin : margin + width] = image
    brightness = page @ _direction(page)
    # The median removes noise, which the opening would follow.
    smooth = ndimage.median_filter(brightness, 5) if side > 10 else brightness
    difference = brightness - ndimage.grey_opening(smooth, (side, side))
    difference = difference[margin : margin + height, margin : margin + width]
    on_paper = difference <= difference.max() / 2
    difference -= np.median(difference[on_paper])
    noise = 1.5 * float(np.median(np.abs(difference[on_paper])))
    ink = difference.clip(0)
    for turned in (ink, ink.T):
        turned[:] = _without_lines(turned)
    faintest = max(_FAINTEST_INK, _NOISE_SPREADS * noise)
    ink[_off_the_page(ink >= faintest)] = 0
    if ink.max() < faintest:
        return np.zeros(ink.shape, np.uint8)
    full = float(np.median(ink[ink > ink.max() / 2]))
    darkness = ndimage.maximum_filter(np.minimum(ink, full), side).clip(_DEEPEST_SHADOW * full)
    ink[ink < np.maximum(faintest / 2, _FAINTEST_EDGE * darkness)] = 0
    ink[_faint(ink, max(faintest, _DEEPEST_SHADOW * full))] = 0
    ink[_off_the_page(ink > 0)] = 0
    return np.asarray(np.rint(np.minimum(ink / darkness, 1) * 255), np.uint8)


def _colour_of_the_sides(image: np.ndarray) -> np.ndarray | None:
    """The median colour of the page's four sides, [3]; None if they differ."""
    sides = [np.median(side, 0) for side in (image[0], image[-1], image[:, 0], image[:, -1])]
    if np.ptp(sides, axis=0).max() > _FAINTEST_INK:
        return None
    return np.asarray(np.median(sides, axis=0))


def _direction(image: np.ndarray) -> np.ndarray:
    """The direction from the paper's colour to the ink's: float32 [3], of length 1.

    Here the paper is a median filter over half the page in each direction, because most of a page
    is paper, even in a shadow.
    """
    from PIL import Image
    from scipy import ndimage

    height, width = image.shape[:2]
    small = Image.fromarray(image).resize((min(width, 32), min(height, 32)), Image.Resampling.BOX)
    size = ((small.height + 1) // 2 | 1, (small.width + 1) // 2 | 1, 1)
    paper = Image.fromarray(ndimage.median_filter(np.asarray(small), size))
    difference = image.astype(np.float32) - np.asarray(paper.resize((width, height)))
    # The cube of the distance: uneven paper has large area but small distances, ink the reverse.
    direction = (difference * (difference**2).sum(-1, keepdims=True)).sum((0, 1))
    return np.asarray(direction / max(float(np.linalg.norm(direction)), 1e-9), np.float32)


def _without_lines(ink: np.ndarray) -> np.ndarray:
    """Removes thin lines from the left to the right side, and repairs strokes that cross them."""
    from scipy import ndimage

    height, width = ink.shape
    widest = int(_WIDEST_LINE * min(height, width))
    if widest < 2:
        return ink
    columns = np.linspace(0, width - 1, 64).round().astype(int)
    # A line between two rows counts in both.
    samples = ndimage.maximum_filter1d(ink[:, columns], 3, axis=0)
    steps = int(_STEEPEST_LINE * width)
    drops = [_drop(step, columns, width) for step in range(-steps, steps + 1)]
    lines = [_line(np.take_along_axis(samples, _rows(height, d), 0)) for d in drops]
    best = int(np.argmax([(line**2).sum() for line in lines]))
    line = lines[best]
    thin = line - ndimage.grey_opening(line, widest + 3)
    shift = _drop(best - steps, np.arange(width), width)
    straight = np.take_along_axis(ink, _rows(height, shift), 0)
    rest = (straight - thin[:, None]).clip(0)
    mended = np.minimum(ndimage.grey_closing(rest, (widest + 3, 1)), straight)
    rest = np.where(thin[:, None] > _FAINTEST_INK / 2, mended, straight)
    return np.asarray(np.take_along_axis(rest, _rows(height, -shift), 0))


def _drop(step: int, columns: np.ndarray, width: int) -> np.ndarray:
    """The vertical offset of a line in each column, if it falls by `step` rows over the width."""
    return np.asarray(np.rint(step * columns / width), int)


def _rows(height: int, drop: np.ndarray) -> np.ndarray:
    return np.asarray((np.arange(height)[:, None] + drop) % height)


def _line(samples: np.ndarray) -> np.ndarray:
    """The darkness of a line in each row, which must cover most of every quarter: [rows]."""
    quarters = samples.reshape(len(samples), 4, -1)
    return np.asarray(np.median(quarters, axis=-1).min(axis=-1))


def _faint(ink: np.ndarray, least: float) -> np.ndarray:
    """A mask of connected components that nowhere reach `least`."""
    from scipy import ndimage

    pieces, _ = ndimage.label(ink, np.ones((3, 3)))
    return ~np.isin(pieces, np.unique(pieces[ink >= least]))


def _off_the_page(ink: np.ndarray) -> np.ndarray:
    """A mask of connected components that touch the border, if a whole digit does not."""
    from scipy import ndimage

    pieces, _ = ndimage.label(ink, np.ones((3, 3)))
    off = np.unique(np.concatenate([pieces[[0, -1]].ravel(), pieces[:, [0, -1]].ravel()]))
    heights = np.array([0] + [rows.stop - rows.start for rows, _ in ndimage.find_objects(pieces)])
    heights[off] = 0
    if heights.max() < len(ink) / 5:
        return np.zeros(ink.shape, bool)
    return np.isin(pieces, off[off > 0])
