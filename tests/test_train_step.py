"""The train step and its data parallelism; losses, optimisers, shifts and normalisation."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P
from runs_compared import largest_difference
from small_runs import shallow

from mnist_jax.inputs import normalize
from mnist_jax.kernels.differentiation import differentiable
from mnist_jax.models import create_model, layers, model_entry
from mnist_jax.training import chunks, shifts
from mnist_jax.training.optimizers import make_optimizer
from mnist_jax.training.step import (
    TrainState,
    cross_entropy,
    gradients,
    mean_squared_error,
    train_step,
)

IMAGES = jax.random.uniform(jax.random.key(0), (64, 28, 28, 1))
LABELS = jnp.arange(64) % 10


def small(rngs: nnx.Rngs) -> layers.Network:
    """A network that compiles quickly, with every layer that devices or chunks could affect."""
    return layers.Network(
        conv=layers.Conv(1, 4, 5, rngs=rngs),
        bn=layers.BatchNorm(4, rngs=rngs),
        act=layers.relu,
        pool=layers.max_pool,
        flatten=layers.flatten,
        dropout=layers.Dropout(0.5),
        out=layers.Linear(12 * 12 * 4, 10, rngs=rngs),
    )


def make_state(name: str) -> TrainState:
    optimizer = optax.chain(optax.add_decayed_weights(0.001), optax.sgd(0.05))

    @jax.jit
    def create(key: jax.Array) -> TrainState:
        rngs = nnx.Rngs(key)
        if name == "dropout":
            model = layers.Network(
                flatten=layers.flatten,
                dropout=layers.Dropout(0.5),
                out=layers.Linear(784, 10, rngs=rngs),
            )
        else:
            model = small(rngs) if name == "small" else create_model(name, rngs=rngs)
        return TrainState.create(model, optimizer, key=key)

    return create(jax.random.key(0))


def in_float64(tree: Any) -> Any:
    return jax.tree.map(
        lambda a: (
            jnp.asarray(np.asarray(a), jnp.float64) if jnp.issubdtype(a.dtype, jnp.floating) else a
        ),
        tree,
    )


# In float64, one and eight devices differ only by rounding in the order of summation.
@pytest.mark.parametrize(
    ("how", "chunk_size", "name"),
    [
        ("shard_map", None, "small"),
        ("pmap", 4, "small"),
        pytest.param("shard_map", None, "batchnorm_cnn", marks=pytest.mark.slow),
        pytest.param("pmap", 4, "double_fc_dropout", marks=pytest.mark.slow),
    ],
)
def test_eight_devices_give_the_result_of_one(how: str, chunk_size: int | None, name: str) -> None:
    with jax.enable_x64(True):
        images = in_float64(IMAGES)
        one_device = jax.jit(train_step)
        step = partial(train_step, axis_name="data", chunk_size=chunk_size)
        expected = state = in_float64(make_state(name))
        if how == "shard_map":
            mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
            batch = P("data")
            mapped = jax.shard_map(
                step, mesh=mesh, in_specs=(P(), batch, batch), out_specs=P(), check_vma=False
            )
            eight_devices, shares = jax.jit(mapped), (images, LABELS)
        else:
            eight_devices = jax.pmap(step, axis_name="data", in_axes=(None, 0, 0), out_axes=None)
            shares = (images.reshape(8, 8, 28, 28, 1), LABELS.reshape(8, 8))
        for _ in range(3):
            expected, metrics = one_device(expected, images, LABELS)
            state, parallel_metrics = eight_devices(state, *shares)
        assert largest_difference(state.params, expected.params) < 1e-12
        assert largest_difference(parallel_metrics, metrics) < 1e-12
        if name != "double_fc_dropout":  # It has no BatchNorm.
            assert largest_difference(state.batch_stats, expected.batch_stats) < 1e-12


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("strided_cnn", {}), ("residual_cnn", {"width": 32, "first_block": False})],
)
def test_compiled_gradients_of_a_whole_batch_agree_with_xla(
    name: str, arguments: dict[str, Any]
) -> None:
    """In float32 and at the recipe's batch size, in which these networks' chunks are whole."""
    size = model_entry(name).recipe.batch_size
    network = create_model(name, **arguments, rngs=nnx.Rngs(0))
    state = TrainState.create(network, optax.sgd(0.1), key=jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (size, 28, 28, 1))
    labels = jnp.arange(size) % 10

    def compiled() -> Any:
        # Anew for each, because a jitted function traces a signature only once.
        compute = jax.jit(lambda state: gradients(state, images, labels, None, size, False)[0])
        return compute(state)

    ours = compiled()
    with differentiable():
        plain = compiled()
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        # Where rounding decides a maximum, a gradient goes to another element.
        assert jnp.linalg.norm(one - other) < 0.05 * jnp.linalg.norm(other)


def test_chunks_one_after_another_give_the_result_of_the_batch() -> None:
    """With dropout; with BatchNorm, all chunks are computed side by side."""
    with jax.enable_x64(True):
        state, images = in_float64(make_state("dropout")), in_float64(IMAGES)
        whole, metrics = jax.jit(train_step)(state, images, LABELS)
        step = partial(train_step, chunk_size=16, side_by_side=False)
        assert " scan[" in str(jax.make_jaxpr(step)(state, images, LABELS))
        chunked, chunked_metrics = jax.jit(step)(state, images, LABELS)
        assert largest_difference(whole.params, chunked.params) < 1e-12
        np.testing.assert_allclose(metrics, chunked_metrics, rtol=1e-12)


def test_chunks_are_small_unless_an_image_is_much_work() -> None:
    assert chunks.chunk_size(50, multiply_adds=8_700_000) == 10
    assert chunks.chunk_size(50, multiply_adds=15_200_000) == 50


@pytest.mark.parametrize("chunk_size", [24, 128])
def test_chunk_size_that_does_not_divide_the_batch_is_refused(chunk_size: int) -> None:
    with pytest.raises(ValueError, match=rf"chunk_size is {chunk_size}, .* a batch of 64"):
        train_step(make_state("dense"), IMAGES, LABELS, chunk_size=chunk_size)


def test_batch_norm_uses_the_statistics_of_all_chunks() -> None:
    with jax.enable_x64(True):
        state, images = in_float64(make_state("small")), in_float64(IMAGES)
        whole, metrics = jax.jit(train_step)(state, images, LABELS)
        step = jax.jit(partial(train_step, chunk_size=16))
        chunked, chunked_metrics = step(state, images, LABELS)
        assert largest_difference(whole.batch_stats, chunked.batch_stats) < 1e-12
        assert largest_difference(whole.params, chunked.params) < 1e-12
        np.testing.assert_allclose(metrics, chunked_metrics, rtol=1e-12)


def test_dropout_masks_depend_on_the_step() -> None:
    state, step = make_state("dropout"), jax.jit(train_step)
    _, now = step(state, IMAGES, LABELS)
    _, later = step(state.replace(step=state.step + 1), IMAGES, LABELS)
    assert abs(float(now.loss - later.loss)) > 1e-4


def test_step_of_a_linear_model_matches_one_computed_by_hand() -> None:
    # One dense layer, so that the gradient of the cross-entropy is images.T @ (p - one-hot) / N.
    out = layers.Linear(784, 10, rngs=nnx.Rngs(0))
    model = layers.Network(flatten=layers.flatten, out=out)
    state = TrainState.create(model, optax.sgd(0.1), key=jax.random.key(0))
    kernel = np.asarray(state.params["out"]["kernel"], np.float64)
    bias = np.asarray(state.params["out"]["bias"], np.float64)
    x = np.asarray(IMAGES, np.float64).reshape(64, 784)
    z = x @ kernel + bias
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    one_hot = np.eye(10)[np.asarray(LABELS)]
    after, metrics = jax.jit(train_step)(state, IMAGES, LABELS)
    np.testing.assert_allclose(metrics.loss, -(one_hot * np.log(p)).sum(1).mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics.accuracy, (z.argmax(1) == np.asarray(LABELS)).mean())
    np.testing.assert_allclose(
        after.params["out"]["kernel"], kernel - 0.1 * x.T @ (p - one_hot) / 64, atol=1e-6
    )
    assert int(after.step) == 1


def test_losses_match_values_computed_by_hand() -> None:
    logits = jnp.asarray([[0.2, 0.4, 0.9]])
    np.testing.assert_allclose(cross_entropy(logits, jnp.asarray([2])), [0.7434], atol=5e-5)
    np.testing.assert_allclose(
        mean_squared_error(logits, jnp.asarray([2])), [(0.2**2 + 0.4**2 + 0.1**2) / 3], rtol=1e-6
    )


@pytest.mark.parametrize(
    ("changes", "kernel", "bias"),
    [
        # One step from parameters 2 with gradient 1 and learning rate 0.1.
        ({}, 2 - 0.1, 2 - 0.1),
        ({"weight_decay": 0.5}, 2 - 0.1 * (1 + 0.5 * 2), 2 - 0.1 * (1 + 0.5 * 2)),
        (
            {"weight_decay": 0.5, "weight_decay_sense": "nielsen"},
            2 - 0.1 * (1 + 0.5 / 4 * 2),
            2 - 0.1,
        ),
        # Adam's first step depends only on the gradient's sign, which the decay does not change.
        ({"optimizer": "adam", "weight_decay": 0.5}, 2 - 0.1, 2 - 0.1),
        ({"optimizer": "adamw", "weight_decay": 0.5}, 2 - 0.1 * (1 + 0.5 * 2), 1.8),
    ],
)
def test_weight_decay_in_every_sense(changes: dict[str, Any], kernel: float, bias: float) -> None:
    params = {"kernel": jnp.full((3, 2), 2.0), "bias": jnp.full((2,), 2.0)}
    optimizer = make_optimizer(shallow(**changes), steps_per_epoch=4)
    grads = jax.tree.map(jnp.ones_like, params)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    after = optax.apply_updates(params, updates)
    np.testing.assert_allclose(after["kernel"], kernel, rtol=1e-5)
    np.testing.assert_allclose(after["bias"], bias, rtol=1e-5)


def test_momentum_accumulates() -> None:
    params = {"kernel": jnp.zeros((1, 1))}
    optimizer = make_optimizer(shallow(momentum=0.9), steps_per_epoch=1)
    state = optimizer.init(params)
    for _ in range(2):
        updates, state = optimizer.update({"kernel": jnp.ones((1, 1))}, state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params["kernel"], -0.1 * (1 + 1.9), rtol=1e-6)


def test_shifts_move_images_by_one_pixel_and_fill_with_zeros() -> None:
    images = jnp.arange(1, 33, dtype=jnp.uint8).reshape(2, 4, 4)
    taken = shifts.take_shifted(shifts.pad_for_shifts(images), jnp.arange(10))
    for i in range(10):
        image, (rows, columns) = np.asarray(images[i % 2]), shifts.SHIFTS[i // 2]
        expected = np.zeros((4, 4), np.uint8)
        for y in range(4):
            for x in range(4):
                if 0 <= y - rows < 4 and 0 <= x - columns < 4:
                    expected[y, x] = image[y - rows, x - columns]
        np.testing.assert_array_equal(taken[i], expected)


def test_pixels_are_scaled_and_normalised() -> None:
    pixels = jnp.asarray([[[0, 51, 255]]], jnp.uint8)
    out = normalize(pixels, 0.5, 0.5)
    assert out.shape == (1, 1, 3, 1)
    np.testing.assert_allclose(out[0, 0, :, 0], [-1, -0.6, 1], atol=1e-6)
