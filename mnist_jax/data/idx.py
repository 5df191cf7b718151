"""The IDX format of the original MNIST files, gzipped or plain, read from untrusted bytes."""

import struct
import zlib
from pathlib import Path

import numpy as np

from mnist_jax.errors import Failure

SIDE = 28
CLASSES = 10
# The largest genuine file, 60,000 images, has 47 million bytes.
MAX_BYTES = 64 * 2**20

_IMAGES_MAGIC = 0x803
_LABELS_MAGIC = 0x801
_GZIP_MAGIC = b"\x1f\x8b"


class DamagedFile(Failure):
    """A file whose content is not what is expected.

    Attributes:
        problem: What is wrong with it: the message without the path and the advice.
    """

    def __init__(self, place: str, problem: str):
        super().__init__(f"{place} {problem}; replace it with a fresh copy.")
        self.problem = problem


def is_file(path: Path) -> bool:
    """Whether a path is a regular file; False if permissions forbid the check."""
    try:
        return path.is_file()
    except OSError:
        return False


def read_file(path: Path) -> bytes:
    """Reads a file of at most `MAX_BYTES`, decompressed if it is gzipped, whatever its name.

    Raises:
        Failure: If the file cannot be read, is damaged, or is larger than any IDX file of ours.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise Failure(
            f"{path} can't be read ({error.strerror}); check the file and its permissions."
        ) from error
    return gunzip(data, str(path))


def gunzip(data: bytes, where: str) -> bytes:
    """Decompresses `data` if it is gzipped; never yields more than `MAX_BYTES`.

    Args:
        data: One gzip member, or content that is not gzipped.
        where: The file or address it came from, for messages.

    Raises:
        Failure: If `data` is damaged gzip, or the content is larger than `MAX_BYTES`.
    """
    content = data
    if data.startswith(_GZIP_MAGIC):
        inflate = zlib.decompressobj(wbits=31)
        try:
            content = inflate.decompress(data, MAX_BYTES + 1)
        except zlib.error as error:
            raise DamagedFile(where, f"is damaged gzip ({error})") from error
        if len(content) <= MAX_BYTES:
            if not inflate.eof:
                raise DamagedFile(where, "is truncated gzip")
            if inflate.unused_data:
                raise DamagedFile(where, "has trailing bytes after its gzip data")
    if len(content) > MAX_BYTES:
        limit = f"{MAX_BYTES // 2**20} MiB"
        raise DamagedFile(where, f"holds more than {limit}, more than any MNIST file")
    return content


def parse_images(content: bytes, where: str) -> np.ndarray:
    """Reads images from the content of an IDX file: uint8 [N, 28, 28], a read-only view of it.

    Raises:
        Failure: If the magic number, the dimensions or the length are wrong.
    """
    (count, *sides), pixels = _body(content, where, _IMAGES_MAGIC, 3)
    if sides != [SIDE, SIDE]:
        raise DamagedFile(
            where, f"holds images of {sides[0]}x{sides[1]} pixels instead of {SIDE}x{SIDE}"
        )
    return _exactly(pixels, count * SIDE * SIDE, where).reshape(count, SIDE, SIDE)


def parse_labels(content: bytes, where: str) -> np.ndarray:
    """Reads labels from the content of an IDX file: int32 [N], read-only.

    Raises:
        Failure: If the magic number or the length are wrong, or a label is not in 0..9.
    """
    (count,), values = _body(content, where, _LABELS_MAGIC, 1)
    values = _exactly(values, count, where)
    if count and values.max() >= CLASSES:
        raise DamagedFile(where, f"holds the label {values.max()}, above {CLASSES - 1}")
    labels = values.astype(np.int32)
    labels.flags.writeable = False
    return labels


def encode_images(images: np.ndarray) -> bytes:
    """The content of the IDX file that holds `images` (uint8 [N, 28, 28])."""
    return struct.pack(">IIII", _IMAGES_MAGIC, len(images), SIDE, SIDE) + images.tobytes()


def encode_labels(labels: np.ndarray) -> bytes:
    """The content of the IDX file that holds `labels` (integers [N] in 0..9)."""
    return struct.pack(">II", _LABELS_MAGIC, len(labels)) + labels.astype(np.uint8).tobytes()


def _body(content: bytes, where: str, magic: int, rank: int) -> tuple[list[int], np.ndarray]:
    """Splits the content into the dimensions and the values that should fill them."""
    header = 4 * (1 + rank)
    if len(content) < header:
        raise DamagedFile(where, "is truncated within its header")
    found, *dimensions = struct.unpack(f">{1 + rank}I", content[:header])
    if found != magic:
        kind = "images" if magic == _IMAGES_MAGIC else "labels"
        raise DamagedFile(
            where, f"is not an IDX file of {kind} (magic number {found:#x} instead of {magic:#x})"
        )
    return dimensions, np.frombuffer(content, np.uint8, offset=header)


def _exactly(values: np.ndarray, count: int, where: str) -> np.ndarray:
    if len(values) < count:
        raise DamagedFile(where, f"is truncated ({len(values)} bytes of data instead of {count})")
    if len(values) > count:
        raise DamagedFile(where, f"has {len(values) - count} trailing bytes")
    return values
