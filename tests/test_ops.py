"""The CPU's convolutions and pooling against XLA's own operations."""

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from experiments.references.ours import make_network
from mnist_jax.kernels import ops
from mnist_jax.kernels.differentiation import differentiable
from mnist_jax.kernels.ops import Padding
from mnist_jax.models import abstract_model, model_names
from mnist_jax.models.layers import (
    ACTIVATIONS,
    Conv,
    Linear,
    Network,
    flatten,
    in_evaluation,
    max_pool,
    relu,
)
from mnist_jax.models.summary import summarize

Array = jax.Array


def conv_layers(*, pooled: bool) -> list[Any]:
    """Every convolution of every network: kernel shape, padding, strides and side of the input.

    Slow ones: those that no network uses with a max-pool (`pooled`) or without one, and large ones
    with a max-pool.
    """
    found: dict[tuple[Any, ...], str] = {}
    followed = set()
    for name in model_names():
        model = abstract_model(name)
        side = 28
        layers = list(model.named_layers().values())
        for i, (summary, layer) in enumerate(zip(summarize(model), layers, strict=True)):
            after = next((one for one in layers[i + 1 :] if one not in ACTIVATIONS.values()), None)
            modules = nnx.iter_modules(layer) if isinstance(layer, nnx.Module) else ()
            for _, conv in modules:
                if isinstance(conv, Conv):
                    shapes = (conv.kernel.shape, conv.padding, conv.strides, side)
                    found[shapes] = f"{name}.{summary.name}"
                    followed.add((shapes, layer is conv and after == max_pool))
            side = summary.output_shape[1]
    # Large ones are computed in the same way as others, but take longer to compile.
    quick = {
        shapes
        for shapes, before_pool in followed
        if before_pool == pooled and not (pooled and shapes[0][2] >= 128)
    }
    return [
        pytest.param(*shapes, id=where, marks=[pytest.mark.slow] * (shapes not in quick))
        for shapes, where in found.items()
    ]


def normal(seed: int, shape: tuple[int, ...]) -> Array:
    """Normal noise from NumPy, since JAX would compile a program for each shape."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def plain_conv(x: Array, kernel: Array, padding: Padding, strides: int = 1) -> Array:
    pads = padding if padding == "SAME" else [(padding, padding)] * 2
    return lax.conv_general_dilated(
        x, kernel, (strides, strides), pads, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def plain_max_pool(x: Array, padding: Padding = 0) -> Array:
    pads = padding if padding == "SAME" else [(0, 0), *[(padding, padding)] * 2, (0, 0)]
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), pads)


def relative_error(actual: Array, expected: Array) -> float:
    return float(np.linalg.norm(np.asarray(actual) - expected) / np.linalg.norm(expected))


def assert_same_values_and_gradients(
    ours: Callable[..., Array], plain: Callable[..., Array], *args: Array, limit: float = 2e-6
) -> None:
    def value_and_gradients(function: Callable[..., Array]) -> list[Array]:
        out, pullback = jax.vjp(function, *args)
        return [out, *pullback(normal(9, out.shape))]

    actual = jax.jit(value_and_gradients, static_argnums=0)(ours)
    expected = jax.jit(value_and_gradients, static_argnums=0)(plain)
    for a, e in zip(actual, expected, strict=True):
        assert a.shape == e.shape
        assert relative_error(a, e) < limit


def tolerance(kernel: tuple[int, int, int, int]) -> float:
    """A convolution's tolerance, which is larger where `winograd_2d` computes it."""
    return 5e-6 if kernel[2] >= 128 else 2e-6


@pytest.mark.parametrize(("kernel", "padding", "strides", "side"), conv_layers(pooled=False))
def test_convolution_agrees_with_xla(
    kernel: tuple[int, int, int, int], padding: Padding, strides: int, side: int
) -> None:
    x = normal(0, (5 if side * kernel[2] < 1000 else 2, side, side, kernel[2]))
    w = normal(1, kernel)

    assert_same_values_and_gradients(
        lambda x, w: ops.conv(x, w, padding=padding, strides=strides),
        lambda x, w: plain_conv(x, w, padding, strides),
        x,
        w,
        limit=tolerance(kernel),
    )


@pytest.mark.parametrize("padding", [0, 1, "SAME"])
@pytest.mark.parametrize(("size", "strides", "side"), [(5, 2, 8), (2, 2, 9), (3, 3, 8), (1, 2, 9)])
def test_strided_convolution_agrees_with_xla(
    size: int, strides: int, side: int, padding: Padding
) -> None:
    x = normal(0, (2, side, side + 1, 3))
    w = normal(1, (size, size, 3, 4))
    assert_same_values_and_gradients(
        lambda x, w: ops.conv(x, w, padding=padding, strides=strides),
        lambda x, w: plain_conv(x, w, padding, strides),
        x,
        w,
    )


@pytest.mark.parametrize(("kernel", "padding", "strides", "side"), conv_layers(pooled=True))
def test_convolution_with_max_pool_agrees_with_xla(
    kernel: tuple[int, int, int, int], padding: Padding, strides: int, side: int
) -> None:
    if strides > 1 or (side == kernel[0] > 1 and not padding):
        pytest.skip("pooling after a stride is not fused, and a single pixel is not pooled")
    x = normal(0, (5 if side * kernel[2] < 1000 else 2, side, side, kernel[2]))
    w = normal(1, kernel)
    assert_same_values_and_gradients(
        lambda x, w: ops.conv_max_pool(x, w, padding=padding),
        lambda x, w: plain_max_pool(plain_conv(x, w, padding)),
        x,
        w,
        limit=tolerance(kernel),
    )


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [8, 9])
@pytest.mark.parametrize("operation", [ops.conv, ops.conv_max_pool])
def test_chunks_under_vmap_give_the_batch(
    operation: Callable[..., Array], side: int, channels: int
) -> None:
    x = normal(0, (6, side, side, channels))
    w = normal(1, (3, 3, channels, 4))

    def chunked(x: Array, w: Array) -> Array:
        y = jax.vmap(lambda chunk: operation(chunk, w, padding=1))(x.reshape(3, 2, *x.shape[1:]))
        return y.reshape(6, *y.shape[2:])

    assert_same_values_and_gradients(chunked, lambda x, w: operation(x, w, padding=1), x, w)
    # Sequential unless im2col's matrix is small: see `_phase_conv_max_pool`.
    small = operation is ops.conv_max_pool and channels == 1 and side % 2 == 0
    assert ("scan" in str(jax.make_jaxpr(chunked)(x, w))) != small


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name not in {"lenet", "batchnorm_cnn"}))
        for name in model_names()
    ],
)
def test_accelerators_compute_the_same_network(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = in_evaluation(make_network(name, np.float32))
    images = normal(0, (2, 28, 28, 1))

    def outputs(images: Array) -> list[Array]:
        return [model(images), *(y for _, y in model.layer_outputs(images))]

    expected = jax.jit(outputs)(images)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    # A new function, because JAX caches traces.
    for a, e in zip(jax.jit(lambda x: outputs(x))(images), expected, strict=True):
        assert relative_error(a, e) < 1e-5


@pytest.mark.parametrize("padding", [0, 1, "SAME"])
@pytest.mark.parametrize("side", [6, 7])
def test_max_pool_agrees_with_xla(side: int, padding: Padding) -> None:
    x = normal(0, (3, side, side, 4))
    assert_same_values_and_gradients(
        lambda x: ops.max_pool(x, padding=padding), lambda x: plain_max_pool(x, padding), x
    )


@pytest.mark.parametrize("side", [6, 7])
def test_avg_pool_averages_windows_and_drops_an_odd_row_and_column(side: int) -> None:
    x = np.random.default_rng(0).normal(size=(2, side, side, 3)).astype(np.float32)
    even = x[:, :6, :6].reshape(2, 3, 2, 3, 2, 3)
    np.testing.assert_allclose(
        ops.avg_pool(jnp.asarray(x)), even.mean((2, 4)), rtol=1e-6, atol=1e-7
    )


@pytest.mark.parametrize("operation", [ops.avg_pool, ops.global_avg_pool, ops.flatten])
def test_accelerators_do_not_transpose(
    operation: Callable[[Array], Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = normal(0, (2, 7, 7, 3))
    on_cpu = operation(x)
    # New functions, because JAX caches traces.
    assert "transpose" in str(jax.make_jaxpr(lambda x: operation(x))(x))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert "transpose" not in str(jax.make_jaxpr(lambda x: operation(x))(x))
    np.testing.assert_allclose(operation(x), on_cpu, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("features", [10, 1000])
def test_linear_is_a_matrix_product(features: int) -> None:
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(7, 600)))
    kernel = jnp.asarray(rng.normal(size=(600, features)))
    assert_same_values_and_gradients(ops.linear, jnp.matmul, x, kernel)


def test_gradient_of_ties_goes_to_the_first_maximum() -> None:
    x = jnp.ones((1, 4, 4, 1))
    grad = jax.grad(lambda x: ops.max_pool(x).sum())(x)
    expected = np.zeros((4, 4))
    expected[::2, ::2] = 1
    np.testing.assert_array_equal(grad[0, :, :, 0], expected)
    np.testing.assert_array_equal(grad, jax.grad(lambda x: plain_max_pool(x).sum())(x))


@pytest.mark.parametrize("channels", [1, 2])
def test_gradient_of_ties_after_a_convolution_goes_to_the_first_maximum(channels: int) -> None:
    # A blank image gives equal outputs, and the first of each window gets the gradient.
    x = jnp.zeros((1, 8, 8, channels)).at[0, 0, 0, 0].set(1.0)
    w = jnp.ones((3, 3, channels, 2))
    ours = jax.grad(lambda w: ops.conv_max_pool(x, w).sum())
    plain = jax.grad(lambda w: plain_max_pool(plain_conv(x, w, 0)).sum())
    np.testing.assert_array_equal(jax.jit(ours)(w), jax.jit(plain)(w))


@pytest.mark.parametrize("channels", [1, 2])
def test_nan_propagates_through_a_pooled_convolution(channels: int) -> None:
    x = jnp.zeros((2, 8, 8, channels)).at[1, 3, 3, 0].set(jnp.nan)
    out = ops.conv_max_pool(x, jnp.ones((3, 3, channels, 2)))
    assert bool(jnp.isnan(out[1]).any())
    assert not bool(jnp.isnan(out[0]).any())


def test_strided_convolution_in_a_network_is_pooled_after_its_stride() -> None:
    @jax.jit
    def outputs(images: Array) -> tuple[Array, Array]:
        conv = Conv(1, 2, 3, strides=2, rngs=nnx.Rngs(0))
        return Network(conv=conv, act=relu, pool=max_pool)(images), max_pool(relu(conv(images)))

    fused, unfused = outputs(normal(0, (2, 28, 28, 1)))
    np.testing.assert_array_equal(fused, unfused)


@pytest.mark.parametrize("last", [{"pool": max_pool}, {"act": relu, "pool": max_pool}])
def test_subclass_of_conv_is_not_fused_with_the_pooling(last: dict[str, Any]) -> None:
    class Negative(Conv):
        def __call__(self, inputs: Array) -> Array:  # type: ignore[override]
            return -super().__call__(inputs)

    model = Network(conv=Negative(1, 2, 5, rngs=nnx.Rngs(0)), **last)
    images = normal(0, (2, 28, 28, 1))
    *_, (_, unfused) = model.layer_outputs(images)
    np.testing.assert_array_equal(model(images), unfused)


def test_network_equals_its_layers_one_by_one() -> None:
    model = make_network("dbl_conv", np.float32)

    @jax.jit
    def outputs(images: Array) -> tuple[Array, Array]:
        *_, (_, unfused) = model.layer_outputs(images)
        return model(images), unfused

    fused, unfused = outputs(normal(0, (4, 28, 28, 1)))
    np.testing.assert_allclose(fused, unfused, rtol=1e-5, atol=1e-6)


class Odd(Network):
    """Flax's convolutions with strides, dilation and groups, some of which `Conv` lacks."""

    def __init__(self, rngs: nnx.Rngs):
        super().__init__(
            conv1=nnx.Conv(1, 4, (4, 4), strides=2, padding="SAME", rngs=rngs),
            act1=relu,
            pool1=max_pool,
            conv2=nnx.Conv(
                4, 6, (2, 3), padding=1, kernel_dilation=2, feature_group_count=2, rngs=rngs
            ),
            pool2=max_pool,
            flatten=flatten,
            out=Linear(3 * 3 * 6 - 18, 10, rngs=rngs),
        )  # fmt: skip


@pytest.mark.parametrize("context", [contextlib.nullcontext, differentiable])
@pytest.mark.parametrize("function", [ops.conv, ops.conv_max_pool])
@pytest.mark.parametrize("channels", [1, 2, 128])  # Every algorithm.
def test_convolution_promotes_types_and_its_gradients_have_those_of_the_arguments(
    channels: int,
    function: Callable[[Array, Array], Array],
    context: Callable[[], contextlib.AbstractContextManager[None]],
) -> None:
    with jax.enable_x64(True), context():
        images = jnp.ones((10, 10, 10, channels), jnp.float32)
        kernel = jnp.full((3, 3, channels, 2), 0.1, jnp.float64)
        outputs, backward = jax.vjp(function, images, kernel)
        gradients = backward(jnp.ones_like(outputs))
    assert outputs.dtype == jnp.float64
    np.testing.assert_allclose(outputs, np.full_like(outputs, 0.9 * channels), rtol=1e-13)
    assert [one.dtype for one in gradients] == [jnp.float32, jnp.float64]


def test_bias_promotes_types_and_its_gradient_has_its_own() -> None:
    with jax.enable_x64(True):
        images, bias = jnp.ones((2, 3, 3, 4), jnp.float64), jnp.ones(4, jnp.float32)
        outputs, backward = jax.vjp(ops.add_bias, images, bias)
        assert outputs.dtype == jnp.float64
        assert [one.dtype for one in backward(outputs)] == [jnp.float64, jnp.float32]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize(("side", "channels"), [(5, 20), (3, 128)])  # Winograd's, in float32.
def test_half_precision_is_as_accurate_as_xla(side: int, channels: int, dtype: Any) -> None:
    x = normal(0, (10, 14, 14, channels)).astype(dtype)
    kernel = (normal(1, (side, side, channels, 16)) / (side * channels**0.5)).astype(dtype)
    exact = plain_conv(x.astype(jnp.float32), kernel.astype(jnp.float32), 0)
    ours, xla = ops.conv(x, kernel), plain_conv(x, kernel, 0)
    assert jnp.abs(ours - exact).max() < 2 * jnp.abs(xla - exact).max()


def test_network_with_flax_s_own_convolutions_trains() -> None:
    model = Odd(nnx.Rngs(0))
    images = normal(0, (32, 28, 28, 1))
    labels = jnp.arange(32) % 10
    graphdef, params = nnx.split(model, nnx.Param)
    params = nnx.as_pure(params)

    @jax.jit
    def loss_and_grad(params: nnx.State) -> tuple[Array, nnx.State]:
        def loss(params: nnx.State) -> Array:
            log_p = jax.nn.log_softmax(nnx.merge(graphdef, params)(images))
            return -jnp.mean(jnp.take_along_axis(log_p, labels[:, None], 1))

        return jax.value_and_grad(loss)(params)

    losses = []
    for _ in range(40):
        loss, grads = loss_and_grad(params)
        params = jax.tree.map(lambda p, g: p - 0.2 * g, params, grads)
        losses.append(float(loss))
    assert losses[-1] < 0.5 * losses[0]
