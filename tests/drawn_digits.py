"""A seeded generator of pictures of handwritten digits on paper.

A digit is a few strokes, polylines and curves, which are distorted by a smooth random displacement
field, sheared, stretched and rotated a little, and drawn with a round pen. No MNIST data are used.
"""

import io
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy.interpolate import make_interp_spline
from scipy.spatial import KDTree

Picture = np.ndarray
Rng = np.random.Generator

# Shapes of each digit: strokes, each a spline of this degree (1: a polyline, 3: a curve) through
# these points (x, y), in hundredths of the digit's height.
_BOWL = (3, [(8, 45), (32, 36), (58, 55), (52, 85), (28, 100), (3, 90)])
_SHAPES: list[list[list[tuple[int, list[tuple[int, int]]]]]] = [
    [
        [(3, [(32, 0), (7, 20), (3, 60), (28, 100), (57, 75), (60, 28), (32, 0)])],
        [(3, [(40, 3), (10, 15), (2, 55), (22, 98), (52, 85), (60, 40), (44, 8), (28, 12)])],
    ],
    [
        [(1, [(30, 0), (30, 100)])],
        [(1, [(10, 22), (32, 0), (32, 100)])],
        [(1, [(12, 20), (32, 0), (32, 100)]), (1, [(10, 100), (55, 100)])],
    ],
    [
        [(3, [(5, 22), (22, 1), (50, 8), (52, 34), (3, 100)]), (1, [(3, 100), (62, 100)])],
        [(3, [(5, 22), (25, 1), (52, 18), (40, 55), (10, 94), (6, 85), (22, 84), (62, 95)])],
    ],
    [
        [
            (3, [(5, 12), (28, 0), (52, 15), (45, 38), (22, 47)]),
            (3, [(22, 47), (50, 55), (60, 76), (38, 99), (3, 88)]),
        ],
        [
            (1, [(5, 3), (55, 3), (25, 42)]),
            (3, [(25, 42), (55, 52), (58, 80), (30, 100), (2, 86)]),
        ],
    ],
    [
        [(1, [(15, 0), (3, 60), (65, 60)]), (1, [(48, 20), (46, 100)])],
        [(1, [(46, 100), (46, 0), (2, 65), (65, 65)])],
    ],
    [
        [(1, [(55, 2), (12, 2), (8, 45)]), _BOWL],
        [(1, [(12, 6), (8, 45)]), _BOWL, (1, [(20, 1), (58, 0)])],
    ],
    [
        [(3, [(48, 0), (20, 25), (4, 65), (18, 98), (48, 92), (55, 68), (35, 52), (8, 68)])],
        [(3, [(30, 0), (10, 40), (5, 80), (28, 100), (52, 82), (40, 60), (8, 74)])],
    ],
    [
        [(1, [(2, 3), (58, 3), (22, 100)])],
        [(1, [(2, 3), (58, 3), (22, 100)]), (1, [(18, 50), (54, 48)])],
        [(1, [(2, 5), (58, 3)]), (3, [(58, 3), (40, 35), (30, 70), (26, 100)])],
    ],
    [
        [
            (3, [(30, 48), (8, 25), (30, 0), (54, 22), (30, 48)]),
            (3, [(30, 48), (4, 75), (30, 100), (58, 76), (30, 48)]),
        ],
        [
            (
                3,
                [(52, 12), (30, 0), (10, 18), (30, 46), (56, 76), (30, 100), (5, 78), (52, 12)],
            )
        ],
    ],
    [
        [
            (3, [(55, 18), (30, 0), (5, 22), (18, 48), (45, 42), (55, 18)]),
            (1, [(55, 18), (50, 100)]),
        ],
        [
            (
                3,
                [
                    (54, 24),
                    (30, 0),
                    (5, 24),
                    (25, 48),
                    (50, 34),
                    (54, 24),
                    (52, 65),
                    (38, 98),
                    (8, 92),
                ],
            )
        ],
    ],
]


def drawn(
    digit: int, rng: Rng, *, width: float, degrees: float = 0, height: float, shape: tuple[int, int]
) -> Picture:
    """Draws one digit at a random position on a page.

    Args:
        digit: 0 to 9.
        rng: the source of its random shape and position.
        width: the pen's width in pixels.
        degrees: the counterclockwise rotation, to which up to 5 degrees are randomly added.
        height: the digit's height in pixels before it is sheared and rotated.
        shape: the page's height and width.

    Returns:
        The ink's coverage of each pixel, from 0 to 1.
    """
    shapes = _SHAPES[digit]
    strokes = []
    for degree, corners in shapes[rng.integers(len(shapes))]:
        t = np.linspace(0, 1, len(corners))
        spline = make_interp_spline(t, np.array(corners, float) / 100, k=degree)
        strokes.append(spline(np.linspace(0, 1, 600)))
    points = np.concatenate(strokes)
    phases, waves = rng.uniform(0, 2 * np.pi, (3, 2)), rng.normal(0, 3, (3, 2))
    points = points + sum(
        0.018 * np.sin(points @ wave[:, None] + phase)
        for wave, phase in zip(waves, phases, strict=True)
    )
    angle = np.radians(degrees + rng.uniform(-5, 5))
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    shear = np.array([[1, -rng.uniform(-0.1, 0.25)], [0, 1]])
    points = points @ (rotation @ shear @ np.diag([rng.uniform(0.85, 1.2), 1])).T * height
    low, high = points.min(0), points.max(0)
    room = np.array(shape[::-1]) - (high - low)
    points += room * rng.uniform(0.3, 0.7, 2) - low
    rows, columns = np.indices(shape)
    pixels = np.stack([columns.ravel(), rows.ravel()], axis=-1) + 0.5
    distance = KDTree(points).query(pixels, distance_upper_bound=width / 2 + 2)[0]
    return (width / 2 + 0.5 - distance).clip(0, min(1, width)).reshape(shape)


def _dark_on_light(coverage: Picture, paper: Picture, ink: Picture) -> Picture:
    return paper * (1 - coverage[..., None]) + ink * coverage[..., None]


def _page(rng: Rng, coverage: Picture) -> Picture:
    paper = np.full((*coverage.shape, 3), rng.uniform(225, 255)) + rng.uniform(-6, 0, 3)
    return _dark_on_light(coverage, paper, rng.uniform(10, 70, 3))


def _faint(rng: Rng, coverage: Picture) -> Picture:
    paper = rng.uniform(225, 250)
    grain = rng.uniform(0.7, 1, coverage.shape)[..., None]  # Of a pencil.
    page = _dark_on_light(
        coverage, np.full((*coverage.shape, 3), paper), paper - rng.uniform(25, 50) * grain
    )
    return page + rng.normal(0, 2, (*coverage.shape, 1))


def _coloured(rng: Rng, coverage: Picture) -> Picture:
    paper, ink = rng.uniform(0, 255, (2, 3))
    while np.linalg.norm(paper - ink) < 120:
        paper, ink = rng.uniform(0, 255, (2, 3))
    return _dark_on_light(coverage, np.full((*coverage.shape, 3), paper), ink)


def _ruled(rng: Rng, coverage: Picture, *, squared: bool) -> Picture:
    """Ruled paper with slightly tilted lines, on squared paper in both directions."""
    height, width = coverage.shape
    rows, columns = np.indices(coverage.shape) + 0.5
    slope, spacing = rng.uniform(-0.02, 0.02), height / rng.uniform(7, 14)
    thickness, offset = rng.uniform(1, 2.5), rng.uniform(0, spacing)
    lines = [(rows + slope * columns + offset) % spacing]
    if squared:
        lines.append((columns - slope * rows + offset) % spacing)
    elif rng.random() < 0.5:  # A margin.
        lines.append(np.abs(columns - width * rng.uniform(0.08, 0.15)))
    ruled = np.max([(thickness + 0.5 - line).clip(0, 1) for line in lines], axis=0)
    paper = np.full((*coverage.shape, 3), rng.uniform(235, 255))
    colour = rng.uniform((90, 120, 150), (170, 200, 240))
    return _dark_on_light(coverage, _dark_on_light(ruled, paper, colour), rng.uniform(10, 70, 3))


def _scan_edge(rng: Rng, coverage: Picture) -> Picture:
    """A dark stripe along one or two sides of the page, as left by a scanner's lid."""
    page = _page(rng, coverage)
    for side in rng.permutation(4)[: rng.integers(1, 3)]:
        page = np.rot90(page, side)
        stripe = rng.uniform(0.02, 0.09) * len(page)
        inside = (np.arange(len(page)) - stripe).clip(0, 1)[:, None, None]
        page = np.rot90(page * inside + rng.uniform(0, 60) * (1 - inside), -side)
    return page


def _shadow(rng: Rng, coverage: Picture) -> Picture:
    """A shadow with a hard, straight edge across the page, in any direction."""
    angle = rng.uniform(0, 2 * np.pi)
    rows, columns = np.indices(coverage.shape) / len(coverage) - 0.5
    beyond = columns * np.cos(angle) + rows * np.sin(angle) - rng.uniform(-0.25, 0.25)
    dark = (beyond * len(coverage) / rng.uniform(1, 4)).clip(0, 1)[..., None]
    return _page(rng, coverage) * (1 - dark * rng.uniform(0.3, 0.6))


def _uneven(rng: Rng, coverage: Picture) -> Picture:
    """Illumination with a linear gradient, which also falls off with the distance from a lamp."""
    rows, columns = np.indices(coverage.shape) / len(coverage)
    slope, lamp = rng.uniform(-0.35, 0.35, 2), rng.uniform(0, 1, 2)
    distance = (rows - lamp[0]) ** 2 + (columns - lamp[1]) ** 2
    light = 0.85 + slope[0] * (rows - 0.5) + slope[1] * (columns - 0.5) - 0.25 * distance
    return _page(rng, coverage) * light[..., None]


def _noisy(rng: Rng, coverage: Picture) -> Picture:
    page = _page(rng, coverage) + rng.normal(0, rng.uniform(8, 16), (*coverage.shape, 3))
    file = io.BytesIO()
    Image.fromarray(page.clip(0, 255).astype(np.uint8)).save(
        file, "JPEG", quality=rng.integers(15, 41).item()
    )
    return np.asarray(Image.open(file), float)


_NORMAL = (0.07, 0.12)


class Family(NamedTuple):
    """How one family of pictures is generated.

    Attributes:
        widths: the smallest and largest pen width, as fractions of the digit's height.
        degrees: by how much digits are rotated, in either direction.
        look: renders the ink's coverage of a page as RGB.
    """

    widths: tuple[float, float]
    degrees: float
    look: Callable[[Rng, Picture], Picture]


FAMILIES = {
    "normal": Family(_NORMAL, 0, _page),
    "thin": Family((0.025, 0.045), 0, _page),
    "hairline": Family((0.006, 0.012), 0, _page),
    "faint": Family((0.025, 0.07), 0, _faint),
    "coloured": Family(_NORMAL, 0, _coloured),
    "lined paper": Family(_NORMAL, 0, lambda rng, coverage: _ruled(rng, coverage, squared=False)),
    "squared paper": Family(_NORMAL, 0, lambda rng, coverage: _ruled(rng, coverage, squared=True)),
    "rotated by 15°": Family(_NORMAL, 15, _page),
    "rotated by 30°": Family(_NORMAL, 30, _page),
    "dark scan edge": Family(_NORMAL, 0, _scan_edge),
    "hard shadow": Family(_NORMAL, 0, _shadow),
    "uneven light": Family(_NORMAL, 0, _uneven),
    "light on dark": Family(_NORMAL, 0, lambda rng, coverage: 255 - _page(rng, coverage)),
    "noise and JPEG": Family(_NORMAL, 0, _noisy),
}


def drawn_picture(family: str, digit: int, seed: int) -> Picture:
    """A picture of a page with one digit: uint8 [height, width, 3]."""
    rng = np.random.default_rng([*family.encode(), digit, seed])
    widths, degrees, look = FAMILIES[family]
    shape = (rng.integers(240, 400).item(), rng.integers(240, 400).item())
    height = min(shape) * rng.uniform(0.45, 0.72)
    width = height * rng.uniform(*widths)
    degrees *= rng.choice([-1, 1])
    coverage = drawn(digit, rng, width=width, degrees=degrees, height=height, shape=shape)
    return np.rint(look(rng, coverage)).clip(0, 255).astype(np.uint8)
