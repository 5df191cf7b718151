"""The articles' networks. Each module in this folder is imported, and registers its networks."""

import pkgutil
from importlib import import_module

from mnist_jax.models.registry import (
    Entry,
    abstract_model,
    create_model,
    model_entry,
    model_names,
    unknown_model,
)

__all__ = ["Entry", "abstract_model", "create_model", "model_entry", "model_names", "unknown_model"]

for _module in pkgutil.iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
