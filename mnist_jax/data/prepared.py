"""Reading datasets that TensorFlow Datasets has prepared as array_record, without TensorFlow."""

import hashlib
import io
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from mnist_jax.data import idx
from mnist_jax.errors import Failure
from mnist_jax.files import parse_json

_SPLITS = {"train": "train", "test": "t10k"}
_AGAIN = "prepare it again with tensorflow_datasets, or use the four IDX files instead"


def find(name: str, root: Path) -> Path | None:
    """Finds the newest array_record version of the dataset `name` in or below `root`.

    `root` may be a data folder of TensorFlow Datasets, the folder above it, or the folder of the
    dataset or of one version. Other formats are skipped: reading them needs TensorFlow.

    Raises:
        Failure: If a description of the dataset exists but is unreadable.
    """
    for place in (f"{name}/*", f"tensorflow_datasets/{name}/*", "*", "."):
        infos = root.glob(f"{place}/dataset_info.json")
        for info in sorted(infos, key=_version, reverse=True):
            if ".incomplete" in info.parent.name:
                continue
            try:
                described = parse_json(info.read_bytes())
                # Without a named format, it is the original one, tfrecord.
                found, file_format = described["name"], described.get("fileFormat", "tfrecord")
            except (OSError, ValueError, TypeError, AttributeError, LookupError) as error:
                raise Failure(f"{info} is damaged or can't be read; {_AGAIN}.") from error
            if (found, file_format) == (name, "array_record"):
                return info.parent
            if found == name:
                logging.warning(
                    "Skipping %s: reading %s needs TensorFlow", info.parent, file_format
                )
    return None


def _version(info: Path) -> tuple[list[int], str]:
    """A sort key that puts version 3.0.10 after 3.0.2, and sorts other names alphabetically."""
    return [int(number) for number in re.findall(r"\d+", info.parent.name)], info.parent.name


def fingerprint(folder: Path) -> str:
    """SHA-256 over the names and contents of the files in a prepared folder.

    Raises:
        Failure: If a file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        for path in sorted(path for path in folder.iterdir() if path.is_file()):
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            digest.update(f"{path.name}\0{content}\0".encode())
    except OSError as error:
        raise Failure(f"{folder} can't be read ({error.strerror}); {_AGAIN}.") from error
    return digest.hexdigest()


def read(folder: Path) -> dict[str, bytes]:
    """Decodes a prepared dataset into the content of the four IDX files it was made from.

    Takes seconds: every image is a PNG.

    Returns:
        The uncompressed content of each IDX file by name; not verified.

    Raises:
        Failure: If a file is damaged or does not hold 28×28 grey images with labels.
    """
    contents = {}
    # The underlying libraries raise anything from RuntimeError to protobuf's DecodeError.
    try:
        for split, part in _SPLITS.items():
            images, labels = _read_split(folder, split)
            contents[f"{part}-images-idx3-ubyte"] = idx.encode_images(images)
            contents[f"{part}-labels-idx1-ubyte"] = idx.encode_labels(labels)
    except Exception as error:
        raise Failure(f"{folder} can't be read ({_first_line(error)}); {_AGAIN}.") from error
    return contents


def _read_split(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images [N, 28, 28] and labels [N] of one split, in the order of the original files."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tensorflow_datasets as tfds
        from tensorflow_datasets.core.hashing import Hasher

        source: Any = tfds.builder_from_directory(folder).as_data_source(
            split, decoders={"image": tfds.decode.SkipDecoding()}
        )
        count = len(source)
        if count * idx.SIDE**2 > idx.MAX_BYTES:
            raise ValueError(f"{count} examples in the {split} split")
        examples = source.__getitems__(list(range(count)))
    # Examples are stored in the order of a hash of their index in the original file.
    stored = sorted(range(count), key=Hasher(split).hash_key)
    images = np.empty((count, idx.SIDE, idx.SIDE), np.uint8)
    labels = np.empty(count, np.uint8)
    for index, example in zip(stored, examples, strict=True):
        images[index] = _decode_png(example["image"])
        labels[index] = example["label"]
    return images, labels


def _decode_png(data: bytes) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
        if (image.size, image.mode) != ((idx.SIDE, idx.SIDE), "L"):
            raise ValueError(f"an image of {image.size} pixels in mode {image.mode}")
        return np.asarray(image)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]
