"""The datasets published as four IDX files: their names, digests and mirrors."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from mnist_jax.data import idx
from mnist_jax.data.dataset import Dataset, Split
from mnist_jax.errors import Failure

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


class Content(NamedTuple):
    """The uncompressed content of an IDX file, and the place it came from, for messages."""

    data: bytes
    place: str


@dataclass(frozen=True)
class FileSet:
    """A dataset published as four IDX files.

    Attributes:
        name: The name of the dataset.
        sha256: The digests of the uncompressed files, in the order of `FILES`. The gzip wrappers
            differ between mirrors, so only the content is comparable.
        folder: The folder torchvision keeps the files in, below its root.
        mirrors: Addresses of folders that hold the files with `.gz` appended, best first.
    """

    name: str
    sha256: tuple[str, str, str, str]
    folder: str
    mirrors: tuple[str, ...]

    def verify(self, file: str, content: Content) -> None:
        """Checks that `content` is the file named `file`, down to the last bit.

        Raises:
            Failure: If it is not; the message says whether it is damaged or of another dataset.
        """
        expected = self.sha256[FILES.index(file)]
        found = hashlib.sha256(content.data).hexdigest()
        if found != expected:
            owner = owner_of(found)
            what = f"is a file of {owner}, not of {self.name}" if owner else "is damaged"
            raise idx.DamagedFile(
                content.place,
                f"{what} (SHA-256 {found[:12]}… instead of {expected[:12]}…)",
            )

    def assemble(self, contents: Mapping[str, Content], source: str) -> Dataset:
        """Makes a dataset from the contents of all of `FILES`, verifying each.

        Raises:
            Failure: If a file is not valid IDX, images and labels differ in number, or a digest
                is not the published one.
        """
        # Structure first: its error messages are more specific than a wrong digest.
        train, test = _split(contents, "train"), _split(contents, "t10k")
        for file in FILES:
            self.verify(file, contents[file])
        return Dataset(self.name, train, test, combine(self.sha256), source)


def combine(digests: Iterable[str]) -> str:
    """One digest over the SHA-256 digests of the four files, in the order of `FILES`."""
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def owner_of(sha256: str) -> str | None:
    """The name of the dataset that a file with this digest belongs to, if it is a known one."""
    return next((files.name for files in FILE_SETS.values() if sha256 in files.sha256), None)


def _split(contents: Mapping[str, Content], part: str) -> Split:
    images_from = contents[f"{part}-images-idx3-ubyte"]
    labels_from = contents[f"{part}-labels-idx1-ubyte"]
    images, labels = idx.parse_images(*images_from), idx.parse_labels(*labels_from)
    if len(images) != len(labels):
        raise Failure(
            f"{images_from.place} holds {len(images)} images but {labels_from.place} "
            f"{len(labels)} labels; replace both with fresh copies."
        )
    return Split(images, labels)


MNIST = FileSet(
    name="mnist",
    sha256=(
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
    folder="MNIST/raw",
    mirrors=(
        "https://storage.googleapis.com/cvdf-datasets/mnist",
        "https://ossci-datasets.s3.amazonaws.com/mnist",
    ),
)

FASHION_MNIST = FileSet(
    name="fashion_mnist",
    sha256=(
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
    folder="FashionMNIST/raw",
    mirrors=(
        "https://fashion-mnist.s3.eu-central-1.amazonaws.com",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets",
    ),
)

FILE_SETS: Mapping[str, FileSet] = {files.name: files for files in (MNIST, FASHION_MNIST)}

_DIGIT_NAMES = tuple("0123456789")

# What each label of a dataset stands for.
CLASS_NAMES: Mapping[str, tuple[str, ...]] = {
    "mnist": _DIGIT_NAMES,
    "fashion_mnist": (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    "digits": _DIGIT_NAMES,
}
