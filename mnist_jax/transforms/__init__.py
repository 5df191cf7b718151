"""Image transforms that a recipe may list, by name."""

from mnist_jax.transforms.eight_bit import CropResize, GridDistortion, MagnifyingRotation
from mnist_jax.transforms.flip import HorizontalFlip
from mnist_jax.transforms.smooth import Affine, Elastic
from mnist_jax.transforms.standardize import Standardize
from mnist_jax.transforms.transform import Transform

__all__ = [
    "TRANSFORMS",
    "Affine",
    "CropResize",
    "Elastic",
    "GridDistortion",
    "HorizontalFlip",
    "MagnifyingRotation",
    "Standardize",
    "Transform",
]

TRANSFORMS: dict[str, type[Transform]] = {
    kind.name: kind
    for kind in (
        *(Affine, CropResize, Elastic, GridDistortion),
        *(HorizontalFlip, MagnifyingRotation, Standardize),
    )
}
