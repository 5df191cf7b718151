"""LeNet on Fashion-MNIST, from a translation of *Dive into Deep Learning* (article D)."""

from collections.abc import Sequence

from flax import nnx

from mnist_jax.errors import UsageError
from mnist_jax.models.layers import (
    ACTIVATIONS,
    Conv,
    Layer,
    Linear,
    Network,
    avg_pool,
    flatten,
    max_pool,
)
from mnist_jax.models.registry import register
from mnist_jax.recipe import Recipe

_POOLINGS: dict[str, Layer] = {"avg": avg_pool, "max": max_pool}


@register(
    Recipe(
        model="lenet",
        dataset="fashion_mnist",
        batch_size=256,
        epochs=5,
        learning_rate=0.9,
    ),
    article="D: Convolutional neural network (LeNet) - [torch learning notes]",
    published="75.6% after epoch 4",
    torch_names={"1": "conv1", "4": "conv2", "8": "fc1", "10": "fc2", "12": "out"},
)
class LeNet(Network):
    """Two convolutions with pooling and three dense layers; arguments cover the exercises.

    Args:
      pooling: `avg`, or `max` (exercise: max- instead of average-pooling).
      activation: `sigmoid`, `relu` or `tanh`.
      channels: filters of each convolution.
      kernel_size: side of all kernels; if it is odd, the first convolution is padded to keep 28×28.
      hidden: units of each dense layer before the output.
      init: a name that `initializers.get_initializer` knows.
      rngs: the stream `params` gives the initial values.

    Raises:
      UsageError: a choice is unknown, or the kernels are too large for the images.
    """

    def __init__(
        self,
        *,
        pooling: str = "avg",
        activation: str = "sigmoid",
        channels: Sequence[int] = (6, 16),
        kernel_size: int = 5,
        hidden: Sequence[int] = (120, 84),
        init: str = "xavier",
        rngs: nnx.Rngs,
    ):
        if pooling not in _POOLINGS:
            raise UsageError(f"lenet's pooling is {pooling!r}; give {' or '.join(_POOLINGS)}.")
        if activation not in ACTIVATIONS:
            raise UsageError(
                f"lenet's activation is {activation!r}; give one of {', '.join(ACTIVATIONS)}."
            )
        layers: dict[str, Layer] = {}
        side, inputs = 28, 1
        for i, features in enumerate(channels, start=1):
            padding = kernel_size // 2 if i == 1 else 0
            layers[f"conv{i}"] = Conv(
                inputs, features, kernel_size, padding=padding, init=init, rngs=rngs
            )
            layers[f"act{i}"] = ACTIVATIONS[activation]
            layers[f"pool{i}"] = _POOLINGS[pooling]
            side, inputs = (side + 2 * padding - kernel_size + 1) // 2, features
            if side < 1:
                raise UsageError(
                    f"lenet's {len(channels)} convolutions with kernel_size {kernel_size} leave"
                    " nothing of a 28x28 image; give fewer or smaller ones."
                )
        layers["flatten"] = flatten
        inputs *= side**2
        for i, units in enumerate(hidden, start=1):
            layers[f"fc{i}"] = Linear(inputs, units, init=init, rngs=rngs)
            layers[f"fc_act{i}"] = ACTIVATIONS[activation]
            inputs = units
        super().__init__(**layers, out=Linear(inputs, 10, init=init, rngs=rngs))
