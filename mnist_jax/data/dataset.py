"""The form of every dataset: uint8 images and integer labels, split into train and test."""

from dataclasses import dataclass

import numpy as np

from mnist_jax.errors import UsageError


@dataclass(frozen=True, eq=False)
class Split:
    """Images and their labels, in the order of the original files.

    Attributes:
        images: uint8 [N, 28, 28], 0 is background. Read-only.
        labels: int32 [N], each in 0..9. Read-only.
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        """The number of examples."""
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A dataset whose content has been verified.

    Attributes:
        name: One of `mnist_jax.data.DATASETS`.
        train: The training split.
        test: The test split.
        sha256: One digest over the SHA-256 digests of the four IDX files that hold the content.
        source: Where the content came from, for people to read.
    """

    name: str
    train: Split
    test: Split
    sha256: str
    source: str


def draw_held_out(examples: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws, for a seed, `count` of `examples` indices to hold out; returns the others and these.

    Both are sorted.

    Raises:
        UsageError: If either part would be empty.
    """
    _check_held_out(examples, count)
    # The order of an epoch is drawn from [seed, epoch].
    drawn = np.random.default_rng([seed, 0, 1]).permutation(examples)
    return np.sort(drawn[count:]), np.sort(drawn[:count])


def hold_out(train: Split, count: int) -> tuple[Split, Split]:
    """Splits off the last `count` examples for validation; both parts are views.

    With MNIST and `count=10_000` these are the 50,000 and 10,000 images of Nielsen's "Neural
    Networks and Deep Learning", chapter 1.

    Raises:
        UsageError: If either part would be empty.
    """
    _check_held_out(len(train), count)
    return (
        Split(train.images[:-count], train.labels[:-count]),
        Split(train.images[-count:], train.labels[-count:]),
    )


def _check_held_out(examples: int, count: int) -> None:
    if not 0 < count < examples:
        raise UsageError(
            f"validation is {count}, of {examples} training images;"
            f" give a number from 1 to {examples - 1}."
        )
