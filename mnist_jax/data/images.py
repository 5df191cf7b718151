"""From an image file to the 28×28 pixels that a dataset would hold of it."""

import struct
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mnist_jax.data.framing import FAINTEST_CLOTH, frame_digit, frame_garment
from mnist_jax.errors import Failure

# Larger pictures are reduced at once: plenty for 28×28, and what follows takes no time.
_LONGEST_SIDE = 1024

FORMATS = "PNG, JPEG, GIF, WebP or BMP"
_FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP")
_ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")

# Distances from the colour of the page, in the levels of RGB.
_FAINTEST_INK = 20.0
_NOISE_SPREADS = 6.0
_FAINTEST_EDGE = 0.1  # As a part of the ink's own distance: less is smudge, shadow or JPEG.
_SMALLEST_PIECE = 0.02  # As a part of the largest connected piece: less is a speck.

_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)


def image_files(folder: Path) -> list[Path]:
    """The image files of a folder by their endings, sorted; not those in folders within it.

    Raises:
        Failure: there are none, or the folder can't be read.
    """
    try:
        files = sorted(file for file in folder.iterdir() if file.suffix.lower() in _ENDINGS)
    except OSError as error:
        raise _unreadable(folder, error) from error
    if not files:
        raise Failure(f"{folder} has no files that end in {', '.join(_ENDINGS)}; name another.")
    return files


def read_image(source: str | Path | BinaryIO) -> np.ndarray:
    """Reads an image file, turned as its EXIF says, of at most 1,024 pixels a side.

    PNG, JPEG, GIF, WebP or BMP, a path or an open file; of an animation the first picture.

    Where a picture is transparent it gets a ground: the colour of its page if most of it is
    opaque; otherwise the opaque part is what was drawn, on whichever of black and white is
    farther from it.

    Returns:
        uint8 [height, width, 3], RGB.

    Raises:
        Failure: the file can't be read, is damaged, is another kind of file, or claims so many
            pixels that it could fill the memory (the limit is Pillow's).
    """
    # Imported here: importing the package must stay fast.
    from PIL import Image, ImageOps, UnidentifiedImageError

    path = source if isinstance(source, str | Path) else "Standard input"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of what does not concern the pixels.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            # Only the header is read here, and its size checked.
            with Image.open(source, formats=_FORMATS) as file:
                file.draft(None, (_LONGEST_SIDE, _LONGEST_SIDE))
                file.load()
                image = ImageOps.exif_transpose(file)
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise Failure(
                f"{path} has more than {Image.MAX_IMAGE_PIXELS:,} pixels; make it smaller first."
            ) from error
        except UnidentifiedImageError as error:
            raise Failure(f"{path} is no {FORMATS} image; save it as one of them.") from error
        except (OSError, SyntaxError, ValueError, struct.error) as error:
            if isinstance(error, OSError) and error.strerror:
                raise _unreadable(path, error) from error
            raise Failure(f"{path} is damaged or cut short; save it once more.") from error
    if image.mode.startswith("I;16"):  # Pillow's conversion would clip instead of scaling.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    image = image.convert("RGBA")
    image.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    pixels = np.asarray(image, np.float32)
    return _on_ground(pixels[..., :3], pixels[..., 3:] / 255)


def frame_image(image: np.ndarray, dataset: str) -> np.ndarray:
    """Makes of a picture what the dataset would hold of it: uint8 [28, 28].

    The picture is uint8 [height, width, 3], of a digit or garment, darker or lighter than its
    page. All is zeros if the page is empty.
    """
    if dataset == "fashion_mnist":
        return frame_garment(_garment(image))
    return frame_digit(_ink(image))


def _unreadable(path: object, error: OSError) -> Failure:
    return Failure(f"{path} can't be read ({error.strerror}); check it and its permissions.")


def _on_ground(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    ground: np.ndarray | float = 0.0
    if alpha.mean() > 0.5:
        ground = np.median(colours[alpha[..., 0] > 0.5], axis=0)
    elif (alpha * (colours - 127.5)).sum() < 0:
        ground = 255.0
    return np.asarray(np.rint(colours * alpha + ground * (1 - alpha)), np.uint8)


def _ink(image: np.ndarray) -> np.ndarray:
    """Separates ink from paper: uint8 [height, width], full ink 255, paper exactly 0.

    Ink is what is far from the colour of the paper, all in the same direction, so it may be
    darker, lighter or only of another hue.
    """
    difference, noise = _from_paper(image)
    # The cube of a distance: the uneven paper is large but near, the ink is small but far.
    direction = (difference * (difference**2).sum(-1, keepdims=True)).sum((0, 1))
    direction /= max(float(np.linalg.norm(direction)), 1e-9)
    distance = np.maximum(difference @ direction, 0)
    if distance.max() < max(_FAINTEST_INK, _NOISE_SPREADS * noise):
        return np.zeros(distance.shape, np.uint8)
    full = float(np.median(distance[distance > distance.max() / 2]))
    distance[distance < max(_NOISE_SPREADS * noise, _FAINTEST_EDGE * full)] = 0
    distance[_specks(distance)] = 0
    return np.asarray(np.rint(np.minimum(distance * (255 / full), 255)), np.uint8)


def _from_paper(image: np.ndarray) -> tuple[np.ndarray, float]:
    """What differs from the paper, which the border shows, and by how much paper does so itself.

    A plane is laid through the border, because light falls on paper unevenly.

    Returns:
        The difference from the plane, float32 [height, width, 3], and the typical distance of the
        border's pixels from it.
    """
    height, width = image.shape[:2]
    border = _border(image)
    level = np.median(border, axis=0)
    off = np.linalg.norm(border - level, axis=-1)
    ink = np.linalg.norm(image - level, axis=-1).max()
    rows, columns = np.indices((height, width), np.float32)
    places = np.stack([np.ones_like(rows), rows / height, columns / width], axis=-1)
    paper = off <= max(ink / 2, np.median(off))  # The rest is ink that touches the border.
    known = _border(places)[paper]
    plane = np.linalg.lstsq(known, border[paper] - level, rcond=None)[0].astype(np.float32)
    difference = image - level.astype(np.float32) - places @ plane
    return difference, 1.5 * float(np.median(np.linalg.norm(_border(difference)[paper], axis=-1)))


def _garment(image: np.ndarray) -> np.ndarray:
    """Turns a picture of a garment to grey levels above its ground: uint8 [height, width]."""
    grey = image @ _LUMINANCE
    ground = np.median(_border(grey))
    above = np.rint((ground - grey if ground > 127.5 else grey - ground).clip(0, 255))
    above[_specks(np.where(above >= FAINTEST_CLOTH, above, 0))] = 0
    return np.asarray(above, np.uint8)


def _specks(amount: np.ndarray) -> np.ndarray:
    """Which pixels belong to pieces much smaller than the largest; a piece is what is not 0."""
    # Imported here: importing the package must stay fast.
    from scipy import ndimage

    pieces, count = ndimage.label(amount, np.ones((3, 3)))
    amounts = np.bincount(pieces.ravel(), amount.ravel(), count + 1)
    specks = amounts < _SMALLEST_PIECE * amounts.max()
    specks[0] = False  # What is between the pieces.
    return np.asarray(specks[pieces])


def _border(image: np.ndarray) -> np.ndarray:
    """The outermost pixels, [count, ...]."""
    return np.concatenate([image[0], image[-1], image[1:-1, 0], image[1:-1, -1]])
