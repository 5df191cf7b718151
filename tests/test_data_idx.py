"""IDX files of untrusted content: every defect is a one-sentence error that names the file."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from mnist_jax.data import idx
from mnist_jax.errors import Failure

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 28, 28), np.uint8)
LABELS = np.array([0, 9, 4])
IMAGE_FILE = idx.encode_images(IMAGES)
LABEL_FILE = idx.encode_labels(LABELS)


def test_arrays_survive_a_round_trip_and_are_read_only() -> None:
    images, labels = idx.parse_images(IMAGE_FILE, "f"), idx.parse_labels(LABEL_FILE, "f")
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(labels, LABELS)
    assert (images.dtype, labels.dtype) == (np.uint8, np.int32)
    assert not images.flags.writeable
    assert not labels.flags.writeable


def test_encoding_follows_the_published_format() -> None:
    assert IMAGE_FILE[:16] == bytes([0, 0, 8, 3, 0, 0, 0, 3, 0, 0, 0, 28, 0, 0, 0, 28])
    assert bytes([0, 0, 8, 1, 0, 0, 0, 3, 0, 9, 4]) == LABEL_FILE


@pytest.mark.parametrize("compressed", [True, False])
def test_reads_gzipped_and_plain_files_whatever_their_name(
    tmp_path: Path, compressed: bool
) -> None:
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(IMAGE_FILE) if compressed else IMAGE_FILE)
    assert idx.read_file(path) == IMAGE_FILE


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "truncated within its header"),
        (IMAGE_FILE[:15], "truncated within its header"),
        (LABEL_FILE + bytes(8), r"not an IDX file of images \(magic number 0x801 instead of 0x803"),
        (IMAGE_FILE[:-1], "truncated \\(2351 bytes of data instead of 2352"),
        (IMAGE_FILE[:16], "truncated \\(0 bytes"),
        (IMAGE_FILE + b"\0", "has 1 trailing bytes"),
        (struct.pack(">IIII", 0x803, 3, 28, 27) + IMAGE_FILE[16:], "28x27 pixels"),
        (struct.pack(">IIII", 0x803, 2**32 - 1, 28, 28) + IMAGE_FILE[16:], "truncated"),
    ],
)
def test_defective_images_are_refused(content: bytes, problem: str) -> None:
    with pytest.raises(Failure, match=rf"^FILE .*{problem}.*; replace it with a fresh copy\.$"):
        idx.parse_images(content, "FILE")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (IMAGE_FILE, r"not an IDX file of labels \(magic number 0x803 instead of 0x801"),
        (LABEL_FILE[:-1], "truncated"),
        (LABEL_FILE + b"\0", "has 1 trailing bytes"),
        (LABEL_FILE[:-1] + b"\x0a", "holds the label 10, above 9"),
    ],
)
def test_defective_labels_are_refused(content: bytes, problem: str) -> None:
    with pytest.raises(Failure, match=rf"^FILE .*{problem}.*; replace it with a fresh copy\.$"):
        idx.parse_labels(content, "FILE")


# Without a timestamp, which would give a test a different name in every process of pytest-xdist.
COMPRESSED = gzip.compress(IMAGE_FILE, mtime=0)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (COMPRESSED[:-9], "truncated gzip"),
        (COMPRESSED[:2], "truncated gzip"),
        (COMPRESSED + b"more", "trailing bytes after its gzip data"),
        (COMPRESSED[:10] + b"\xff" * 50, "damaged gzip"),
        (COMPRESSED[:-8] + bytes(8), "damaged gzip"),
    ],
)
def test_defective_gzip_is_refused(tmp_path: Path, data: bytes, problem: str) -> None:
    path = tmp_path / "file.gz"
    path.write_bytes(data)
    with pytest.raises(Failure, match=rf"{path} .*{problem}.*; replace it with a fresh copy\.$"):
        idx.read_file(path)


def test_gzip_that_expands_too_far_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.gz"
    path.write_bytes(gzip.compress(bytes(80 * 2**20), compresslevel=1))
    with pytest.raises(Failure, match=rf"{path} .*more than 64 MiB.*; replace it with a fresh"):
        idx.read_file(path)


def test_oversized_plain_file_is_refused_without_reading_it_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(Failure, match="more than 64 MiB"):
        idx.read_file(path)


def test_missing_file_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(Failure, match=r"can't be read \(No such file or directory\)"):
        idx.read_file(tmp_path / "absent")


def test_mutated_files_are_read_or_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    path = tmp_path / "file"
    refused = 0
    for original in (IMAGE_FILE, LABEL_FILE, gzip.compress(IMAGE_FILE), gzip.compress(LABEL_FILE)):
        for _ in range(200):
            mutated = bytearray(original[: rng.integers(1, len(original) + 1)])
            for position in rng.integers(0, min(len(mutated), 40), rng.integers(0, 4)):
                mutated[position] = rng.integers(256)
            path.write_bytes(mutated)
            try:
                content = idx.read_file(path)
                (idx.parse_images if original[3:4] == b"\3" else idx.parse_labels)(content, "f")
            except Failure:
                refused += 1
    assert refused > 400
