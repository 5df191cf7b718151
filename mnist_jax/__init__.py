"""The networks of well-known MNIST articles in JAX and Flax, with each article's protocol."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mnist_jax.kernels.differentiation import differentiable

__all__ = ["differentiable"]


def __getattr__(name: str) -> Any:
    """Imports what is asked for, so that `import mnist_jax` imports neither JAX nor Flax."""
    if name == "differentiable":
        from mnist_jax.kernels.differentiation import differentiable

        return differentiable
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
