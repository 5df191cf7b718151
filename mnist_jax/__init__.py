"""The networks of well-known MNIST articles in JAX and Flax, with each article's protocol."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mnist_jax.version import __version__

if TYPE_CHECKING:
    from mnist_jax.interchange.pretrained import load_pretrained
    from mnist_jax.kernels.differentiation import differentiable
    from mnist_jax.runs.network import load_run

__all__ = ["__version__", "differentiable", "load_pretrained", "load_run"]

_HOMES = {
    "differentiable": "kernels.differentiation",
    "load_pretrained": "interchange.pretrained",
    "load_run": "runs.network",
}


def __getattr__(name: str) -> Any:
    """Imports public names on first use: `import mnist_jax` imports neither JAX nor Flax."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
