"""The former home of `normalize`, now in `inputs`; kept so that older scripts still work."""

from mnist_jax.inputs import normalize

__all__ = ["normalize"]
