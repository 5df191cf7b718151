"""Batch normalisation against its definition, differentiated by JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnist_jax.kernels.batch_norm import batch_norm

EPSILON = 1e-5


def definition(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    mean, var = x.mean((0, 1, 2), keepdims=True), x.var((0, 1, 2), keepdims=True)
    normal = (x - mean) / jnp.sqrt(var + EPSILON)
    return normal * scale.reshape(1, 1, 1, -1) + bias.reshape(1, 1, 1, -1)


def ours(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    return batch_norm(x, scale, bias, epsilon=EPSILON)[0]


def test_values_and_gradients_are_those_of_the_definition() -> None:
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0), 4)
        x = 3 + 2 * jax.random.normal(keys[0], (6, 5, 4, 3))
        scale, bias = jax.random.normal(keys[1], (2, 3))
        grad = jax.random.normal(keys[2], x.shape)
        results = []
        for function in (ours, definition):
            y, pullback = jax.vjp(function, x, scale, bias)
            results.append([y, *pullback(grad)])
        for a, e in zip(*results, strict=True):
            assert a.dtype == jnp.float64
            np.testing.assert_allclose(a, e, rtol=1e-10, atol=1e-12)


def test_statistics_are_the_batch_s_and_constant() -> None:
    x = jax.random.normal(jax.random.key(0), (4, 3, 3, 2)) + 1
    ones, zeros = jnp.ones(2), jnp.zeros(2)
    _, mean, var = batch_norm(x, ones, zeros, epsilon=EPSILON)
    np.testing.assert_allclose(mean, x.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(var, x.var((0, 1, 2)), rtol=1e-5)
    for which in (1, 2):
        grad = jax.grad(lambda x, i=which: batch_norm(x, ones, zeros, epsilon=EPSILON)[i].sum())(x)
        assert not grad.any()


def test_an_accelerator_transposes_nothing_and_gets_the_same(
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
    # Functions of their own, because JAX remembers what it has traced.
    traced = str(jax.make_jaxpr(lambda *args: step(*args))(x, scale, bias))
    assert "transpose" in traced
    assert "optimization_barrier" in traced
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    traced = str(jax.make_jaxpr(lambda *args: step(*args))(x, scale, bias))
    assert "transpose" not in traced
    assert "optimization_barrier" not in traced
    for a, e in zip(step(x, scale, bias), on_cpu, strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-5)
