"""Locating and loading datasets: from known folders, from a mirror, or from scikit-learn."""

import difflib
import hashlib
import os
from pathlib import Path

from absl import logging

from mnist_jax.data import download, idx, prepared
from mnist_jax.data.catalog import FILE_SETS, FILES, Content, FileSet, owner_of
from mnist_jax.data.dataset import Dataset
from mnist_jax.data.digits import load_digits
from mnist_jax.errors import Failure, UsageError
from mnist_jax.files import cache_folder, expanded, home_folder, store

EMBEDDED = "digits"
DATASETS = (*FILE_SETS, EMBEDDED)


class DatasetNotFound(Failure):
    """The dataset is not on this machine and could not be fetched."""


def require_dataset(name: str) -> None:
    """Raises a UsageError if there is no dataset with this name."""
    if name not in FILE_SETS and name != EMBEDDED:
        close = difflib.get_close_matches(name.lower(), DATASETS, n=1, cutoff=0.4)
        hint = f"did you mean {close[0]!r}?" if close else f"give one of {', '.join(DATASETS)}."
        raise UsageError(f"There is no dataset {name!r}; {hint}")


def load_dataset(name: str, data_dir: Path | str | None = None) -> Dataset:
    """Loads a dataset and verifies it against the SHA-256 digests of the original files.

    Looks in `data_dir`, `$MNIST_JAX_DATA_DIR`, `$TFDS_DATA_DIR`, `~/tensorflow_datasets` and our
    cache, in this order; in each for IDX files, gzipped or not, then for a dataset prepared by
    TensorFlow Datasets as array_record. The content is the same wherever it comes from. If it is
    not found, the files are downloaded into the cache. `digits` needs no files.

    A damaged file is an error, even if there is a copy elsewhere; a folder that lacks some of the
    four files is skipped.

    Args:
        name: One of `DATASETS`.
        data_dir: A folder to look in first.

    Returns:
        The dataset, in the order of the original files.

    Raises:
        UsageError: If the name is unknown or `data_dir` is not a folder.
        DatasetNotFound: If the dataset is not found and cannot be downloaded.
        Failure: If a file that was found is damaged.

    Example:
        >>> dataset = load_dataset("digits")
        >>> dataset.train.images.shape, dataset.train.images.dtype, dataset.train.labels[:5]
        ((1500, 28, 28), dtype('uint8'), array([0, 1, 2, 3, 4], dtype=int32))
        >>> len(dataset.test)
        297
    """
    require_dataset(name)
    roots = _roots(data_dir)
    if name == EMBEDDED:
        return load_digits()
    files = FILE_SETS[name]
    looked = []
    for root in roots:
        note = ""
        for folder in (root / name, root / files.folder, root):
            paths = _idx_paths(folder)
            if len(paths) == len(FILES):
                # Only a folder that is not named after a dataset may hold another one.
                owner = _owner(paths) if folder == root else None
                if owner in (None, name):
                    return _load_idx(files, paths, folder)
                note = f" (which holds {owner})"
            elif paths:
                note = f" (without {', '.join(file for file in FILES if file not in paths)})"
        if prepared_folder := prepared.find(name, root):
            return _load_prepared(files, prepared_folder)
        looked.append(f"{root}{note}")
    return _load_downloaded(files, looked)


def resolve_dataset(preferred: str, data_dir: Path | str | None = None) -> Dataset:
    """Loads a dataset as `load_dataset` does, or `digits`, with a warning, if it is not found.

    Only a missing dataset is replaced: other errors are those of `load_dataset`.
    """
    try:
        return load_dataset(preferred, data_dir)
    except DatasetNotFound as error:
        logging.warning("Using %s INSTEAD of %s, because %s", EMBEDDED, preferred, error)
        return load_dataset(EMBEDDED)


def _roots(data_dir: Path | str | None) -> list[Path]:
    """The folders to look in, best first."""
    named = [os.environ.get("MNIST_JAX_DATA_DIR"), os.environ.get("TFDS_DATA_DIR")]
    roots = [expanded(root) for root in named if root]
    if data_dir is not None:
        roots.insert(0, expanded(data_dir))
        try:
            next(roots[0].iterdir(), None)
        except OSError as error:
            raise UsageError(
                f"The data folder {roots[0]} can't be read ({error.strerror});"
                " give an existing folder."
            ) from error
    if home := home_folder():
        roots.append(home / "tensorflow_datasets")
    roots.append(cache_folder())
    return list(dict.fromkeys(roots))


def _idx_paths(folder: Path) -> dict[str, Path]:
    """The IDX files in a folder, by name without `.gz`; uncompressed ones are preferred."""
    candidates = ((file, folder / f"{file}{end}") for end in (".gz", "") for file in FILES)
    return {file: path for file, path in candidates if idx.is_file(path)}


def _owner(paths: dict[str, Path]) -> str | None:
    """The known dataset that IDX files belong to, judged by the smallest of them."""
    labels = idx.read_file(paths["t10k-labels-idx1-ubyte"])
    return owner_of(hashlib.sha256(labels).hexdigest())


def _load_idx(files: FileSet, paths: dict[str, Path], source: Path) -> Dataset:
    return files.assemble(_contents(paths), str(source))


def _contents(paths: dict[str, Path]) -> dict[str, Content]:
    return {file: Content(idx.read_file(path), str(path)) for file, path in paths.items()}


def _load_prepared(files: FileSet, folder: Path) -> Dataset:
    # Decoding takes seconds. The decoded copy is found by the files' digest, so that damage to the
    # prepared files is detected even after they have been decoded.
    copy = cache_folder() / "decoded" / prepared.fingerprint(folder)
    paths = _idx_paths(copy)
    if len(paths) == len(FILES):
        try:
            return _load_idx(files, paths, folder)
        except Failure as error:
            logging.warning("Decoding %s again: %s", folder, error)
    logging.info("Decoding %s", folder)
    contents = {
        file: Content(data, f"{folder} ({file})") for file, data in prepared.read(folder).items()
    }
    dataset = files.assemble(contents, str(folder))
    for file, content in contents.items():
        store(copy / file, content.data)
    return dataset


def _load_downloaded(files: FileSet, looked: list[str]) -> Dataset:
    folder = cache_folder() / files.name
    # An interrupted download has left the files it had finished.
    contents = _contents(_idx_paths(folder))
    missing = [file for file in FILES if file not in contents]
    try:
        for file, content in download.fetch(files, missing):
            contents[file] = content
            store(folder / file, content.data)
    except download.DownloadError as error:
        raise DatasetNotFound(
            f"{files.name} was not found and can't be downloaded; name its folder with --data_dir,"
            f" or train on --dataset={EMBEDDED}, which needs no files.\n"
            f"  looked in: {', '.join(looked)}\n"
            f"  mirrors: {error}\n"
            f"  needed: {', '.join(FILES)} (gzipped or not), for example in {folder}"
        ) from error
    return files.assemble(contents, str(folder))
