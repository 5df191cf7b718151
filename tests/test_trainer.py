"""The trainer: epochs, evaluations, several seeds, and the devices that they use."""

import contextlib
import dataclasses
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runs_compared import largest_difference
from small_runs import shallow

from mnist_jax.data import Dataset, Split
from mnist_jax.errors import UsageError
from mnist_jax.inputs import normalize
from mnist_jax.recipe import Recipe
from mnist_jax.training.devices import make_mesh
from mnist_jax.training.step import TrainState, train_step
from mnist_jax.training.trainer import Trainer


def make_dataset(train: int = 64, test: int = 20) -> Dataset:
    rng = np.random.default_rng(0)

    def split(count: int) -> Split:
        images = rng.integers(0, 256, (count, 28, 28), np.uint8)
        return Split(images, (np.arange(count) % 10).astype(np.int32))

    return Dataset("mnist", split(train), split(test), "synthetic", "synthetic")


@pytest.mark.parametrize("name", ["lenet", pytest.param("batchnorm_cnn", marks=pytest.mark.slow)])
def test_the_accelerator_implementation_trains_the_same(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def losses() -> np.ndarray:
        # Two seeds on one device, which an accelerator trains together.
        changed = shallow(model=name, batch_size=32, learning_rate=0.01)
        return Trainer(changed, make_dataset(), seeds=[0, 1], num_devices=1).advance(2)

    expected = losses()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    np.testing.assert_allclose(losses(), expected, rtol=1e-3)


@pytest.mark.parametrize("shifts", [False, True])
def test_an_epoch_sees_every_image_and_shift_once(shifts: bool) -> None:
    trainer = Trainer(
        shallow(one_pixel_shifts=shifts, batch_size=48), make_dataset(), seeds=[3], num_devices=1
    )
    epochs = []
    for epoch in range(2):
        orders = trainer._epoch_orders(epoch)
        epochs.append(np.concatenate([np.asarray(order).ravel() for order in orders]))
        np.testing.assert_array_equal(np.sort(epochs[-1]), np.arange(5 * 64 if shifts else 64))
    assert (epochs[0] != epochs[1]).any()


@pytest.mark.parametrize("shuffle", ["never", "once"])
def test_fixed_orders_are_the_same_in_every_epoch(shuffle: str) -> None:
    trainer = Trainer(shallow(shuffle=shuffle), make_dataset(), seeds=[3], num_devices=1)
    first, second = (np.asarray(trainer._epoch_orders(epoch)[0]).ravel() for epoch in (0, 1))
    np.testing.assert_array_equal(first, second)
    assert (first == np.arange(64)).all() == (shuffle == "never")


def test_the_short_last_batch_is_trained_on() -> None:
    trainer = Trainer(shallow(batch_size=24), make_dataset(), seeds=[0], num_devices=1)
    assert [trainer.advance(10).shape[1] for _ in range(2)] == [2, 1]
    # The same three steps, computed manually.
    data = make_dataset()
    expected = Trainer(shallow(batch_size=24), data, seeds=[0], num_devices=1).state(0)
    order = np.random.default_rng([0, 0]).permutation(np.arange(64, dtype=np.int32))
    for batch in np.split(order, [24, 48]):
        images = normalize(jnp.asarray(data.train.images[batch]), 0.0, 1.0)
        expected, _ = jax.jit(train_step)(expected, images, jnp.asarray(data.train.labels[batch]))
    assert largest_difference(trainer.state(0).params, expected.params) < 1e-6


def test_evaluation_covers_every_image_for_any_batch_size() -> None:
    data = make_dataset(test=117)
    trainer = Trainer(shallow(), data, seeds=[0, 1], num_devices=2)
    logits = trainer.logits(data.test.images)
    assert logits.shape == (2, 117, 10)
    for i in range(2):
        model = trainer.state(i).model()
        images = normalize(jnp.asarray(data.test.images), 0.0, 1.0)
        np.testing.assert_allclose(logits[i], model(images), atol=1e-5)


@pytest.mark.parametrize("count", [1, 3])
def test_evaluation_on_all_devices_leaves_training_on_one(count: int) -> None:
    data = make_dataset(test=117)
    trainer = Trainer(shallow(model="dense", batch_size=8), data, seeds=range(count))
    trainer.advance(2)
    assert trainer.mesh.shape["data"] == 1
    logits = trainer.logits(data.test.images)
    images = normalize(jnp.asarray(data.test.images), 0.0, 1.0)
    for i in range(count):
        np.testing.assert_allclose(logits[i], trainer.state(i).model()(images), atol=1e-5)
    trainer.advance(1)  # Evaluation has not moved the states to other devices.


def test_the_chunk_size_does_not_change_results() -> None:
    def train(chunk: int) -> TrainState:
        trainer = Trainer(shallow(), make_dataset(), seeds=[5], num_devices=2)
        while trainer.step < 4:
            trainer.advance(chunk)
        return trainer.state(0)

    assert largest_difference(train(1).params, train(4).params) == 0


def test_seeds_trained_together_equal_seeds_trained_alone() -> None:
    config = shallow(model="double_fc_dropout", batch_size=8)
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
        # Too little computation for its many parameters: by default no batch is split.
        ("shallow", 1, None, (1, 1)),
        ("shallow", 1, 2, (1, 2)),
        ("shallow", 2, None, (2, 1)),
    ],
)
def test_the_mesh_distributes_seeds_first_and_then_batches_if_worthwhile(
    model: str, seeds: int, num_devices: int | None, mesh: tuple[int, int]
) -> None:
    config = shallow(model=model)
    trainer = Trainer(config, make_dataset(), seeds=range(seeds), num_devices=num_devices)
    assert tuple(trainer.mesh.shape.values()) == mesh


def test_processes_take_part_with_as_many_devices_as_the_smallest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    all_devices = [SimpleNamespace(process_index=int(i > 7), platform="gpu") for i in range(12)]
    monkeypatch.setattr(jax, "devices", lambda: all_devices)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "make_mesh", lambda shape, *_, devices, **__: (shape, devices))
    mesh: Any = make_mesh(12, {100})
    shape, used = mesh
    assert shape == (4, 2)
    assert [device.process_index for device in used] == [0] * 4 + [1] * 4
    with pytest.raises(UsageError, match="num_devices is 9, but there are 8 devices"):
        make_mesh(12, {100}, 9)


@pytest.mark.parametrize(
    ("seeds", "num_devices", "parts", "mesh"),
    [
        (1, None, 2, (1, 2)),
        (1, 4, 1, (1, 1)),
        (2, 4, 1, (2, 1)),
        (2, None, 4, (2, 4)),
        # More parts than devices, or a number that does not divide a batch, is ignored.
        (1, 1, 2, (1, 1)),
        (2, 2, 3, (2, 1)),
    ],
)
def test_the_mesh_of_a_resumed_run_splits_batches_as_before(
    seeds: int, num_devices: int | None, parts: int, mesh: tuple[int, int]
) -> None:
    config = shallow(model="shallow")
    trainer = Trainer(
        config, make_dataset(), seeds=range(seeds), num_devices=num_devices, parts=parts
    )
    assert tuple(trainer.mesh.shape.values()) == mesh


def test_the_default_number_of_devices_divides_every_batch() -> None:
    config = shallow(model="dbl_conv_relu", batch_size=20)
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
def test_recipes_that_do_not_fit_are_refused(
    changes: dict[str, Any], num_devices: int, sentence: str
) -> None:
    with pytest.raises(UsageError, match=sentence):
        Trainer(shallow(**changes), make_dataset(), seeds=[0], num_devices=num_devices)


def test_a_step_is_traced_once_for_full_batches_and_once_for_short_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    traced = []

    def counted(*args: Any, **kwargs: Any) -> Any:
        traced.append(args[2].shape)
        return train_step(*args, **kwargs)

    monkeypatch.setattr("mnist_jax.training.trainer.train_step", counted)
    trainer = Trainer(shallow(batch_size=24, epochs=2), make_dataset(), seeds=[0], num_devices=1)
    while trainer.step < trainer.schedule.total_steps:
        trainer.advance(1)
    assert traced == [(24,), (16,)]


def test_devices_can_share_the_validation_batches_of_training_mode(
    batch_norm_recipe: Recipe,
) -> None:
    recipe = dataclasses.replace(
        batch_norm_recipe, batch_size=20, evaluation="training_mode", validation=21
    )
    with pytest.raises(UsageError, match="Batches of 20 and 1 images do not divide"):
        Trainer(recipe, make_dataset(train=61, test=40), seeds=[0], num_devices=2)
    recipe = dataclasses.replace(recipe, validation=22)
    trainer = Trainer(recipe, make_dataset(train=62, test=40), seeds=[0], num_devices=2)
    assert trainer.validation is not None
    assert trainer.logits(trainer.validation.images).shape == (1, 22, 10)


def test_training_mode_evaluation_updates_the_batch_statistics(batch_norm_recipe: Recipe) -> None:
    config = dataclasses.replace(batch_norm_recipe, batch_size=20, evaluation="training_mode")
    data = make_dataset(train=40, test=40)
    trainer = Trainer(config, data, seeds=[0], num_devices=2)
    before = jax.device_get(trainer.state(0).batch_stats)
    in_training_mode = trainer.logits(data.test.images)
    assert largest_difference(before, trainer.state(0).batch_stats) > 1e-3
    exact = Trainer(dataclasses.replace(config, evaluation="exact"), data, seeds=[0], num_devices=2)
    assert np.abs(in_training_mode - exact.logits(data.test.images)).max() > 1e-3
    assert largest_difference(before, exact.state(0).batch_stats) == 0


@contextlib.contextmanager
def compilations() -> Iterator[list[str]]:
    """Collects one entry for every program that is compiled, or loaded, in its context."""
    events = list[str]()

    def listener(event: str, *_: object, **__: object) -> None:
        if "backend_compile" in event:
            events.append(event)

    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        yield events
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)


def test_all_arrays_of_a_network_are_initialised_by_one_program(batch_norm_recipe: Recipe) -> None:
    # Compiles the programs that all networks share.
    Trainer(shallow(), make_dataset(), seeds=[0], num_devices=1)
    with compilations() as compiled:
        # A number of seeds that no other test uses, so that nothing has been compiled yet.
        Trainer(batch_norm_recipe, make_dataset(), seeds=range(5), num_devices=1).state(4)
    assert len(compiled) == 3, "initial values, stacking of seeds, and selection of one seed"


def test_nothing_is_compiled_once_training_is_under_way() -> None:
    recipe = Recipe(model="dense", dataset="digits", batch_size=7, epochs=1, learning_rate=0.1)
    trainer = Trainer(recipe, make_dataset(), seeds=[0], num_devices=1)
    assert len(trainer.schedule.batch_sizes) == 2
    with compilations() as compiled:
        # In a JAX configuration context, which is local to a thread.
        with jax.enable_x64(True):
            trainer.compile()
            assert len(compiled) >= 2
            compiled.clear()
            trainer.advance(1)
        trainer.compile()
        compiled.clear()
        while trainer.step < trainer.schedule.total_steps:
            trainer.advance(100)
    assert not compiled
