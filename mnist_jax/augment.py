"""Where `normalize` was before it moved to `inputs`: scripts of that time go on working."""

from mnist_jax.inputs import normalize

__all__ = ["normalize"]
