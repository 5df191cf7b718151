"""Image files of digits: drawn, photographed, oriented and damaged."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from mnist_jax.data.images import frames_of, read_image

Picture = np.ndarray


def saved(picture: Picture, path: Path, **options: object) -> Path:
    Image.fromarray(picture).save(path, **options)  # type: ignore[arg-type]
    return path


def network_input(path: Path, dataset: str = "mnist") -> Picture:
    """The network input framed from a file with one unrotated digit or garment: uint8 [28, 28]."""
    ((seen, *_),) = frames_of(read_image(path), dataset)
    return np.asarray(seen)


def enlarged(digit: Picture, times: int) -> Picture:
    side = times * 28
    return np.asarray(Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC))


def on_page(digit: Picture, row: int, column: int, side: int) -> Picture:
    page = np.zeros((side, side), np.uint8)
    page[row : row + len(digit), column : column + len(digit)] = digit
    return page


def coloured(digit: Picture, ink: tuple[int, ...], paper: tuple[int, ...]) -> Picture:
    share = digit[..., None] / 255
    return np.rint(np.array(paper) * (1 - share) + np.array(ink) * share).astype(np.uint8)


def photographed(digit: Picture) -> Picture:
    """A photograph of a digit on grey paper in uneven light, with noise."""
    height, width = digit.shape
    rows, columns = np.mgrid[0:height, 0:width] / height
    noise = np.random.default_rng(0).normal(0, 4, digit.shape)
    light = 190 + 40 * columns - 25 * rows + noise
    return np.rint((light * (1 - 0.6 * digit / 255)).clip(0, 255)).astype(np.uint8)


def letter_l(side: int = 60) -> Picture:
    """An L, different from its mirror images: uint8 [side, side], 0 and 255."""
    digit = np.zeros((side, side), np.uint8)
    digit[side // 6 : -side // 6, side // 3 : side // 2] = 255
    digit[-side // 3 : -side // 6, side // 3 : -side // 4] = 255
    return digit


def bomb(side: int) -> bytes:
    """A decompression bomb: a PNG of a few bytes that claims side × side pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"")
    chunks = (header, data, b"IEND")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in chunks
    )


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(255 - letter_l(200)).save(buffer, kind)
    return buffer.getvalue()
