"""The layers of recipes' networks."""

import functools
import json
from collections.abc import Sequence

from mnist_jax.models import abstract_model
from mnist_jax.models.summary import LayerSummary, summarize
from mnist_jax.recipe import Recipe


def layers(recipe: Recipe) -> Sequence[LayerSummary]:
    """The layers of a recipe's network, in order."""
    return _layers(recipe.model, json.dumps(recipe.model_args))


def has_convolutions(recipe: Recipe) -> bool:
    """Whether a recipe's network has convolutions."""
    return any(layer.kind == "Conv" for layer in layers(recipe))


@functools.cache
def _layers(model: str, model_args: str) -> Sequence[LayerSummary]:
    return tuple(summarize(abstract_model(model, **json.loads(model_args))))
