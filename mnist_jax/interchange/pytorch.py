"""Conversion of a network's arrays to PyTorch's names, shapes and layouts: pure functions.

PyTorch stores convolutions as [out, in, kh, kw], dense weights as [out, in], and flattens images
as channel, row, column; this project stores [kh, kw, in, out] and [in, out] and flattens as row,
column, channel.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from flax import nnx

from mnist_jax.errors import Failure
from mnist_jax.models.layers import ACTIVATIONS, Network, dotted, flatten
from mnist_jax.models.summary import summarize

Variables = nnx.State[Any, Any]
Layers = Mapping[str, Mapping[str, np.ndarray]]

_TORCH_NAMES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
# Modules whose arrays correspond to those of a PyTorch module, in a known layout.
_CONVERTIBLE = (nnx.Conv, nnx.Linear, nnx.BatchNorm, nnx.LayerNorm, nnx.GroupNorm)
# Modules that preserve the order of flat activations; activation functions do, too.
_KEEPING = (nnx.Dropout, nnx.BatchNorm, nnx.LayerNorm, nnx.GroupNorm)
_COUNTER = "num_batches_tracked"


class Layer(NamedTuple):
    """A layer with arrays.

    Attributes:
      name: dotted below the top level, as `block.conv`.
      channels: channels of the images that were flattened into its inputs; otherwise 1.
    """

    name: str
    channels: int


@dataclass(frozen=True)
class _Tensor:
    """One array and the PyTorch tensor it corresponds to.

    Attributes:
      torch_name: key in the `state_dict`.
      layer: our layer.
      name: the array's name in the layer.
      channels: `Layer.channels` for an array with an element for each input, otherwise 1.
    """

    torch_name: str
    layer: str
    name: str
    channels: int

    def to_torch(self, value: np.ndarray) -> np.ndarray:
        if value.ndim == 4:
            value = value.transpose(3, 2, 0, 1)
        else:
            by_channel = value.reshape(-1, self.channels, *value.shape[1:])
            value = by_channel.swapaxes(0, 1).reshape(value.shape).T
        return np.ascontiguousarray(value)

    def from_torch(self, value: np.ndarray) -> np.ndarray:
        if value.ndim == 4:
            value = value.transpose(2, 3, 1, 0)
        else:
            by_place = value.T.reshape(self.channels, -1, *value.T.shape[1:])
            value = by_place.swapaxes(0, 1).reshape(value.T.shape)
        return np.ascontiguousarray(value)


def by_layer(*states: Variables) -> dict[str, dict[str, np.ndarray]]:
    """The arrays of states (parameters, statistics, gradients) by layer and name."""
    layers: dict[str, dict[str, np.ndarray]] = {}
    for state in states:
        for (*owner, name), value in nnx.to_flat_state(nnx.as_pure(state)):
            layers.setdefault(dotted(owner), {})[str(name)] = np.asarray(value)
    return layers


def fill(state: Variables, layers: Layers) -> Variables:
    """A state like `state` with the arrays of `layers`; the inverse of `by_layer`."""
    paths = [path for path, _ in nnx.to_flat_state(nnx.as_pure(state))]
    return nnx.from_flat_state([(path, layers[dotted(path[:-1])][str(path[-1])]) for path in paths])


def torch_layers(network: Network, torch_names: Mapping[str, str]) -> dict[str, Layer]:
    """Maps each prefix of a `state_dict`, the author's if its layers are the same, to a layer.

    Args:
      network: a network whose arrays are all in convolutions, dense layers and BatchNorm, LayerNorm
        or GroupNorm. A dense layer in a nested module must get inputs that are already flat.
      torch_names: the author's, as in the registry. They apply to a network with the author's
        layers; a variant with other layers, and any network if they are empty, has our names.

    Returns:
      Layers by prefix, in network order.

    Raises:
      Failure: the network has a layer that can't be converted. The message is a clause without a
        subject.
    """
    modules = dict(nnx.iter_modules(network))
    flattened = _flattened_channels(network)
    order: list[tuple[Any, ...]] = [(name,) for name in network.layer_names]
    layers = {}
    for path, array in nnx.to_flat_state(nnx.as_pure(nnx.state(network))):
        owner = path[:-1]
        module = modules.get(owner)
        if not isinstance(module, _CONVERTIBLE) or array.ndim == 3 or owner[:1] not in order:
            kind = type(module).__name__
            raise Failure(f"has {dotted(path)} of {kind}, which can't be converted to PyTorch")
        channels = flattened[str(owner[0])]
        nested = len(owner) > 1
        if channels is None:
            known = not nested or not isinstance(module, nnx.Linear)
        else:
            in_groups = isinstance(module, nnx.GroupNorm)
            known = channels == 1 or (channels > 1 and not nested and not in_groups)
        if not known:
            raise Failure(
                f"has {dotted(path)}, and the order of that layer's inputs is not known; flatten"
                " images by `mnist_jax.models.layers.flatten`, as a layer of the network"
            )
        layers[owner] = Layer(dotted(owner), channels or 1)
    in_order = sorted(layers, key=lambda owner: order.index(owner[:1]))
    by_name = {layers[owner].name: layers[owner] for owner in in_order}
    if set(torch_names.values()) != set(by_name):
        return by_name
    return {prefix: by_name[name] for prefix, name in torch_names.items()}


def _flattened_channels(network: Network) -> dict[str, int | None]:
    """Channels of the images that were flattened into each layer's inputs.

    It is 1 if the order of inputs does not matter, None if the inputs are images, and 0 if images
    were flattened in an unknown order.
    """
    flattened: dict[str, int | None] = {}
    shape: tuple[int, ...] = (1, 28, 28, 1)
    channels = 1
    for layer in summarize(network):
        module, output = getattr(network, layer.name), layer.output_shape
        flattened[layer.name] = None if len(shape) == 4 else channels
        if module is flatten:
            channels = shape[-1]
        elif len(output) != len(shape):
            # Global pooling gives one value per channel, whose order is clear.
            channels = 1 if (len(shape), len(output)) == (4, 2) and output[-1] == shape[-1] else 0
            if len(output) == 4:
                raise Failure(f"reshapes flat activations to images in {layer.name}")
        elif isinstance(module, nnx.Linear):
            channels = 1
        elif channels > 1 and not isinstance(module, _KEEPING):
            # An unknown function may reorder flat activations; these are known not to.
            channels = channels if module in ACTIVATIONS.values() else 0
        shape = output
    return flattened


def to_torch(
    layers: Layers, names: Mapping[str, Layer], *, batches: int = 0
) -> dict[str, np.ndarray]:
    """Converts a network's arrays to the tensors of its author's `state_dict`.

    Args:
      layers: by layer, `kernel` and `bias`, or BatchNorm's `scale`, `bias`, `mean` and `var`.
        Gradients and moments, which have the parameters' names and shapes, convert as well.
      names: made by `torch_layers`.
      batches: the value of BatchNorm's `num_batches_tracked`.

    Returns:
      The tensors by name. A layer with two prefixes appears under both.
    """
    tensors = {}
    for tensor in _tensors(layers, names):
        tensors[tensor.torch_name] = tensor.to_torch(np.asarray(layers[tensor.layer][tensor.name]))
    for prefix, layer in names.items():
        if "mean" in layers[layer.name]:
            tensors[f"{prefix}.{_COUNTER}"] = np.array(batches, np.int64)
    return tensors


def from_torch(
    tensors: Mapping[str, np.ndarray], names: Mapping[str, Layer], like: Layers
) -> dict[str, dict[str, np.ndarray]]:
    """Inverts `to_torch`, after checking that the tensors are this network's.

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
                " which are the same array in this network"
            )
        layers.setdefault(tensor.layer, {})[tensor.name] = tensor.from_torch(value)
    return layers


def batches_seen(tensors: Mapping[str, np.ndarray]) -> int:
    """The largest `num_batches_tracked` of a `state_dict`; 0 without BatchNorm."""
    return max((int(v) for name, v in tensors.items() if name.endswith(_COUNTER)), default=0)


def _tensors(layers: Layers, names: Mapping[str, Layer]) -> Iterator[_Tensor]:
    for prefix, layer in names.items():
        for name in layers[layer.name]:
            torch_name = f"{prefix}.{_TORCH_NAMES.get(name, name)}"
            # A dense layer's bias has an element for each output.
            of_inputs = name == "kernel" or "kernel" not in layers[layer.name]
            yield _Tensor(torch_name, layer.name, name, layer.channels if of_inputs else 1)


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
        if name.endswith(_COUNTER) and not 0 <= value < 2**31:
            raise Failure(f"has {value} in {name}, which is not a number of training steps")


def _and_more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
