"""The benchmark's stock Flax side: the same networks with Flax's own layers and loops."""

import itertools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import lax

from experiments.contenders.job import Job, Work, share_gpu
from mnist_jax.data import Dataset
from mnist_jax.inputs import normalize
from mnist_jax.models import create_model
from mnist_jax.models.layers import (
    BatchNorm,
    Conv,
    Layer,
    Linear,
    MaxPool,
    Network,
    Residual,
    avg_pool,
    global_avg_pool,
)
from mnist_jax.training.optimizers import make_optimizer
from mnist_jax.training.step import LOSSES

# Batches on the device that the step loop of stock Flax cycles through.
_BATCHES = 256
# Images in one scan of stock Flax: a few seconds' work.
_SCANNED = 512


def build(job: Job, dataset: Dataset) -> Work:
    """Jitted steps in a Python loop as in Flax's MNIST example, or the same step in a scan.

    Uses JAX's defaults: one device, all threads. The dataset has whole batches only.
    """
    share_gpu()
    recipe = job.recipe
    model = stock(create_model(recipe.model, rngs=nnx.Rngs(0), **recipe.model_args))
    optimizer = make_optimizer(recipe, len(dataset.train) // recipe.batch_size)
    graphdef, *states = nnx.split(model, nnx.Param, ...)
    params, rest = nnx.as_pure(states)
    images = np.asarray(normalize(jnp.asarray(dataset.train.images), recipe.mean, recipe.std))
    images = images.reshape(-1, recipe.batch_size, 28, 28, 1)
    labels = dataset.train.labels.reshape(-1, recipe.batch_size)

    def step(carry: Any, batch: tuple[jax.Array, jax.Array]) -> tuple[Any, jax.Array]:
        params, rest, opt_state = carry
        images, labels = batch

        def mean_loss(params: nnx.State) -> tuple[jax.Array, nnx.State]:
            model = nnx.merge(graphdef, params, rest)
            loss = LOSSES[recipe.loss](model(images), labels).mean()
            return loss, nnx.as_pure(nnx.state(model, nnx.Not(nnx.Param)))

        (loss, rest), grads = jax.value_and_grad(mean_loss, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), rest, opt_state), loss

    carry = (params, rest, optimizer.init(params))

    if job.variant == "flax-scan":
        length = max(2, _SCANNED // recipe.batch_size)
        batches = jax.device_put((images[:length], labels[:length]))
        scan = jax.jit(partial(lax.scan, step), donate_argnums=0)

        def run_scans(steps: int) -> float:
            nonlocal carry
            scans = -(-steps // length)
            for _ in range(scans):
                carry, _ = scan(carry, batches)
            jax.block_until_ready(carry)
            return scans * len(batches[1]) * recipe.batch_size

        return run_scans

    endless = itertools.cycle(
        [jax.device_put(batch) for batch in zip(images[:_BATCHES], labels[:_BATCHES], strict=True)]
    )
    jitted = jax.jit(step, donate_argnums=0)

    def run_steps(steps: int) -> float:
        nonlocal carry
        for batch in itertools.islice(endless, steps):
            carry, _ = jitted(carry, batch)
        jax.block_until_ready(carry)
        return steps * recipe.batch_size

    return run_steps


def stock(model: Network) -> nnx.Sequential:
    """The same network from Flax's own layers, with fresh parameters, in training mode."""
    rngs = nnx.Rngs(0)
    return nnx.Sequential(*(_stock(layer, rngs) for layer in model.named_layers().values()))


class _Residual(nnx.Sequential):
    def __call__(self, x: jax.Array) -> jax.Array:  # type: ignore[override]
        return x + super().__call__(x)


def _stock(layer: Layer, rngs: nnx.Rngs) -> Layer:
    halve: dict[str, Any] = {"window_shape": (2, 2), "strides": (2, 2)}
    match layer:
        case Conv():
            return nnx.Conv(
                layer.in_features,
                layer.out_features,
                layer.kernel_size,
                strides=layer.strides,
                padding=layer.padding,
                rngs=rngs,
            )
        case Linear(in_features=inputs, out_features=features):
            return nnx.Linear(inputs, features, rngs=rngs)
        case MaxPool(padding=int(padding)):
            return partial(nnx.max_pool, padding=((padding, padding),) * 2, **halve)
        case MaxPool(padding=padding):
            return partial(nnx.max_pool, padding=padding, **halve)
        case BatchNorm(num_features=features, momentum=momentum, epsilon=epsilon):
            return nnx.BatchNorm(features, momentum=momentum, epsilon=epsilon, rngs=rngs)
        case Residual():
            return _Residual(*(_stock(one, rngs) for one in layer.named_layers().values()))
        case nnx.Dropout(rate=rate):
            return nnx.Dropout(rate, rngs=rngs)
    if layer is global_avg_pool:
        return partial(jnp.mean, axis=(1, 2))
    return partial(nnx.avg_pool, **halve) if layer is avg_pool else layer
