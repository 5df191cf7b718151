"""Second derivatives, compared with finite differences of the first."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.flatten_util import ravel_pytree

import mnist_jax
from experiments.references.ours import make_network
from mnist_jax.models import model_names
from mnist_jax.models.layers import (
    BatchNorm,
    Conv,
    Dropout,
    Linear,
    MaxPool,
    Network,
    Residual,
    avg_pool,
    flatten,
    max_pool,
    relu,
)
from mnist_jax.training import TrainState
from mnist_jax.training.step import gradients

_IMAGES = np.random.default_rng(0).random((6, 28, 28, 1))


def _every_layer() -> Network:
    """Every kind of layer, in the configurations that have an implementation of their own."""
    rngs = nnx.Rngs(0)
    return Network(
        pool1=MaxPool(padding=1),
        conv1=Conv(1, 3, 4, rngs=rngs),
        pool2=max_pool,
        norm=BatchNorm(3, rngs=rngs),
        act=relu,
        conv2=Conv(3, 4, 3, padding=1, rngs=rngs),
        res=Residual(conv=Conv(4, 4, 3, padding="SAME", rngs=rngs), act=relu),
        pool3=avg_pool,
        flatten=flatten,
        dropout=Dropout(0.5),
        out=Linear(36, 10, rngs=rngs),
    )


def _check_hessian_vector_products(network: Network) -> None:
    state = TrainState.create(network, optax.sgd(1.0), key=jax.random.key(1))
    state = jax.tree.map(lambda a: a.astype(float) if a.dtype == jnp.float32 else a, state)
    images, labels = jnp.asarray(_IMAGES), jnp.arange(len(_IMAGES))
    start, unravel = ravel_pytree(state.params)
    direction = np.random.default_rng(1).standard_normal(len(start))
    direction /= np.linalg.norm(direction)

    def gradient(params: jax.Array) -> jax.Array:
        new = state.replace(params=unravel(params))
        return ravel_pytree(gradients(new, images, labels, None, len(labels), False)[0])[0]

    @jax.jit
    def forward_over_reverse(params: jax.Array) -> Any:
        return jax.jvp(gradient, (params,), (direction,))[1]

    @jax.jit
    @partial(jax.grad, has_aux=True)
    def reverse_over_reverse(params: jax.Array) -> Any:
        slope = gradient(params)
        return slope @ direction, slope

    with mnist_jax.differentiable():
        product = forward_over_reverse(start)
        other, slope = reverse_over_reverse(start)
    np.testing.assert_allclose(other, product, atol=1e-12)
    # Outside `differentiable`, the faster rules give the same gradients.
    fast = jax.jit(gradient)
    np.testing.assert_allclose(slope, fast(start), atol=1e-12)
    step = 1e-6 * direction
    differences = (fast(start + step) - fast(start - step)) / 2e-6
    error = np.linalg.norm(product - differences) / np.linalg.norm(product)
    assert error < 1e-6


def test_every_layer_has_second_derivatives() -> None:
    with jax.enable_x64(True):
        _check_hessian_vector_products(_every_layer())


@pytest.mark.slow
@pytest.mark.parametrize("name", model_names())
def test_every_network_has_second_derivatives(name: str) -> None:
    with jax.enable_x64(True):
        _check_hessian_vector_products(make_network(name, np.float64))


def test_functions_traced_outside_differentiable_are_traced_again_inside() -> None:
    network = make_network("lenet", np.float32)
    function = jax.jit(lambda images: network(images))
    images = jnp.asarray(_IMAGES, jnp.float32)
    outputs = function(images)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(function, (images,), (images,))
    with mnist_jax.differentiable():
        again, tangents = jax.jvp(function, (images,), (images,))
    np.testing.assert_allclose(again, outputs, atol=1e-5)
    assert np.isfinite(tangents).all()
    assert np.any(tangents)
