"""Conversion of a network to JSON for the page: its layers in order, with their weights."""

import base64
from typing import Any

import numpy as np

from mnist_jax.errors import Failure
from mnist_jax.models.layers import (
    ACTIVATIONS,
    BatchNorm,
    ClassicDropout,
    Conv,
    Dropout,
    Linear,
    MaxPool,
    Network,
    Residual,
    avg_pool,
    flatten,
    global_avg_pool,
)
from mnist_jax.recipe import Recipe
from mnist_jax.transforms import CropResize, Standardize, Transform

# Layers that are functions, by their name in `network.js`.
_POOLINGS = {"avg_pool": avg_pool, "global_avg_pool": global_avg_pool}
_FUNCTIONS = {**ACTIVATIONS, **_POOLINGS, "flatten": flatten}


def network_json(network: Network, recipe: Recipe) -> dict[str, Any]:
    """Converts a network to the JSON that `network.js` reads.

    Args:
      network: a network in evaluation mode.
      recipe: the recipe with the normalisation and transforms of the network's inputs.

    Raises:
      Failure: the network has a layer, or the recipe a transform, that the page can't compute.
    """
    layers: list[dict[str, Any]] = []
    _add_layers(network, "", layers)
    return {
        "mean": recipe.mean,
        "std": recipe.std,
        "softmax": recipe.loss == "cross_entropy",
        "transforms": [_transform(one) for one in recipe.augmentation if not one.in_training_only],
        "layers": layers,
    }


# Calls known to apply the layers in order; other networks may do something else.
_IN_ORDER = (Network.__call__, Residual.__call__)


def _add_layers(network: Network, prefix: str, found: list[dict[str, Any]]) -> None:
    """Appends every layer; a nested network is replaced by its layers."""
    for name, layer in network.named_layers().items():
        path = prefix + name
        if isinstance(layer, Network) and type(layer).__call__ in _IN_ORDER:
            before = len(found)
            _add_layers(layer, f"{path}.", found)
            if isinstance(layer, Residual):
                found.append({"name": path, "op": "add", "from": before})
        else:
            found.append({"name": path} | _layer(layer, path))


def _layer(layer: Any, name: str) -> dict[str, Any]:
    kind = type(layer)
    # By the exact class: a subclass may compute something else.
    if kind is Conv:
        settings = {"padding": layer.padding, "strides": layer.strides}
        return {"op": "conv"} | settings | _weights(layer)
    if kind is Linear:
        return {"op": "dense"} | _weights(layer)
    if kind is MaxPool:
        return {"op": "max_pool", "padding": layer.padding}
    if kind is BatchNorm:
        mean, var, scale, bias = (
            np.asarray(value[...], np.float64)
            for value in (layer.mean, layer.var, layer.scale, layer.bias)
        )
        scale = scale / np.sqrt(var + layer.epsilon)
        return _affine(scale, bias - mean * scale)
    if kind is ClassicDropout:
        return _affine(np.asarray([1 - layer.rate]), np.zeros(1))
    if kind is Dropout:
        return {"op": "dropout"}
    for function, known in _FUNCTIONS.items():
        if layer is known:
            return {"op": function}
    what = getattr(layer, "__name__", kind.__name__)
    raise Failure(f"The page can't compute the layer {name}, of type {what}; give another network.")


def _weights(layer: Conv | Linear) -> dict[str, Any]:
    return {"kernel": _array(layer.kernel[...]), "bias": _array(layer.bias[...])}


def _affine(scale: np.ndarray, offset: np.ndarray) -> dict[str, Any]:
    return {"op": "affine", "scale": _array(scale), "offset": _array(offset)}


def _transform(transform: Transform) -> dict[str, Any]:
    match transform:
        case Standardize():
            return {"op": "standardize"}
        case CropResize():
            return {"op": "resize", "weights": _array(transform.evaluation_weights())}
    raise Failure(f"The page can't compute the transform {transform.name}; give another network.")


def _array(values: Any) -> dict[str, Any]:
    numbers = np.asarray(values, "<f4")
    return {"shape": numbers.shape, "values": base64.b64encode(numbers.tobytes()).decode()}
