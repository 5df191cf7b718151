"""The train step, its data parallelism, and the trainer around it."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from mnist_jax.data import Dataset, Split
from mnist_jax.errors import UsageError
from mnist_jax.inputs import normalize
from mnist_jax.models import create_model, layers
from mnist_jax.recipe import Recipe
from mnist_jax.training import chunks, shifts
from mnist_jax.training.optimizers import make_optimizer
from mnist_jax.training.step import TrainState, cross_entropy, mean_squared_error, train_step
from mnist_jax.training.trainer import Trainer

IMAGES = jax.random.uniform(jax.random.key(0), (64, 28, 28, 1))
LABELS = jnp.arange(64) % 10


def make_dataset(train: int = 64, test: int = 20) -> Dataset:
    rng = np.random.default_rng(0)

    def split(count: int) -> Split:
        images = rng.integers(0, 256, (count, 28, 28), np.uint8)
        return Split(images, (np.arange(count) % 10).astype(np.int32))

    return Dataset("mnist", split(train), split(test), "synthetic", "synthetic")


def small(rngs: nnx.Rngs) -> layers.Network:
    """One of every layer that devices and chunks could do differently, quickly compiled."""
    return layers.Network(
        conv=layers.Conv(1, 4, 5, rngs=rngs),
        bn=layers.BatchNorm(4, rngs=rngs),
        act=layers.relu,
        pool=layers.max_pool,
        flatten=layers.flatten,
        dropout=layers.Dropout(0.5),
        out=layers.Linear(12 * 12 * 4, 10, rngs=rngs),
    )


def make_state(name: str, **arguments: Any) -> TrainState:
    @jax.jit
    def create(key: jax.Array) -> TrainState:
        rngs = nnx.Rngs(key)
        model = small(rngs) if name == "small" else create_model(name, rngs=rngs, **arguments)
        return TrainState.create(model, optimizer, key=key)

    optimizer = optax.chain(optax.add_decayed_weights(0.001), optax.sgd(0.05))
    return create(jax.random.key(0))


def largest_difference(a: Any, b: Any) -> float:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(np.abs(np.asarray(x) - np.asarray(y)).max()) for x, y in pairs)


def recipe(**changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "model": "shallow",
        "batch_size": 16,
        "epochs": 1,
        "learning_rate": 0.1,
    }
    return Recipe(**(values | changes))


def in_float64(tree: Any) -> Any:
    return jax.tree.map(
        lambda a: (
            jnp.asarray(np.asarray(a), jnp.float64) if jnp.issubdtype(a.dtype, jnp.floating) else a
        ),
        tree,
    )


# In float64 nothing but the order of summation tells one device from eight.
@pytest.mark.parametrize(
    ("how", "chunk_size", "name"),
    [
        ("shard_map", None, "small"),
        ("pmap", 4, "small"),
        pytest.param("shard_map", None, "batchnorm_cnn", marks=pytest.mark.slow),
        pytest.param("pmap", 4, "double_fc_dropout", marks=pytest.mark.slow),
    ],
)
def test_eight_devices_give_the_one_device_result(
    how: str, chunk_size: int | None, name: str
) -> None:
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
        assert bool(jax.tree.leaves(state.batch_stats)) == (name != "double_fc_dropout")
        assert largest_difference(state.params, expected.params) < 1e-12
        assert largest_difference(parallel_metrics, metrics) < 1e-12
        for a, b in zip(
            *map(jax.tree.leaves, (state.batch_stats, expected.batch_stats)), strict=True
        ):
            assert float(np.abs(np.asarray(a) - np.asarray(b)).max()) < 1e-12


@pytest.mark.parametrize("side_by_side", [False, True])
def test_chunks_sum_to_the_batch(side_by_side: bool) -> None:
    state = make_state("small")
    whole, metrics = jax.jit(train_step)(state, IMAGES, LABELS)
    step = partial(train_step, chunk_size=16, side_by_side=side_by_side)
    chunked, chunked_metrics = jax.jit(step)(state, IMAGES, LABELS)
    assert largest_difference(whole.params, chunked.params) < 1e-6
    np.testing.assert_allclose(metrics, chunked_metrics, rtol=1e-5)


@pytest.mark.parametrize("name", ["lenet", pytest.param("batchnorm_cnn", marks=pytest.mark.slow)])
def test_the_accelerators_route_trains_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def losses() -> np.ndarray:
        # Two seeds on one device: an accelerator takes them together.
        changed = recipe(model=name, batch_size=32, learning_rate=0.01)
        return Trainer(changed, make_dataset(), seeds=[0, 1], num_devices=1).advance(2)

    expected = losses()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    np.testing.assert_allclose(losses(), expected, rtol=1e-3)


def test_a_core_gets_few_images_at_a_time_unless_one_is_much_work() -> None:
    assert chunks.chunk_size(50, multiply_adds=10_000_000) == 10
    assert chunks.chunk_size(50, multiply_adds=300_000_000) == 50


@pytest.mark.parametrize("chunk_size", [24, 128])
def test_chunks_divide_the_batch(chunk_size: int) -> None:
    with pytest.raises(ValueError, match=rf"chunk_size is {chunk_size}, .* a batch of 64"):
        train_step(make_state("dense"), IMAGES, LABELS, chunk_size=chunk_size)


def test_batch_norm_s_statistics_are_those_of_all_chunks() -> None:
    with jax.enable_x64(True):
        state, images = in_float64(make_state("small")), in_float64(IMAGES)
        whole, metrics = jax.jit(train_step)(state, images, LABELS)
        step = jax.jit(partial(train_step, chunk_size=16))
        chunked, chunked_metrics = step(state, images, LABELS)
        assert largest_difference(whole.batch_stats, chunked.batch_stats) < 1e-12
        assert largest_difference(whole.params, chunked.params) < 1e-12
        np.testing.assert_allclose(metrics, chunked_metrics, rtol=1e-12)


def test_dropout_masks_do_not_depend_on_chunks_but_on_the_step() -> None:
    state = make_state("small")
    _, whole = jax.jit(train_step)(state, IMAGES, LABELS)
    step = partial(train_step, chunk_size=16, side_by_side=True)
    _, chunked = jax.jit(step)(state, IMAGES, LABELS)
    _, later = jax.jit(train_step)(state.replace(step=state.step + 1), IMAGES, LABELS)
    np.testing.assert_allclose(whole.loss, chunked.loss, rtol=1e-5)
    assert abs(float(whole.loss - later.loss)) > 1e-4


def test_a_step_of_a_linear_model_by_hand() -> None:
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


def test_losses_by_hand() -> None:
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
        # Adam's first step is the sign of the gradient, whatever the decay adds to it.
        ({"optimizer": "adam", "weight_decay": 0.5}, 2 - 0.1, 2 - 0.1),
        ({"optimizer": "adamw", "weight_decay": 0.5}, 2 - 0.1 * (1 + 0.5 * 2), 1.8),
    ],
)
def test_weight_decay_in_every_sense(changes: dict[str, Any], kernel: float, bias: float) -> None:
    params = {"kernel": jnp.full((3, 2), 2.0), "bias": jnp.full((2,), 2.0)}
    optimizer = make_optimizer(recipe(**changes), steps_per_epoch=4)
    grads = jax.tree.map(jnp.ones_like, params)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    after = optax.apply_updates(params, updates)
    np.testing.assert_allclose(after["kernel"], kernel, rtol=1e-5)
    np.testing.assert_allclose(after["bias"], bias, rtol=1e-5)


def test_momentum_accumulates() -> None:
    params = {"kernel": jnp.zeros((1, 1))}
    optimizer = make_optimizer(recipe(momentum=0.9), steps_per_epoch=1)
    state = optimizer.init(params)
    for _ in range(2):
        updates, state = optimizer.update({"kernel": jnp.ones((1, 1))}, state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params["kernel"], -0.1 * (1 + 1.9), rtol=1e-6)


def test_shifts_move_by_one_pixel_and_bring_in_zeros() -> None:
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


def test_normalization() -> None:
    pixels = jnp.asarray([[[0, 51, 255]]], jnp.uint8)
    out = normalize(pixels, 0.5, 0.5)
    assert out.shape == (1, 1, 3, 1)
    np.testing.assert_allclose(out[0, 0, :, 0], [-1, -0.6, 1], atol=1e-6)


@pytest.mark.parametrize("shifts", [False, True])
def test_an_epoch_sees_every_image_and_shift_once(shifts: bool) -> None:
    trainer = Trainer(
        recipe(one_pixel_shifts=shifts, batch_size=48), make_dataset(), seeds=[3], num_devices=1
    )
    epochs = []
    for epoch in range(2):
        orders = trainer._epoch_orders(epoch)
        epochs.append(np.concatenate([np.asarray(order).ravel() for order in orders]))
        np.testing.assert_array_equal(np.sort(epochs[-1]), np.arange(5 * 64 if shifts else 64))
    assert (epochs[0] != epochs[1]).any()


@pytest.mark.parametrize("shuffle", ["never", "once"])
def test_orders_that_do_not_change(shuffle: str) -> None:
    trainer = Trainer(recipe(shuffle=shuffle), make_dataset(), seeds=[3], num_devices=1)
    first, second = (np.asarray(trainer._epoch_orders(epoch)[0]).ravel() for epoch in (0, 1))
    np.testing.assert_array_equal(first, second)
    assert (first == np.arange(64)).all() == (shuffle == "never")


def test_the_short_last_batch_is_kept_and_counted() -> None:
    trainer = Trainer(recipe(batch_size=24), make_dataset(), seeds=[0], num_devices=1)
    assert [trainer.advance(10).shape[1] for _ in range(2)] == [2, 1]
    # The same three steps by hand.
    data = make_dataset()
    expected = Trainer(recipe(batch_size=24), data, seeds=[0], num_devices=1).state(0)
    order = np.random.default_rng([0, 0]).permutation(np.arange(64, dtype=np.int32))
    for batch in np.split(order, [24, 48]):
        images = normalize(jnp.asarray(data.train.images[batch]), 0.0, 1.0)
        expected, _ = jax.jit(train_step)(expected, images, jnp.asarray(data.train.labels[batch]))
    assert largest_difference(trainer.state(0).params, expected.params) < 1e-6


def test_evaluation_counts_every_image_whatever_the_batch() -> None:
    data = make_dataset(test=117)
    trainer = Trainer(recipe(), data, seeds=[0, 1], num_devices=2)
    logits = trainer.logits(data.test.images)
    assert logits.shape == (2, 117, 10)
    for i in range(2):
        model = trainer.state(i).model()
        images = normalize(jnp.asarray(data.test.images), 0.0, 1.0)
        np.testing.assert_allclose(logits[i], model(images), atol=1e-5)


@pytest.mark.parametrize("count", [1, 3])
def test_all_devices_evaluate_what_one_device_trains(count: int) -> None:
    data = make_dataset(test=117)
    trainer = Trainer(recipe(model="dense", batch_size=8), data, seeds=range(count))
    trainer.advance(2)
    assert trainer.mesh.shape["data"] == 1
    logits = trainer.logits(data.test.images)
    images = normalize(jnp.asarray(data.test.images), 0.0, 1.0)
    for i in range(count):
        np.testing.assert_allclose(logits[i], trainer.state(i).model()(images), atol=1e-5)
    trainer.advance(1)  # Evaluation has left the states where training has them.


def test_stretches_and_processes_do_not_change_a_bit() -> None:
    def train(stretch: int) -> TrainState:
        trainer = Trainer(recipe(), make_dataset(), seeds=[5], num_devices=2)
        while trainer.step < 4:
            trainer.advance(stretch)
        return trainer.state(0)

    assert largest_difference(train(1).params, train(4).params) == 0


def test_each_of_several_seeds_is_bitwise_what_it_gives_alone() -> None:
    config = recipe(model="double_fc_dropout", batch_size=8)
    together = Trainer(config, make_dataset(), seeds=[0, 1, 2], num_devices=1)
    together.advance(4)
    for i, seed in enumerate(together.seeds):
        alone = Trainer(config, make_dataset(), seeds=[seed], num_devices=1)
        alone.advance(4)
        assert largest_difference(together.state(i).params, alone.state(0).params) == 0


@pytest.mark.parametrize(
    ("model", "seeds", "num_devices", "mesh"),
    [
        ("dbl_conv_relu", 1, None, (1, 8)),
        ("dbl_conv_relu", 2, None, (2, 4)),
        ("dbl_conv_relu", 3, None, (1, 8)),
        ("dbl_conv_relu", 8, None, (8, 1)),
        ("shallow", 5, None, (5, 1)),
        ("dbl_conv_relu", 2, 2, (2, 1)),
        # Too little work for its many parameters: by default no device shares a batch.
        ("shallow", 1, None, (1, 1)),
        ("shallow", 1, 2, (1, 2)),
        ("shallow", 2, None, (2, 1)),
    ],
)
def test_the_mesh_takes_seeds_first_and_splits_what_is_worth_it(
    model: str, seeds: int, num_devices: int | None, mesh: tuple[int, int]
) -> None:
    config = recipe(model=model)
    trainer = Trainer(config, make_dataset(), seeds=range(seeds), num_devices=num_devices)
    assert tuple(trainer.mesh.shape.values()) == mesh


@pytest.mark.parametrize(
    ("seeds", "num_devices", "parts", "mesh"),
    [
        (1, None, 2, (1, 2)),
        (1, 4, 1, (1, 1)),
        (2, 4, 1, (2, 1)),
        (2, None, 4, (2, 4)),
        # More than there are, or than divide a batch: as if nothing had been said.
        (1, 1, 2, (1, 1)),
        (2, 2, 3, (2, 1)),
    ],
)
def test_the_mesh_splits_batches_as_when_a_run_began(
    seeds: int, num_devices: int | None, parts: int, mesh: tuple[int, int]
) -> None:
    config = recipe(model="shallow")
    trainer = Trainer(
        config, make_dataset(), seeds=range(seeds), num_devices=num_devices, parts=parts
    )
    assert tuple(trainer.mesh.shape.values()) == mesh


def test_devices_by_default_divide_every_batch() -> None:
    config = recipe(model="dbl_conv_relu", batch_size=20)
    trainer = Trainer(config, make_dataset(train=66), seeds=[0])
    assert tuple(trainer.mesh.shape.values()) == (1, 2)


@pytest.mark.parametrize(
    ("changes", "num_devices", "sentence"),
    [
        ({"batch_size": 10}, 4, "Batches of 10 and 4 images do not divide over 4 devices"),
        ({}, 9, "there are 8 devices"),
        ({"batch_size": 65}, 1, "has 64 training images"),
    ],
)
def test_misfits_are_one_sentence(changes: dict[str, Any], num_devices: int, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        Trainer(recipe(**changes), make_dataset(), seeds=[0], num_devices=num_devices)


def test_a_step_is_traced_once_for_full_batches_and_once_for_short_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    traced = []

    def counted(*args: Any, **kwargs: Any) -> Any:
        traced.append(args[2].shape)
        return train_step(*args, **kwargs)

    monkeypatch.setattr("mnist_jax.training.trainer.train_step", counted)
    trainer = Trainer(recipe(batch_size=24, epochs=2), make_dataset(), seeds=[0], num_devices=1)
    while trainer.step < trainer.schedule.total_steps:
        trainer.advance(1)
    assert traced == [(24,), (16,)]


def test_training_mode_evaluation_moves_the_statistics_and_keeps_dropout_on() -> None:
    config = recipe(model="batchnorm_cnn", batch_size=20, evaluation="training_mode")
    data = make_dataset(train=40, test=40)
    trainer = Trainer(config, data, seeds=[0], num_devices=2)
    before = jax.device_get(trainer.state(0).batch_stats)
    as_published = trainer.logits(data.test.images)
    assert largest_difference(before, trainer.state(0).batch_stats) > 1e-3
    exact = dataclasses.replace(config, evaluation="exact")
    proper = Trainer(exact, data, seeds=[0], num_devices=2)
    assert np.abs(as_published - proper.logits(data.test.images)).max() > 1e-3
    assert largest_difference(before, proper.state(0).batch_stats) == 0


def test_nothing_is_compiled_once_training_is_under_way() -> None:
    recipe = Recipe(model="dense", dataset="digits", batch_size=7, epochs=1, learning_rate=0.1)
    trainer = Trainer(recipe, make_dataset(), seeds=[0], num_devices=1)
    assert len(trainer.schedule.batch_sizes) == 2
    compiled = list[str]()
    listener = lambda event, *_, **__: compiled.append(event)  # noqa: E731
    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        # Within a context of JAX's, which belongs to a thread.
        with jax.enable_x64(True):
            trainer.compile()
            assert len([event for event in compiled if "backend_compile" in event]) >= 2
            compiled.clear()
            trainer.advance(1)
        trainer.compile()
        compiled.clear()
        while trainer.step < trainer.schedule.total_steps:
            trainer.advance(100)
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    assert not [event for event in compiled if "backend_compile" in event]
