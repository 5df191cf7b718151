"""Separating ink from paper, whatever the light, the colours and what is printed on the page."""

import numpy as np

# As parts of the page's shorter side, what strokes and printed lines are narrower than; of the
# longer side, what strokes are on even paper.
_WIDEST_STROKE = 0.25
_WIDEST_BOLD_STROKE = 0.5
_WIDEST_LINE = 0.025
_STEEPEST_LINE = 0.06  # Lines of a page that lies askew in its picture, by about 3°.

# Distances from the colour of the page, in the levels of RGB.
_FAINTEST_INK = 20.0
_NOISE_SPREADS = 6.0
# Parts of the ink's own distance: less is smudge or JPEG; ink in a shadow is paler by as much.
_FAINTEST_EDGE = 0.15
_DEEPEST_SHADOW = 0.3


def ink_of(image: np.ndarray) -> np.ndarray:
    """Separates ink from paper: uint8 [height, width], full ink 255, paper exactly 0.

    Ink is what is far from the colour of the paper around it, all in the same direction, so it may
    be darker, lighter or only of another hue. Paper is what a square wider than any stroke covers:
    the light may fall off, and shadows with edges be on it. Thin lines from side to side are
    printed, and what runs off the page is the edge of a scan, if there is a digit that doesn't.

    Args:
        image: uint8 [height, width, 3], RGB.
    """
    # Imported here: importing the package must stay fast.
    from scipy import ndimage

    height, width = image.shape[:2]
    colour = _colour_of_the_sides(image)
    if colour is None:
        side = 2 + round(_WIDEST_STROKE * min(height, width))
    else:  # No shadow asks for a narrow square: there may be bold strokes.
        side = 2 + round(_WIDEST_BOLD_STROKE * max(height, width))
    # Strokes may touch the border of a crop: they end within a margin, if its colour is known.
    margin = 0 if colour is None else side
    page = np.empty((height + 2 * margin, width + 2 * margin, 3), np.uint8)
    page[:] = 0 if colour is None else colour
    page[margin : margin + height, margin : margin + width] = image
    brightness = page @ _direction(page)
    # The median takes away noise, which an opening would follow.
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
    """The colour of most of each of the page's four sides, [3]; None if they differ."""
    sides = [np.median(side, 0) for side in (image[0], image[-1], image[:, 0], image[:, -1])]
    if np.ptp(sides, axis=0).max() > _FAINTEST_INK:
        return None
    return np.asarray(np.median(sides, axis=0))


def _direction(image: np.ndarray) -> np.ndarray:
    """From the colour of the paper to that of the ink: float32 [3], of length 1.

    Here the paper is the median of the half of the page around each place, because most of a page
    is paper, even within a shadow.
    """
    from PIL import Image
    from scipy import ndimage

    height, width = image.shape[:2]
    small = Image.fromarray(image).resize((min(width, 32), min(height, 32)), Image.Resampling.BOX)
    size = ((small.height + 1) // 2 | 1, (small.width + 1) // 2 | 1, 1)
    paper = Image.fromarray(ndimage.median_filter(np.asarray(small), size))
    difference = image.astype(np.float32) - np.asarray(paper.resize((width, height)))
    # The cube of a distance: the uneven paper is large but near, the ink is small but far.
    direction = (difference * (difference**2).sum(-1, keepdims=True)).sum((0, 1))
    return np.asarray(direction / max(float(np.linalg.norm(direction)), 1e-9), np.float32)


def _without_lines(ink: np.ndarray) -> np.ndarray:
    """Takes away thin lines that go from the left to the right, and mends strokes across them."""
    from scipy import ndimage

    height, width = ink.shape
    widest = int(_WIDEST_LINE * min(height, width))
    if widest < 2:
        return ink
    columns = np.linspace(0, width - 1, 64).round().astype(int)
    # A line that is between two rows is in both.
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
    """By how many rows a line has fallen in each column, if it falls by `step` over the width."""
    return np.asarray(np.rint(step * columns / width), int)


def _rows(height: int, drop: np.ndarray) -> np.ndarray:
    return np.asarray((np.arange(height)[:, None] + drop) % height)


def _line(samples: np.ndarray) -> np.ndarray:
    """How dark a line is that is in most places of every quarter of a row: [rows]."""
    quarters = samples.reshape(len(samples), 4, -1)
    return np.asarray(np.median(quarters, axis=-1).min(axis=-1))


def _faint(ink: np.ndarray, least: float) -> np.ndarray:
    """Which pixels belong to pieces that nowhere reach what ink has at least."""
    from scipy import ndimage

    pieces, _ = ndimage.label(ink, np.ones((3, 3)))
    return ~np.isin(pieces, np.unique(pieces[ink >= least]))


def _off_the_page(ink: np.ndarray) -> np.ndarray:
    """Which pixels belong to pieces that touch the border, if a whole digit does not."""
    from scipy import ndimage

    pieces, _ = ndimage.label(ink, np.ones((3, 3)))
    off = np.unique(np.concatenate([pieces[[0, -1]].ravel(), pieces[:, [0, -1]].ravel()]))
    heights = np.array([0] + [rows.stop - rows.start for rows, _ in ndimage.find_objects(pieces)])
    heights[off] = 0
    if heights.max() < len(ink) / 5:
        return np.zeros(ink.shape, bool)
    return np.isin(pieces, off[off > 0])
