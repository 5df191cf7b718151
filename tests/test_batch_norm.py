"""Batch normalisation, compared with its definition as differentiated by JAX."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mnist_jax.kernels.batch_norm import batch_norm
from mnist_jax.models.layers import BatchNorm

EPSILON = 1e-5


def definition(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    mean, var = x.mean((0, 1, 2), keepdims=True), x.var((0, 1, 2), keepdims=True)
    normal = (x - mean) / jnp.sqrt(var + EPSILON)
    return normal * scale.reshape(1, 1, 1, -1) + bias.reshape(1, 1, 1, -1)


def ours(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    return batch_norm(x, scale, bias, epsilon=EPSILON)[0]


def test_values_and_gradients_match_the_definition() -> None:
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x = jnp.asarray(3 + 2 * rng.normal(size=(6, 5, 4, 3)))
        scale, bias = jnp.asarray(rng.normal(size=(2, 3)))
        grad = jnp.asarray(rng.normal(size=x.shape))

        def value_and_gradients(function: Callable[..., jax.Array]) -> list[jax.Array]:
            y, pullback = jax.vjp(function, x, scale, bias)
            return [y, *pullback(grad)]

        results = []
        for function in (ours, definition):
            results.append(jax.jit(value_and_gradients, static_argnums=0)(function))
        for actual, expected in zip(*results, strict=True):
            assert actual.dtype == jnp.float64
            np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-12)


def test_gradients_have_the_types_of_the_arguments() -> None:
    with jax.enable_x64(True):
        kinds = (jnp.float32, jnp.float64, jnp.float32)
        x, scale, bias = (jnp.ones(s, k) for s, k in zip(((4, 3, 3, 2), 2, 2), kinds, strict=True))
        y, pullback = jax.vjp(ours, x, scale, bias)
        assert y.dtype == jnp.float64
        assert tuple(one.dtype for one in pullback(y)) == kinds
        layer = BatchNorm(2, rngs=nnx.Rngs(0))
        layer(x.astype(jnp.float64))
        assert layer.mean.dtype == layer.scale.dtype


def test_statistics_are_those_of_the_batch_and_not_differentiated() -> None:
    x = jnp.asarray(np.random.default_rng(0).normal(1, size=(4, 3, 3, 2)), jnp.float32)
    ones, zeros = jnp.ones(2), jnp.zeros(2)
    _, mean, var = batch_norm(x, ones, zeros, epsilon=EPSILON)
    np.testing.assert_allclose(mean, x.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(var, x.var((0, 1, 2)), rtol=1e-5)
    statistics = jax.jit(jax.jacobian(lambda x: batch_norm(x, ones, zeros, epsilon=EPSILON)[1:]))
    for gradient in statistics(x):
        assert not np.any(gradient)


def test_on_an_accelerator_nothing_is_transposed_and_results_are_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = jax.random.split(jax.random.key(0), 3)
    x = 3 + 2 * jax.random.normal(keys[0], (6, 5, 4, 3))
    scale, bias = jax.random.normal(keys[1], (2, 3))
    grad = jax.random.normal(keys[2], x.shape)

    def step(*args: jax.Array) -> tuple[jax.Array, ...]:
        y, pullback = jax.vjp(ours, *args)
        return y, *pullback(grad)

    on_cpu = step(x, scale, bias)
    # A new function each time, because JAX caches traces.
    traced = str(jax.make_jaxpr(lambda *args: step(*args))(x, scale, bias))
    assert "transpose" in traced
    assert "optimization_barrier" in traced
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    traced = str(jax.make_jaxpr(lambda *args: step(*args))(x, scale, bias))
    assert "transpose" not in traced
    assert "optimization_barrier" not in traced
    for actual, expected in zip(step(x, scale, bias), on_cpu, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
