"""The articles' own programs, written independently of `mnist_jax`, as references."""

from importlib import util

from mnist_jax.errors import UsageError


def require_torch() -> None:
    """Makes sure that PyTorch, an optional dependency, is installed.

    Raises:
      UsageError: it is not.
    """
    if not util.find_spec("torch"):
        raise UsageError("PyTorch is not installed; `make torch` installs it.")
