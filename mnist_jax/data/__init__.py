"""MNIST, Fashion-MNIST and scikit-learn's digits as verified arrays."""

from mnist_jax.data.catalog import CLASS_NAMES
from mnist_jax.data.dataset import Dataset, Split, draw_held_out, hold_out
from mnist_jax.data.framing import frame_digit
from mnist_jax.data.loading import (
    DATASETS,
    DatasetNotFound,
    load_dataset,
    require_dataset,
    resolve_dataset,
)

__all__ = [
    "CLASS_NAMES",
    "DATASETS",
    "Dataset",
    "DatasetNotFound",
    "Split",
    "draw_held_out",
    "frame_digit",
    "hold_out",
    "load_dataset",
    "require_dataset",
    "resolve_dataset",
]
