"""The articles' initialisation schemes, one function each.

A scheme takes the key and shape of a layer's kernel ([kh, kw, in, out] or [in, out]) and returns
the layer's kernel and bias: PyTorch's biases depend on the kernel's fan-in, so the two belong
together.
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from mnist_jax.errors import UsageError

Initializer = Callable[[jax.Array, tuple[int, ...]], tuple[jax.Array, jax.Array]]


def torch_default(key: jax.Array, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Draws kernel and bias from U(-1/√fan_in, 1/√fan_in), as PyTorch's Conv2d and Linear do."""
    kernel_key, bias_key = jax.random.split(key)
    bound = math.prod(shape[:-1]) ** -0.5
    uniform = partial(jax.random.uniform, minval=-bound, maxval=bound)
    return uniform(kernel_key, shape), uniform(bias_key, shape[-1:])


def xavier_uniform(key: jax.Array, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Draws the kernel from Xavier's uniform distribution and the bias as PyTorch does."""
    _, bias = torch_default(key, shape)
    return nnx.initializers.xavier_uniform()(jax.random.split(key)[0], shape), bias


def keras_default(key: jax.Array, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Draws the kernel from Xavier's uniform distribution and sets the bias to 0, as in Keras."""
    return nnx.initializers.xavier_uniform()(key, shape), jnp.zeros(shape[-1:])


def nielsen(key: jax.Array, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Draws the kernel from N(0, 1/n_out) and the bias from N(0, 1) (article A, `network3.py`).

    For a convolution n_out is filters·kh·kw / 4, the 4 being the area of the pooling window.
    """
    kernel_key, bias_key = jax.random.split(key)
    receptive_field = math.prod(shape[:-2])
    n_out = shape[-1] * receptive_field / (4 if len(shape) == 4 else 1)
    normal = jax.random.normal
    return normal(kernel_key, shape) * n_out**-0.5, normal(bias_key, shape[-1:])


def zeros(key: jax.Array, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Sets kernel and bias to zero, as in article A's softmax layer."""
    del key
    return jnp.zeros(shape), jnp.zeros(shape[-1:])


_INITIALIZERS: dict[str, Initializer] = {
    "torch": torch_default,
    "xavier": xavier_uniform,
    "keras": keras_default,
    "nielsen": nielsen,
    "zeros": zeros,
}


def get_initializer(name: str) -> Initializer:
    """Finds a scheme: `torch`, `xavier`, `keras`, `nielsen` or `zeros`.

    Raises:
      UsageError: the name is none of them.
    """
    if name not in _INITIALIZERS:
        raise UsageError(f"init is {name!r}; give one of {', '.join(_INITIALIZERS)}.")
    return _INITIALIZERS[name]
