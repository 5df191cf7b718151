"""The digits that ship inside scikit-learn: real handwriting that needs no download."""

import hashlib

import numpy as np

from mnist_jax.data import idx
from mnist_jax.data.catalog import combine
from mnist_jax.data.dataset import Dataset, Split
from mnist_jax.data.framing import frame_digit

# Divisible by batch sizes of 10 and 100.
TRAIN_EXAMPLES = 1_500


def load_digits() -> Dataset:
    """The 1,797 digits of scikit-learn (8×8 pixels, 17 grey levels), framed like MNIST's.

    In scikit-learn's order, the first 1,500 are the training split and the last 297 the test
    split. Neighbours in that order often share a writer, so a shuffled split would be easier.
    """
    # Imported here: it takes a second, and only this dataset needs it.
    from sklearn import datasets

    bunch = datasets.load_digits()
    pixels = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    images = np.stack([frame_digit(image) for image in pixels])
    labels = bunch.target.astype(np.int32)
    images.flags.writeable = labels.flags.writeable = False
    train = Split(images[:TRAIN_EXAMPLES], labels[:TRAIN_EXAMPLES])
    test = Split(images[TRAIN_EXAMPLES:], labels[TRAIN_EXAMPLES:])
    files = (
        encoded
        for split in (train, test)
        for encoded in (idx.encode_images(split.images), idx.encode_labels(split.labels))
    )
    sha256 = combine(hashlib.sha256(file).hexdigest() for file in files)
    return Dataset("digits", train, test, sha256, "scikit-learn")
