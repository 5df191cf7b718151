"""A network's layers as articles list them: output shapes and parameter counts."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from mnist_jax.kernels.differentiation import differentiable
from mnist_jax.models.layers import MaxPool, Network, Residual, avg_pool, in_evaluation

# Calls known to apply the layers in order; a user's own network may do something else.
_IN_ORDER = (Network.__call__, Residual.__call__)


@dataclass(frozen=True)
class LayerSummary:
    """One layer of a network.

    Attributes:
      name: as in the network and its checkpoints.
      kind: the layer's class or function.
      settings: its other settings as text: kernel, stride, padding, rate; may be empty.
      output_shape: for one image: (1, H, W, C) or (1, features).
      parameters: number of trainable parameters.
      multiply_adds: multiplications of weights for one image.
    """

    name: str
    kind: str
    settings: str
    output_shape: tuple[int, ...]
    parameters: int
    multiply_adds: int


def summarize(model: Network) -> list[LayerSummary]:
    """Lists a network's layers in order, from shapes only."""
    # In training mode dropout would need keys.
    images = jax.ShapeDtypeStruct((1, 28, 28, 1), jnp.float32)
    return _summaries(in_evaluation(model), images)


def _summaries(model: Network, inputs: jax.ShapeDtypeStruct) -> list[LayerSummary]:
    """As `summarize`, for given inputs."""
    graphdef, state = nnx.split(model)
    # XLA's own operations are traced faster than those for a CPU.
    with differentiable():
        outputs = jax.eval_shape(
            lambda s, x: dict(nnx.merge(graphdef, s).layer_outputs(x)),
            state,
            inputs,
        )
    layers = model.named_layers()
    results = [outputs[name] for name in layers]
    return [
        LayerSummary(
            name,
            _kind(layer),
            _settings(layer),
            after.shape,
            _parameters(layer),
            _multiply_adds(layer, before, after),
        )
        for (name, layer), before, after in zip(
            layers.items(), [inputs, *results], results, strict=False
        )
    ]


def multiply_adds(model: Network) -> int:
    """The number of multiplications of weights in a forward pass over one image."""
    return sum(layer.multiply_adds for layer in summarize(model))


def multiply_adds_per_parameter(model: Network) -> float:
    """How often a network uses each of its parameters for one image, on average."""
    layers = summarize(model)
    return sum(one.multiply_adds for one in layers) / sum(one.parameters for one in layers)


def _kind(layer: object) -> str:
    return getattr(layer, "__name__", type(layer).__name__)


def _settings(layer: object) -> str:
    match layer:
        case nnx.Conv():
            side = "×".join(map(str, layer.kernel_size))
            return f"{side}, stride {layer.strides}, padding {layer.padding}"
        case MaxPool():
            return f"2×2, stride 2, padding {layer.padding}"
        case nnx.Dropout():
            return f"rate {layer.rate:g}"
    return "2×2, stride 2, padding 0" if layer is avg_pool else ""


def _parameters(layer: object) -> int:
    if not isinstance(layer, nnx.Module):
        return 0
    leaves = jax.tree.leaves(nnx.as_pure(nnx.state(layer, nnx.Param)))
    return sum(math.prod(leaf.shape) for leaf in leaves)


def _multiply_adds(layer: object, before: jax.ShapeDtypeStruct, after: jax.ShapeDtypeStruct) -> int:
    if isinstance(layer, Network) and type(layer).__call__ in _IN_ORDER:
        return sum(inner.multiply_adds for inner in _summaries(layer, before))
    if not isinstance(layer, nnx.Conv | nnx.Linear):
        return 0
    # The kernel is applied once at every pixel; a dense layer has one "pixel".
    pixels: int = math.prod(after.shape[1:-1])
    return math.prod(layer.kernel.shape) * pixels
