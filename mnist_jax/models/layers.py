"""Layers and the network class: Flax's own modules, initialised and composed as in the articles.

A `Network` is an article's list of layers, applied in order. The module `ops` decides how a layer
is computed on the available device.
"""

import inspect
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from mnist_jax.errors import UsageError
from mnist_jax.kernels import ops
from mnist_jax.kernels.batch_norm import batch_norm
from mnist_jax.models.initializers import get_initializer

Layer: TypeAlias = Callable[[jax.Array], jax.Array]

relu: Layer = nnx.relu
sigmoid: Layer = nnx.sigmoid
tanh: Layer = nnx.tanh
flatten: Layer = ops.flatten
avg_pool: Layer = ops.avg_pool
global_avg_pool: Layer = ops.global_avg_pool
ACTIVATIONS: dict[str, Layer] = {"relu": relu, "sigmoid": sigmoid, "tanh": tanh}


class Conv(nnx.Conv):
    """A square convolution with bias: [N, H, W, inputs] to [N, h, w, features].

    Args:
      inputs: input channels.
      features: output channels.
      kernel_size: side of the kernel in pixels.
      strides: rows and columns from one window to the next.
      padding: zeros added on every side; or `SAME`: as many as give 1/strides of the size,
        rounded up, with the odd one after the image.
      init: a name that `initializers.get_initializer` knows.
      rngs: the stream `params` gives the initial values.
    """

    padding: ops.Padding
    strides: int
    bias: nnx.Param[jax.Array]

    def __init__(
        self,
        inputs: int,
        features: int,
        kernel_size: int,
        *,
        strides: int = 1,
        padding: ops.Padding = 0,
        init: str = "torch",
        rngs: nnx.Rngs,
    ):
        shape = (kernel_size, kernel_size)
        kernel, bias = get_initializer(init)(rngs.params(), (*shape, inputs, features))
        super().__init__(
            inputs,
            features,
            shape,
            strides=strides,
            padding=padding,
            kernel_init=lambda *_: kernel,
            bias_init=lambda *_: bias,
            rngs=rngs,
        )

    def __call__(self, inputs: jax.Array) -> jax.Array:  # type: ignore[override]
        """Cross-correlates; `padding` and the shapes are those of the class."""
        y = ops.conv(inputs, self.kernel[...], padding=self.padding, strides=self.strides)
        return ops.add_bias(y, self.bias[...])

    def max_pooled(self, inputs: jax.Array) -> jax.Array:
        """A convolution with stride 1 and `max_pool`, fused."""
        y = ops.conv_max_pool(inputs, self.kernel[...], padding=self.padding)
        return ops.add_bias(y, self.bias[...])


class Linear(nnx.Linear):
    """A fully connected layer: [N, inputs] to [N, features]; arguments as in `Conv`."""

    bias: nnx.Param[jax.Array]

    def __init__(self, inputs: int, features: int, *, init: str = "torch", rngs: nnx.Rngs):
        kernel, bias = get_initializer(init)(rngs.params(), (inputs, features))
        super().__init__(
            inputs,
            features,
            kernel_init=lambda *_: kernel,
            bias_init=lambda *_: bias,
            rngs=rngs,
        )

    def __call__(self, inputs: jax.Array) -> jax.Array:  # type: ignore[override]
        """Multiplies by the weights and adds the bias; the shapes are those of the class."""
        return ops.linear(inputs, self.kernel[...]) + self.bias[...].reshape(1, -1)


@dataclass(frozen=True)
class MaxPool:
    """The maximum of every 2×2 window, after `padding` rows and columns of -inf on every side.

    With `SAME` padding an odd last row or column is pooled alone.
    """

    padding: ops.Padding = 0

    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] to [N, (H + 2 padding) // 2, (W + 2 padding) // 2, C]."""
        return ops.max_pool(x, padding=self.padding)


max_pool = MaxPool()


class BatchNorm(nnx.BatchNorm):
    """Batch normalisation with PyTorch's conventions.

    The running variance is unbiased, while Flax keeps the biased one. If a batch is split over
    mapped axes, `nnx.view(model, axis_name=...)` computes the statistics over the whole batch.

    Raises:
      UsageError: in training, a channel has only one value, and so no unbiased variance.

    Args:
      features: channels.
      momentum: decay of the running statistics.
      epsilon: added to the variance.
      rngs: unused.
    """

    axis_name: tuple[str, ...] | None  # type: ignore[assignment]
    scale: nnx.Param[jax.Array]
    bias: nnx.Param[jax.Array]

    def __init__(
        self, features: int, *, momentum: float = 0.9, epsilon: float = 1e-5, rngs: nnx.Rngs
    ):
        super().__init__(
            features, momentum=momentum, epsilon=epsilon, use_fast_variance=False, rngs=rngs
        )

    def __call__(self, x: jax.Array, use_running_average: bool | None = None) -> jax.Array:  # type: ignore[override]
        """Normalises [N, H, W, C] over N, H and W; in training, updates the running statistics."""
        if use_running_average is None:
            use_running_average = self.use_running_average
        if use_running_average:
            return jnp.asarray(super().__call__(x, True))
        y, mean, var = batch_norm(
            x, self.scale[...], self.bias[...], epsilon=self.epsilon, axis_name=self.axis_name
        )
        count = x.size // x.shape[-1]
        if self.axis_name:
            count *= lax.axis_size(self.axis_name)
        if count == 1:
            raise UsageError(
                "A batch of one image gives batch normalisation only one value per channel; give a"
                " larger batch_size, and one that does not leave a last batch of one image."
            )
        new = 1 - self.momentum
        mean, var = (one.astype(self.mean.dtype) for one in (mean, var))
        self.mean[...] = self.momentum * self.mean[...] + new * mean
        self.var[...] = self.momentum * self.var[...] + new * var * (count / (count - 1))
        return y

    def set_view(
        self,
        use_running_average: bool | None = None,
        axis_name: tuple[str, ...] | None = None,
    ) -> None:
        """Takes `nnx.view`'s arguments: which statistics to use, and over which mapped axes."""
        super().set_view(use_running_average=use_running_average)
        if axis_name is not None:
            self.axis_name = axis_name


class Dropout(nnx.Dropout):
    """Dropout with a random key per image, so that masks do not depend on how a batch is split.

    Args:
      rate: the probability of dropping a unit.

    Raises:
      UsageError: the rate is not in [0, 0.99], above which the rounding of masks would show.
    """

    def __init__(self, rate: float):
        if not 0 <= rate <= 0.99:
            raise UsageError(f"The dropout rate is {rate}; give a number from 0 to 0.99.")
        super().__init__(rate)

    def masked(self, x: jax.Array, keys: jax.Array) -> jax.Array:
        """Sets units of [N, ..., C] to 0 and scales the others; `keys` has one per image."""
        return jnp.where(_keep(1 - self.rate, x.shape, keys), x / (1 - self.rate), 0)


class ClassicDropout(Dropout):
    """Dropout that scales by the keep probability at test time instead of training time.

    Article A's dropout (`network3.py`): masked units are zero in training and the others keep
    their value.
    """

    def masked(self, x: jax.Array, keys: jax.Array) -> jax.Array:
        """Sets units of [N, ..., C] to 0; arguments as in `Dropout`."""
        return jnp.where(_keep(1 - self.rate, x.shape, keys), x, 0)

    def __call__(
        self,
        inputs: jax.Array,
        *,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | nnx.RngStream | jax.Array | None = None,
    ) -> jax.Array:
        """Masks in training, scales in evaluation; arguments as in `nnx.Dropout`."""
        y = super().__call__(inputs, deterministic=deterministic, rngs=rngs)
        return y * (1 - self.rate)


def _keep(probability: float, shape: tuple[int, ...], keys: jax.Array) -> jax.Array:
    """A mask of units of [N, ..., C] to keep; rounds the probability to a positive n/2^16."""
    largest_kept = max(round(probability * 2**16), 1) - 1
    units = math.prod(shape[1:])
    # 16 bits per unit cost half as much as the 32 that `jax.random.bernoulli` draws.
    words = jax.vmap(lambda key: jax.random.bits(key, (math.ceil(units / 2),), jnp.uint32))(keys)
    halves = lax.bitcast_convert_type(words, jnp.uint16).reshape(shape[0], -1)[:, :units]
    # Drawn with the image axis first but used with it last; see `ops`.
    keep = ops.transpose((halves <= largest_kept).astype(jnp.float32)) == 1
    return jnp.moveaxis(keep.reshape(shape[-1], *shape[1:-1], shape[0]), (0, -1), (-1, 0))


class Network(nnx.Module):
    """Named layers applied in order, as an article lists them.

    A layer may itself be a network, such as a residual block, and then gets its own keys: its
    `__call__` must have the signature of this one, `(self, images, *, keys=None)`.

    Args:
      **layers: modules and functions from activations to activations. In checkpoints, parameters
        are stored under these names.
    """

    def __init__(self, **layers: Layer):
        self.layer_names = tuple(layers)
        for name, layer in layers.items():
            setattr(self, name, layer)

    def __call__(self, images: jax.Array, *, keys: jax.Array | None = None) -> jax.Array:
        """Computes the logits of a batch.

        Args:
          images: [N, 28, 28, 1], floating point.
          keys: one PRNG key per image, for the dropout masks in training. One per image instead of
            one per batch makes the masks independent of how a batch is split.

        Returns:
          [N, 10].
        """
        x = images
        layers = list(self.named_layers().values())
        position = 0
        while position < len(layers):
            fused, count = _fuse(layers[position:])
            x = fused(x) if count else _apply(layers[position], x, keys, position)
            position += max(count, 1)
        return x

    def layer_outputs(self, images: jax.Array) -> Iterator[tuple[str, jax.Array]]:
        """Yields the name and output of every layer, in order and unfused, for evaluation."""
        x = images
        for position, (name, layer) in enumerate(self.named_layers().items()):
            x = _apply(layer, x, None, position)
            yield name, x

    def named_layers(self) -> dict[str, Layer]:
        """The layers by name, in order."""
        return {name: getattr(self, name) for name in self.layer_names}


class Residual(Network):
    """Adds its input to the output of its layers, which must have the same shape."""

    def __call__(self, images: jax.Array, *, keys: jax.Array | None = None) -> jax.Array:
        """Images [N, H, W, C] to the same shape; `keys` as in `Network`."""
        return images + super().__call__(images, keys=keys)


def _apply(layer: Layer, x: jax.Array, keys: jax.Array | None, position: int) -> jax.Array:
    if isinstance(layer, Network) and keys is not None:
        return layer(x, keys=_fold_in(keys, position))
    if not isinstance(layer, Dropout) or layer.deterministic or not layer.rate:
        return layer(x)
    if keys is None:
        raise ValueError("A network with dropout needs `keys` in training; see Network.__call__.")
    return layer.masked(x, _fold_in(keys, position))


def _fold_in(keys: jax.Array, position: int) -> jax.Array:
    """Derives a layer's keys, so that the masks of dropout layers differ."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, position)


def in_evaluation(network: Network) -> Network:
    """The network with dropout off and BatchNorm's running statistics."""
    return nnx.view(network, deterministic=True, use_running_average=True, raise_if_not_found=False)


def check_trainable(network: Network) -> None:
    """Checks that training can pass keys to all parts of a network and split batches over devices.

    Raises:
      UsageError: a module draws random numbers or keeps state in another way than `Dropout` and
        `BatchNorm` here.
    """
    modules = dict(nnx.iter_modules(network))
    for path, module in modules.items():
        above = [modules.get(path[:depth]) for depth in range(len(path))]
        if isinstance(module, nnx.Dropout) and not (
            isinstance(module, Dropout) and all(isinstance(owner, Network) for owner in above)
        ):
            raise UsageError(
                f"Dropout at {dotted(path)} would get no keys; use"
                " `mnist_jax.models.layers.Dropout`, as a layer of a `Network`."
            )
        if isinstance(module, Network) and "keys" not in inspect.signature(module).parameters:
            raise UsageError(
                f"The network at {dotted(path) or 'the top'} takes no keys; write"
                " `def __call__(self, images, *, keys=None)` and pass them on."
            )
        if isinstance(module, nnx.BatchNorm) and not isinstance(module, BatchNorm):
            raise UsageError(
                f"BatchNorm at {dotted(path)} would not see the whole batch when it is split;"
                " use `mnist_jax.models.layers.BatchNorm`."
            )
    for path, variable in nnx.to_flat_state(nnx.state(network)):
        if isinstance(variable, nnx.Param) or isinstance(modules.get(path[:-1]), BatchNorm):
            continue
        raise UsageError(
            f"{dotted(path)} is a {type(variable).__name__}; a network may only have parameters"
            " (nnx.Param) and the statistics of `mnist_jax.models.layers.BatchNorm`."
        )


def dotted(path: Iterable[object]) -> str:
    """A path in a network as a dotted name, such as `block.conv.kernel`."""
    return ".".join(map(str, path))


def _fuse(layers: list[Layer]) -> tuple[Layer, int]:
    """Fuses a convolution and the max-pool after it at the start of `layers`.

    Bias and a non-decreasing activation commute with the maximum, so they can be applied after it,
    to a quarter of the elements.

    Returns:
      A function for the first layers, and how many it replaces: 0 if nothing matches.
    """
    match layers:
        case [Conv(strides=1) as convolution, MaxPool(padding=0) as pool, *_] if _are_plain(
            convolution, pool
        ):
            return convolution.max_pooled, 2
        case [Conv(strides=1) as convolution, activation, MaxPool(padding=0) as pool, *_] if (
            activation in ACTIVATIONS.values() and _are_plain(convolution, pool)
        ):
            return lambda x: activation(convolution.max_pooled(x)), 3
    return layers[0], 0


def _are_plain(convolution: Conv, pool: MaxPool) -> bool:
    """Whether they are exactly of these classes: a subclass may compute something else."""
    return type(convolution) is Conv and type(pool) is MaxPool
