"""Conversion of image files to 28×28 pixels like those of a dataset."""

import struct
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mnist_jax.data.framing import FAINTEST_CLOTH, frame_digit, frame_garment, is_framed
from mnist_jax.data.ink import ink_of
from mnist_jax.data.strokes import SMALLEST_PIECE, digits_of, strengthened, turned
from mnist_jax.errors import Failure

# Larger images are reduced first: this is plenty for 28×28, and keeps later steps fast.
_LONGEST_SIDE = 1024

FORMATS = "PNG, JPEG, GIF, WebP or BMP"
_FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP")
_ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")


_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)


def image_files(folder: Path) -> list[Path]:
    """The image files directly in a folder, recognised by their suffixes, sorted.

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
    """Reads an image file, applies its EXIF orientation, and limits it to 1,024 pixels a side.

    PNG, JPEG, GIF, WebP or BMP, a path or an open file; the first frame of an animation.
    Transparent pixels get a background: if most of the image is opaque, the colour of the page;
    otherwise the opaque part is the drawing, and whichever of black and white is farther from it.

    Returns:
        uint8 [height, width, 3], RGB.

    Raises:
        Failure: the file can't be read, is damaged, is of another type, or claims so many pixels
            that it could exhaust the memory (Pillow's limit).
    """
    # Imported here: importing the package must stay fast.
    from PIL import Image, ImageOps, UnidentifiedImageError

    path = source if isinstance(source, str | Path) else "Standard input"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns about metadata, not pixels.
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
            raise Failure(f"{path} is not a {FORMATS} image; save it as one of these.") from error
        except (OSError, SyntaxError, ValueError, struct.error) as error:
            if isinstance(error, OSError) and error.strerror:
                raise _unreadable(path, error) from error
            raise Failure(f"{path} is damaged or truncated; save it again.") from error
    if image.mode.startswith("I;16"):  # Pillow's conversion would clip instead of scaling.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    image = image.convert("RGBA")
    image.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    pixels = np.asarray(image, np.float32)
    return _on_ground(pixels[..., :3], pixels[..., 3:] / 255)


def frames_of(image: np.ndarray, dataset: str) -> list[np.ndarray]:
    """Converts an image to the dataset's format, for each digit or garment in it.

    The image is uint8 [height, width, 3], of digits or of one garment, darker or lighter than the
    page. Digits are ordered from left to right; there are none if the page is empty.

    Returns:
        uint8 [1 or 2, 28, 28] each: as it stands and, if rotating a digit could make it upright,
        rotated. Use the one that the network is more confident of.

    Raises:
        Failure: there are digits on several lines; the message lacks the image's name.
    """
    if dataset == "fashion_mnist":
        garment = frame_garment(_garment(image))
        return [garment[None]] if garment.any() else []
    for framed in (image, 255 - image):
        if is_framed(framed):
            return [framed[None, ..., 0]]
    digits = []
    for ink in digits_of(ink_of(image)):
        digit = strengthened(ink)
        ways = (digit, turned(digit))
        digits.append(np.stack([frame_digit(way) for way in ways if way is not None]))
    return digits


def _unreadable(path: object, error: OSError) -> Failure:
    return Failure(f"{path} can't be read ({error.strerror}); check it and its permissions.")


def _on_ground(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    ground: np.ndarray | float = 0.0
    if alpha.mean() > 0.5:
        ground = np.median(colours[alpha[..., 0] > 0.5], axis=0)
    elif (alpha * (colours - 127.5)).sum() < 0:
        ground = 255.0
    return np.asarray(np.rint(colours * alpha + ground * (1 - alpha)), np.uint8)


def _garment(image: np.ndarray) -> np.ndarray:
    """Converts a garment's image to grey levels above the background: uint8 [height, width]."""
    grey = image @ _LUMINANCE
    ground = np.median(_border(grey))
    above = np.rint((ground - grey if ground > 127.5 else grey - ground).clip(0, 255))
    above[_specks(np.where(above >= FAINTEST_CLOTH, above, 0))] = 0
    return np.asarray(above, np.uint8)


def _specks(amount: np.ndarray) -> np.ndarray:
    """A mask of connected non-zero components much smaller than the largest one."""
    # Imported here: importing the package must stay fast.
    from scipy import ndimage

    pieces, count = ndimage.label(amount, np.ones((3, 3)))
    amounts = np.bincount(pieces.ravel(), amount.ravel(), count + 1)
    specks = amounts < SMALLEST_PIECE * amounts.max()
    specks[0] = False  # The background.
    return np.asarray(specks[pieces])


def _border(image: np.ndarray) -> np.ndarray:
    """The outermost pixels, [count, ...]."""
    return np.concatenate([image[0], image[-1], image[1:-1, 0], image[1:-1, -1]])
