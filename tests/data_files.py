"""Tiny datasets in the file formats of the real ones."""

import gzip
import hashlib
import io
import json
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from mnist_jax.data import Dataset, idx
from mnist_jax.data.catalog import FILES, FileSet

Contents = dict[str, bytes]


def make_contents(seed: int, train: int = 7, test: int = 5) -> Contents:
    """The contents of the four IDX files, with random images and labels."""
    rng = np.random.default_rng(seed)
    contents = {}
    for part, count in (("train", train), ("t10k", test)):
        images = rng.integers(0, 256, (count, 28, 28), np.uint8)
        contents[f"{part}-images-idx3-ubyte"] = idx.encode_images(images)
        contents[f"{part}-labels-idx1-ubyte"] = idx.encode_labels(rng.integers(0, 10, count))
    return contents


def make_file_set(name: str, contents: Contents, mirrors: tuple[str, ...] = ()) -> FileSet:
    """A `FileSet` with the checksums of `contents`."""
    first, second, third, fourth = (hashlib.sha256(contents[file]).hexdigest() for file in FILES)
    return FileSet(name, (first, second, third, fourth), f"{name.upper()}/raw", mirrors)


def write_idx(folder: Path, contents: Contents, compressed: bool = True) -> None:
    """Writes IDX files, gzipped if `compressed`."""
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in contents.items():
        if compressed:
            (folder / f"{file}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / file).write_bytes(content)


def assert_dataset_equals(dataset: Dataset, contents: Contents) -> None:
    """Asserts that a dataset has exactly the images and labels of `contents`."""
    images, labels = idx.encode_images, idx.encode_labels
    assert images(dataset.train.images) == contents["train-images-idx3-ubyte"]
    assert labels(dataset.train.labels) == contents["train-labels-idx1-ubyte"]
    assert images(dataset.test.images) == contents["t10k-images-idx3-ubyte"]
    assert labels(dataset.test.labels) == contents["t10k-labels-idx1-ubyte"]


def write_prepared(folder: Path, contents: Contents) -> None:
    """Writes `contents` as TensorFlow Datasets prepares a dataset `tiny` in array_record format."""
    from tensorflow_datasets.proto import tf_example_pb2

    folder.mkdir(parents=True)
    splits = []
    for split, part in (("train", "train"), ("test", "t10k")):
        images = idx.parse_images(contents[f"{part}-images-idx3-ubyte"], "images")
        labels = idx.parse_labels(contents[f"{part}-labels-idx1-ubyte"], "labels")

        def key(index: int, split: str = split) -> bytes:
            return hashlib.md5(f"{split}{index}".encode()).digest()

        shard = folder / f"tiny-{split}.array_record-00000-of-00001"
        writer = ArrayRecordWriter(str(shard), "group_size:1")
        for index in sorted(range(len(images)), key=key):
            png = io.BytesIO()
            Image.fromarray(images[index]).save(png, "PNG")
            example = tf_example_pb2.Example()
            example.features.feature["image"].bytes_list.value.append(png.getvalue())
            example.features.feature["label"].int64_list.value.append(int(labels[index]))
            writer.write(example.SerializeToString())
        writer.close()
        splits.append(
            {
                "name": split,
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "numBytes": str(shard.stat().st_size),
                "shardLengths": [str(len(images))],
            }
        )
    info = {"name": "tiny", "version": "1.0.0", "fileFormat": "array_record", "splits": splits}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    feature = "tensorflow_datasets.core.features."
    image = {"dtype": "uint8", "shape": {"dimensions": ["28", "28", "1"]}}
    features = {
        "pythonClassName": f"{feature}features_dict.FeaturesDict",
        "featuresDict": {
            "features": {
                "image": {"pythonClassName": f"{feature}image_feature.Image", "image": image},
                "label": {
                    "pythonClassName": f"{feature}class_label_feature.ClassLabel",
                    "classLabel": {"numClasses": "10"},
                },
            }
        },
    }
    (folder / "features.json").write_text(json.dumps(features))
