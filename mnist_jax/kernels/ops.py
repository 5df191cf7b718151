"""Convolution, pooling and dense layers as pure functions, lowered per backend.

Images are [N, H, W, C]. Every function computes the same on every backend; only the implementation
differs. GPUs and TPUs use XLA's own convolution and pooling, in its default precision. On a CPU,
inside a compiled loop, XLA computes a convolution's gradients naively, so there each contraction
(forward, kernel gradient, input gradient) is a sequence of matrix products, by `winograd_2d`,
`winograd` or `im2col`. Activations are then [C, H, W, N]; the necessary transpositions cancel
between neighbouring operations. These implementations only have first derivatives in reverse mode;
within `differentiable`, XLA's own operations are used on a CPU, too.
"""

import itertools
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Literal, TypeAlias, cast

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import sequential_vmap

from mnist_jax.kernels import im2col, winograd, winograd_2d
from mnist_jax.kernels.xla_cpu import channel_sums, lower_for_cpu, materialize, unfused

# Rows and columns added on every side; or `SAME`: as many as give 1/stride of the size, rounded up,
# with the odd one after the image.
Padding: TypeAlias = int | Literal["SAME"]

_Pair: TypeAlias = tuple[jax.Array, jax.Array]
_Triple: TypeAlias = tuple[jax.Array, jax.Array, jax.Array]

# Elements in a dense layer's kernel from which on `linear` transposes its input, as measured.
_LARGE_KERNEL = 500_000


def conv(x: jax.Array, kernel: jax.Array, *, padding: Padding = 0, strides: int = 1) -> jax.Array:
    """Cross-correlates.

    Args:
      x: images [N, H, W, C].
      kernel: [kh, kw, C, O].
      padding: zeros around the images.
      strides: rows and columns from one window to the next.

    Returns:
      [N, (H + 2 padding - kh) // strides + 1, (W + 2 padding - kw) // strides + 1, O].
    """
    x, kernel = _promoted(x, kernel)
    pads = _pads(x, kernel.shape[:2], padding, strides)
    if not lower_for_cpu():
        return _conv_xla(x, kernel, pads, strides)
    phases = _phases(_pad_images(_to_chwn(x), pads), kernel, strides)
    return _from_chwn(cast(jax.Array, sum(_conv_cpu(*phase) for phase in phases)))


def conv_max_pool(x: jax.Array, kernel: jax.Array, *, padding: Padding = 0) -> jax.Array:
    """`max_pool` of `conv` with stride 1, whose arguments it takes, in one operation."""
    x, kernel = _promoted(x, kernel)
    pads = _pads(x, kernel.shape[:2], padding, 1)
    if not lower_for_cpu():
        return max_pool(_conv_xla(x, kernel, pads, 1))
    x = _pad_images(_to_chwn(x), pads)
    height, width = (x.shape[i + 1] - kernel.shape[i] + 1 for i in (0, 1))
    if x.shape[0] == 1 and not any(side % 2 for side in (height, width, *x.shape[1:3])):
        return _from_chwn(_phase_conv_max_pool(x, kernel))
    return _from_chwn(_conv_max_pool_cpu(x, kernel))


def max_pool(x: jax.Array, *, padding: Padding = 0) -> jax.Array:
    """Takes the maximum of every 2×2 window of [N, H, W, C].

    The gradient goes to the first of equal elements in row order, and an odd last row or column is
    dropped, as in XLA and PyTorch. After a convolution, elements that are equal but for rounding
    may be equal in one algorithm and not in another.

    Args:
      x: images [N, H, W, C].
      padding: -inf around the images.

    Returns:
      [N, (H + 2 padding) // 2, (W + 2 padding) // 2, C].
    """
    pads = _pads(x, (2, 2), padding, 2)
    if lower_for_cpu():
        return _from_chwn(_max_pool_cpu(_pad_images(_to_chwn(x), pads, -jnp.inf)))
    pads = [(0, 0), *pads, (0, 0)]
    y: jax.Array = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), pads)
    return y


def avg_pool(x: jax.Array) -> jax.Array:
    """Averages every 2×2 window: [N, H, W, C] to [N, H // 2, W // 2, C]."""
    if not lower_for_cpu():
        return _windows(x).mean((2, 4))
    return _from_chwn(_windows(_to_chwn(x)).mean((2, 4)))


def global_avg_pool(x: jax.Array) -> jax.Array:
    """Averages every channel of an image: [N, H, W, C] to [N, C]."""
    return _to_chwn(x).mean((1, 2)).T if lower_for_cpu() else x.mean((1, 2))


def flatten(x: jax.Array) -> jax.Array:
    """[N, H, W, C] to [N, H·W·C]."""
    # Images straight from the dataset have the image axis outermost on a CPU, too.
    if x.shape[-1] == 1 or not lower_for_cpu():
        return x.reshape(x.shape[0], -1)
    # Via [H·W·C, N]: the same values, with the image axis innermost.
    return x.transpose(1, 2, 3, 0).reshape(-1, x.shape[0]).T


def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """Adds a bias [C] to every pixel of [N, H, W, C]."""
    x, bias = _promoted(x, bias)
    if lower_for_cpu():
        return _from_chwn(_add_bias_cpu(_to_chwn(x), bias))
    return x + bias.reshape(1, 1, 1, -1)


def linear(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Multiplies [N, I] with [I, O] to [N, O]."""
    if lower_for_cpu() and kernel.size >= _LARGE_KERNEL:
        # The gradient of `x` is then (kernel @ gradient.T).T, which XLA computes faster than
        # gradient @ kernel.T.
        x = materialize(x.T).T
    return x @ kernel


def transpose(x: jax.Array) -> jax.Array:
    """[N, M] to [M, N], floating point."""
    if not lower_for_cpu():
        return x.T
    # XLA would fuse a transposition into every consumer, which then gathers single elements.
    return lax.dot_general(x, jnp.eye(len(x), dtype=x.dtype), (((0,), (0,)), ((), ())))


def _promoted(x: jax.Array, other: jax.Array) -> _Pair:
    """Both with the type of their product or sum.

    `@` and `+` promote, but XLA's convolution and custom gradients don't.
    """
    dtype = jnp.promote_types(x.dtype, other.dtype)
    return x.astype(dtype), other.astype(dtype)


def _pads(
    x: jax.Array, window: tuple[int, ...], padding: Padding, strides: int
) -> list[tuple[int, int]]:
    """The padding (before, after) of rows and of columns for images [N, H, W, C]."""
    if padding != "SAME":
        return [(padding, padding)] * 2
    pads: list[tuple[int, int]] = lax.padtype_to_pads(x.shape[1:3], window, (strides,) * 2, padding)
    return pads


def _conv_xla(
    x: jax.Array, kernel: jax.Array, pads: Sequence[tuple[int, int]], strides: int
) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(strides, strides),
        padding=pads,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _to_chwn(x: jax.Array) -> jax.Array:
    return x.transpose(3, 1, 2, 0)


_from_chwn = _to_chwn  # Exchanging the outer axes is its own inverse.


def _pad_images(x: jax.Array, pads: Sequence[tuple[int, int]], value: float = 0.0) -> jax.Array:
    return jnp.pad(x, [(0, 0), *pads, (0, 0)], constant_values=value)


def _phases(x: jax.Array, kernel: jax.Array, strides: int) -> Iterator[_Pair]:
    """Decomposes a strided convolution of [C, H, W, N] into stride-1 convolutions to be summed.

    Pixels meet only those taps whose indices have the same remainders modulo the stride.
    """
    if strides == 1:
        yield x, kernel  # Without a copy.
        return
    outputs = [(x.shape[1 + side] - kernel.shape[side]) // strides + 1 for side in (0, 1)]
    sides = (range(min(strides, taps)) for taps in kernel.shape[:2])
    for i, j in itertools.product(*sides):
        taps = kernel[i::strides, j::strides]
        height, width = (
            some + side - 1 for some, side in zip(outputs, taps.shape[:2], strict=True)
        )
        yield materialize(x[:, i::strides, j::strides][:, :height, :width]), taps


@jax.custom_vjp
def _conv_cpu(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """[C, H, W, N] with [kh, kw, C, O] to [O, H - kh + 1, W - kw + 1, N].

    Under `jax.vmap` elements are computed one after another, so that only one im2col matrix is in
    the cache at a time.
    """
    return _conv_cpu_forward(x, kernel)[0]


def _conv_cpu_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, _Pair]:
    return sequential_vmap(_correlate)(x, kernel), (x, kernel)


def _conv_cpu_backward(residuals: _Pair, grad: jax.Array) -> _Pair:
    gradients: _Pair = sequential_vmap(_correlate_gradients)(*residuals, grad)
    return gradients


_conv_cpu.defvjp(_conv_cpu_forward, _conv_cpu_backward)


def _correlate(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _algorithm(x, kernel).correlate(x, kernel)  # type: ignore[no-any-return]


def _correlate_gradients(x: jax.Array, kernel: jax.Array, grad: jax.Array) -> _Pair:
    return _algorithm(x, kernel).correlate_gradients(x, kernel, grad)  # type: ignore[no-any-return]


def _algorithm(x: jax.Array, kernel: jax.Array) -> ModuleType:
    """The fastest algorithm for images [C, H, W, N] and a kernel, as measured."""
    if x.dtype.itemsize < 4:  # Winograd's transforms would round to 16 bits, too.
        return im2col
    if winograd_2d.supports(kernel):
        return winograd_2d if winograd_2d.worthwhile(x) else im2col
    saves = winograd.supports(kernel) and winograd.worthwhile(x, kernel)
    return winograd if saves else im2col


@jax.custom_vjp
def _add_bias_cpu(x: jax.Array, bias: jax.Array) -> jax.Array:
    return x + bias[:, None, None, None]


def _add_bias_cpu_forward(x: jax.Array, bias: jax.Array) -> tuple[jax.Array, None]:
    return _add_bias_cpu(x, bias), None


def _add_bias_cpu_backward(_: None, grad: jax.Array) -> _Pair:
    return grad, channel_sums(grad)


_add_bias_cpu.defvjp(_add_bias_cpu_forward, _add_bias_cpu_backward)


def _first_max(candidates: Sequence[jax.Array]) -> _Pair:
    """The elementwise maximum of four arrays and the index of the first that attains it."""
    a, b, c, d = candidates
    maximum = jnp.maximum(jnp.maximum(a, b), jnp.maximum(c, d))
    index = jnp.where(a == maximum, 0, jnp.where(b == maximum, 1, jnp.where(c == maximum, 2, 3)))
    return maximum, index


def _windows(x: jax.Array) -> jax.Array:
    """The 2×2 windows of [A, H, W, B], without an odd last row or column: [A, h, 2, w, 2, B]."""
    a, height, width, b = x.shape
    even = x[:, : height // 2 * 2, : width // 2 * 2]
    return even.reshape(a, height // 2, 2, width // 2, 2, b)


def _max_of_windows(x: jax.Array) -> _Pair:
    """The maximum of every 2×2 window of [C, H, W, N], and its index among the four."""
    windows = _windows(x)
    return materialize(_first_max([windows[:, :, i, :, j] for i in (0, 1) for j in (0, 1)]))


def _spread(grad: jax.Array, index: jax.Array, height: int, width: int) -> jax.Array:
    """The gradient of `_max_of_windows`'s input [C, height, width, N]."""
    channels, _, _, n = grad.shape
    phase = jnp.arange(4, dtype=index.dtype).reshape(1, 1, 2, 1, 2, 1)

    def spread(grad: jax.Array, index: jax.Array) -> jax.Array:
        return jnp.where(index[:, :, None, :, None] == phase, grad[:, :, None, :, None], 0)

    even = unfused(spread, grad, index)
    even = even.reshape(channels, height // 2 * 2, width // 2 * 2, n)
    return jnp.pad(even, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))


@jax.custom_vjp
def _max_pool_cpu(x: jax.Array) -> jax.Array:
    """2×2 maxima of [C, H, W, N]."""
    return _max_pool_cpu_forward(x)[0]


def _max_pool_cpu_forward(
    x: jax.Array,
) -> tuple[jax.Array, tuple[jax.Array, tuple[int, ...]]]:
    maximum, index = _max_of_windows(x)
    return maximum, (index, x.shape)


def _max_pool_cpu_backward(
    residuals: tuple[jax.Array, tuple[int, ...]], grad: jax.Array
) -> tuple[jax.Array]:
    index, (_, height, width, _) = residuals
    return (_spread(grad, index, height, width),)


_max_pool_cpu.defvjp(_max_pool_cpu_forward, _max_pool_cpu_backward)


@jax.custom_vjp
def _conv_max_pool_cpu(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Fuses `_conv_cpu` and `_max_pool_cpu`, so that their gradients stay in the cache."""
    return _conv_max_pool_cpu_forward(x, kernel)[0]


def _conv_max_pool_cpu_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, _Triple]:
    def one(x: jax.Array, kernel: jax.Array) -> _Pair:
        return _max_of_windows(_correlate(x, kernel))

    maximum, index = sequential_vmap(one)(x, kernel)
    return maximum, (x, kernel, index)


def _conv_max_pool_cpu_backward(residuals: _Triple, grad: jax.Array) -> _Pair:
    def one(x: jax.Array, kernel: jax.Array, index: jax.Array, grad: jax.Array) -> _Pair:
        sides = (x.shape[i + 1] - kernel.shape[i] + 1 for i in (0, 1))
        return _correlate_gradients(x, kernel, _spread(grad, index, *sides))

    gradients: _Pair = sequential_vmap(one)(*residuals, grad)
    return gradients


_conv_max_pool_cpu.defvjp(_conv_max_pool_cpu_forward, _conv_max_pool_cpu_backward)


def _phase_conv_max_pool(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Fuses `_conv_cpu` and `_max_pool_cpu` for few channels: [C, H, W, N] to [O, h, w, N].

    The four outputs in a pooling window read one (kh+1)×(kw+1) patch, so a product with four
    shifted kernels over stride-2 patches gives each of the four as a contiguous array. The kernel's
    extra zeros cost (kh+1)(kw+1)/(kh·kw) in arithmetic, which is cheap for small patches. Under
    `jax.vmap` all elements are computed at once.
    """
    kh, kw, channels, features = kernel.shape
    _, height, width, n = x.shape
    rows, columns = (height - kh + 1) // 2, (width - kw + 1) // 2
    x = x.reshape(channels, height // 2, 2, width // 2, 2, n).transpose(2, 4, 0, 1, 3, 5)
    x = materialize(x)
    x = jnp.stack([x[i % 2, :, :, i // 2 : i // 2 + rows] for i in range(kh + 1)])
    x = materialize(x)
    x = jnp.stack([x[:, j % 2, :, :, j // 2 : j // 2 + columns] for j in range(kw + 1)], 1)
    patches = materialize(x).reshape((kh + 1) * (kw + 1) * channels, -1)
    shifted = [
        jnp.pad(kernel, ((i, 1 - i), (j, 1 - j), (0, 0), (0, 0))) for i in (0, 1) for j in (0, 1)
    ]
    weights = materialize(jnp.stack(shifted, 3).reshape(-1, 4 * features))
    return _max_of_phases(weights, patches).reshape(features, rows, columns, n)


@jax.custom_vjp
def _max_of_phases(weights: jax.Array, patches: jax.Array) -> jax.Array:
    """[K, 4·O] with [K, P] to [O, P]: the maximum over the four products."""
    return _max_of_phases_forward(weights, patches)[0]


def _max_of_phases_forward(weights: jax.Array, patches: jax.Array) -> tuple[jax.Array, _Triple]:
    phases = lax.dot_general(weights, patches, (((0,), (0,)), ((), ())))
    maximum, index = _first_max([*phases.reshape(4, -1, patches.shape[1])])
    return maximum, (weights, patches, index)


def _max_of_phases_backward(residuals: _Triple, grad: jax.Array) -> _Pair:
    weights, patches, index = residuals
    phase = jnp.arange(4, dtype=index.dtype).reshape(4, 1, 1)
    spread = materialize(jnp.where(index[None] == phase, grad[None], 0))
    spread = spread.reshape(-1, grad.shape[1])
    weights_grad = materialize(lax.dot_general(spread, patches, (((1,), (1,)), ((), ())))).T
    return weights_grad, weights @ spread


_max_of_phases.defvjp(_max_of_phases_forward, _max_of_phases_backward)
