"""A network's arrays under PyTorch's names, shapes and orders: pure functions.

PyTorch stores convolutions as [out, in, kh, kw], dense weights as [out, in], and flattens images
as channel, row, column; this project stores [kh, kw, in, out] and [in, out] and flattens as row,
column, channel.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flax import nnx

from mnist_jax.errors import Failure
from mnist_jax.models.layers import Network

Layers = Mapping[str, Mapping[str, np.ndarray]]

_TORCH_NAMES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
_WITH_ARRAYS = (nnx.Conv, nnx.Linear, nnx.BatchNorm)
_COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class _Tensor:
    """One array and the PyTorch tensor it corresponds to.

    Attributes:
      torch_name: key in the `state_dict`.
      layer: our layer.
      name: the array's name in the layer.
      channels: of the images that were flattened into a dense layer's inputs; else 1.
    """

    torch_name: str
    layer: str
    name: str
    channels: int

    def to_torch(self, value: np.ndarray) -> np.ndarray:
        if value.ndim == 4:
            value = value.transpose(3, 2, 0, 1)
        elif value.ndim == 2:
            inputs, outputs = value.shape
            by_channel = value.reshape(-1, self.channels, outputs).transpose(2, 1, 0)
            value = by_channel.reshape(outputs, inputs)
        return np.ascontiguousarray(value)

    def from_torch(self, value: np.ndarray) -> np.ndarray:
        if value.ndim == 4:
            value = value.transpose(2, 3, 1, 0)
        elif value.ndim == 2:
            outputs, inputs = value.shape
            by_place = value.reshape(outputs, self.channels, -1).transpose(2, 1, 0)
            value = by_place.reshape(inputs, outputs)
        return np.ascontiguousarray(value)


def by_layer(*states: nnx.State[Any, Any]) -> dict[str, dict[str, np.ndarray]]:
    """The arrays of states (parameters, statistics, gradients) by layer and name."""
    layers: dict[str, dict[str, np.ndarray]] = {}
    for state in states:
        for layer, arrays in nnx.to_pure_dict(state).items():
            named = {name: np.asarray(value) for name, value in arrays.items()}
            layers.setdefault(layer, {}).update(named)
    return layers


def torch_layers(network: Network, torch_names: Mapping[str, str]) -> dict[str, str]:
    """Says which layer each prefix of the author's `state_dict` stands for.

    Args:
      network: a network of this package.
      torch_names: as the registry has them: empty where the author's names are ours.

    Returns:
      Layers by prefix, in network order.

    Raises:
      Failure: the network has other layers than the author's. The message is a clause without a
        subject.
    """
    layers = [n for n in network.layer_names if isinstance(getattr(network, n), _WITH_ARRAYS)]
    names = torch_names or {layer: layer for layer in layers}
    if set(names.values()) != set(layers):
        raise Failure("has other layers than its author's network")
    return dict(names)


def to_torch(
    layers: Layers, names: Mapping[str, str], *, batches: int = 0
) -> dict[str, np.ndarray]:
    """Converts a network's arrays to the tensors of its author's `state_dict`.

    Args:
      layers: by layer, `kernel` and `bias`, or BatchNorm's `scale`, `bias`, `mean` and `var`.
        Gradients and moments, which have the parameters' names and shapes, convert as well.
      names: made by `torch_layers`.
      batches: the training steps that BatchNorm has seen.

    Returns:
      The tensors by name. A layer with two prefixes appears under both.
    """
    tensors = {}
    for tensor in _tensors(layers, names):
        tensors[tensor.torch_name] = tensor.to_torch(np.asarray(layers[tensor.layer][tensor.name]))
    for prefix, layer in names.items():
        if "mean" in layers[layer]:
            tensors[f"{prefix}.{_COUNTER}"] = np.array(batches, np.int64)
    return tensors


def from_torch(
    tensors: Mapping[str, np.ndarray], names: Mapping[str, str], like: Layers
) -> dict[str, dict[str, np.ndarray]]:
    """Undoes `to_torch`, after making sure that the tensors are this network's.

    Args:
      tensors: the `state_dict` by name.
      names: as for `to_torch`.
      like: the network's own arrays, whose names, shapes and dtypes the tensors must match.

    Returns:
      Arrays by layer and name, as in `like`.

    Raises:
      Failure: a tensor is missing, unknown, of another shape or dtype, or not finite, or two
        that should be one differ. The message is a clause without a subject.
    """
    _check(tensors, to_torch(like, names))
    layers: dict[str, dict[str, np.ndarray]] = {}
    origin: dict[tuple[str, str], str] = {}
    for tensor in _tensors(like, names):
        value = tensors[tensor.torch_name]
        first = origin.setdefault((tensor.layer, tensor.name), tensor.torch_name)
        if not np.array_equal(value, tensors[first]):
            raise Failure(
                f"has different values in {first} and {tensor.torch_name},"
                " which are one and the same in this network"
            )
        layers.setdefault(tensor.layer, {})[tensor.name] = tensor.from_torch(value)
    return layers


def batches_seen(tensors: Mapping[str, np.ndarray]) -> int:
    """The training steps that the BatchNorm layers of a `state_dict` have seen; 0 without any."""
    return max((int(v) for name, v in tensors.items() if name.endswith(_COUNTER)), default=0)


def _tensors(layers: Layers, names: Mapping[str, str]) -> Iterator[_Tensor]:
    channels = {}
    latest = 1
    for layer in names.values():
        if layer in channels:
            continue
        channels[layer] = latest
        kernel = layers[layer].get("kernel")
        if kernel is not None:
            latest = kernel.shape[-1] if kernel.ndim == 4 else 1
    for prefix, layer in names.items():
        for name in layers[layer]:
            torch_name = f"{prefix}.{_TORCH_NAMES.get(name, name)}"
            yield _Tensor(torch_name, layer, name, channels[layer])


def _check(tensors: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    if missing := sorted(expected.keys() - tensors.keys()):
        raise Failure(f"lacks the tensor {missing[0]}{_and_more(missing)}")
    if unknown := sorted(tensors.keys() - expected.keys()):
        raise Failure(f"has a tensor that this network lacks, {unknown[0]}{_and_more(unknown)}")
    for name, like in expected.items():
        value = tensors[name]
        if value.shape != like.shape:
            raise Failure(f"has {name} of shape {list(value.shape)}, not {list(like.shape)}")
        if value.dtype != like.dtype:
            raise Failure(f"has {name} of type {value.dtype}, not {like.dtype}")
        if not np.isfinite(value).all():
            raise Failure(f"has a value in {name} that is not a finite number")


def _and_more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
