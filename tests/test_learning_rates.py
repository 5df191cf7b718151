"""Learning-rate schedules and Adam, compared with manual computations, PyTorch's and Optax's."""

import json
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mnist_jax.data import Dataset
from mnist_jax.errors import UsageError
from mnist_jax.recipe import Recipe
from mnist_jax.training.optimizers import learning_rate, make_optimizer
from mnist_jax.training.trainer import Trainer


def recipe(*schedule: dict[str, Any], **changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "model": "dense",
        "batch_size": 100,
        "epochs": 3,
        "learning_rate": 0.5,
        "learning_rate_schedule": schedule,
    }
    return Recipe(**(values | changes))


def rates(one: Recipe, steps_per_epoch: int, steps: Any) -> np.ndarray:
    schedule = learning_rate(one, steps_per_epoch)
    assert callable(schedule)
    return np.asarray(jax.jit(jax.vmap(schedule))(jnp.asarray(steps)), np.float64)


def test_without_a_schedule_the_learning_rate_is_a_constant() -> None:
    assert learning_rate(recipe(), 10) == 0.5
    assert "learning_rate_schedule" not in recipe().to_json()


def test_segments_are_concatenated() -> None:
    one = recipe(
        {"name": "linear", "epochs": 0.5, "start": 0, "end": 1},
        {"name": "constant", "epochs": 1},
        {"name": "cosine", "epochs": 1, "end": 0.2},
        {"name": "constant", "epochs": 1, "start": 0.1},
    )
    steps = [0, 1, 4, 5, 14, 15, 20, 24, 25, 34, 35, 1000]
    wave = [0.2 + 0.8 * (1 + math.cos(math.pi * n / 10)) / 2 for n in (0, 5, 9)]
    expected = np.asarray([0, 0.2, 0.8, 1, 1, *wave, *[0.1] * 4])
    np.testing.assert_allclose(rates(one, 10, steps), 0.5 * expected, rtol=1e-5, atol=1e-8)
    assert Recipe.from_dict(json.loads(one.to_json())) == one


def test_ten_exponential_epochs_and_one_of_a_cosine() -> None:
    # The schedule of ttdoucet/mnist: the cosine starts at the rate of the last exponential step.
    last = 0.1 ** (5999 / 6000)
    one = recipe(
        {"name": "exponential", "epochs": 10, "factor": 0.1, "over": 10},
        {"name": "cosine", "epochs": 1, "start": last, "end": last / 1000},
        learning_rate=4e-4,
    )
    first, second = np.arange(6000), np.arange(600)
    low = 4e-4 * last
    assert low == pytest.approx(4.0015e-5, rel=1e-4)
    expected = np.concatenate(
        [
            4e-4 * 0.1 ** (first / 6000),
            low + (low / 1000 - low) * (1 - np.cos(np.pi * second / 600)) / 2,
        ]
    )
    found = rates(one, 600, np.arange(6600))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-11)


def test_one_cycle_is_two_cosines() -> None:
    # As in PyTorch and Optax, with their defaults: up from 1/25 over 30% of 200 steps, then down.
    one = recipe(
        {"name": "cosine", "epochs": 0.6, "start": 1 / 25, "end": 1},
        {"name": "cosine", "epochs": 1.4, "end": 1 / 25e4},
    )
    expected = jax.vmap(optax.cosine_onecycle_schedule(200, 0.5))(jnp.arange(200))
    found = rates(one, 100, np.arange(200))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("steps_per_epoch", [843, 844, 600, 7])
def test_a_staircase_is_constant_within_an_epoch(steps_per_epoch: int) -> None:
    # The schedule of cdeotte.
    one = recipe(
        {"name": "exponential", "epochs": 30, "factor": 0.95, "staircase": True},
        learning_rate=0.001,
    )
    steps = np.arange(31 * steps_per_epoch)
    expected = 0.001 * 0.95 ** (steps // steps_per_epoch)
    np.testing.assert_allclose(rates(one, steps_per_epoch, steps), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("epochs", "over", "staircase", "multiple"),
    [
        (0.3, 0.1, True, 0.5**3),  # Three stairs of one step, although 0.3 / 0.1 < 3.
        (0.7, 0.2, True, 0.5**3),
        (0.7, 0.3, False, 0.5 ** (7 / 3)),
        (0.58, 0.24, False, 0.5 ** (6 / 2)),  # In whole steps.
    ],
)
def test_the_rate_after_an_exponential_segment_follows_from_its_whole_steps(
    epochs: float, over: float, staircase: bool, multiple: float
) -> None:
    segment = {"name": "exponential", "epochs": epochs, "factor": 0.5, "over": over}
    one = recipe(segment | {"staircase": staircase}, {"name": "linear", "epochs": 1, "end": 0})
    last = round(10 * epochs)
    np.testing.assert_allclose(rates(one, 10, [last]), 0.5 * multiple, rtol=1e-5)
    alone = recipe(segment | {"staircase": staircase})
    np.testing.assert_allclose(rates(alone, 10, [last, 99]), 0.5 * multiple, rtol=1e-5)


@pytest.mark.parametrize(
    ("segments", "sentence"),
    [
        ([{"name": "exponential", "epochs": 1e6, "factor": 2}], "epochs of exponential is 1000000"),
        ([{"name": "exponential", "epochs": 100, "factor": 10}], "fewer, so that the rate stays"),
        ([{"name": "constant", "epochs": 3e8}], r"3e\+08 epochs of 10 steps; give fewer"),
        (2 * [{"name": "constant", "epochs": 3e38}], r"3e\+38 epochs of 10 steps; give fewer"),
        ([{"name": "exponential", "epochs": 1, "factor": 2, "over": 1e30}], "1e.30 epochs of 10"),
    ],
)
def test_rates_and_steps_that_overflow_are_refused_in_one_sentence(
    segments: Any, sentence: str
) -> None:
    with pytest.raises(UsageError, match=sentence):
        make_optimizer(recipe(*segments), steps_per_epoch=10)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_an_optimizer_s_updates_follow_the_schedule(optimizer: str) -> None:
    one = recipe({"name": "linear", "epochs": 2, "end": 0}, optimizer=optimizer)
    made = make_optimizer(one, steps_per_epoch=2)
    params = {"kernel": jnp.zeros((2, 2))}
    state, found = made.init(params), []
    for _ in range(5):
        updates, state = made.update({"kernel": jnp.ones((2, 2))}, state, params)
        found.append(float(updates["kernel"][0, 0]))
    # For constant gradients, every update of Adam is the learning rate.
    np.testing.assert_allclose(found, [-0.5, -0.375, -0.25, -0.125, 0], rtol=1e-4)


def test_a_resumed_trainer_continues_the_schedule(digits: Dataset) -> None:
    one = recipe({"name": "exponential", "epochs": 3, "factor": 0.5}, dataset="digits")
    whole = Trainer(one, digits, seeds=[0], num_devices=1)
    whole.advance(3)
    later = Trainer(one, digits, seeds=[0], num_devices=1)
    later.restore(3, whole.saved())
    np.testing.assert_array_equal(later.advance(3), whole.advance(3))
    for a, b in zip(*(jax.tree.leaves(each.saved()) for each in (later, whole)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("sense", ["torch", "keras"])
def test_adam_matches_a_manual_computation(sense: str) -> None:
    # Epsilon is as large as the gradients, so that its position in the formula matters.
    b1, b2, eps = 0.8, 0.99, 0.01
    one = recipe(optimizer="adam", b1=b1, b2=b2, eps=eps, eps_sense=sense)
    made = make_optimizer(one, steps_per_epoch=1)
    params = {"kernel": jnp.zeros(3)}
    state = made.init(params)
    m, v = np.zeros(3), np.zeros(3)
    for t, scale in enumerate((1.0, -0.5, 0.3), start=1):
        gradient = scale * np.asarray([0.01, 0.1, -1])
        updates, state = made.update({"kernel": jnp.asarray(gradient, jnp.float32)}, state, params)
        m, v = b1 * m + (1 - b1) * gradient, b2 * v + (1 - b2) * gradient**2
        if sense == "keras":
            step = 0.5 * math.sqrt(1 - b2**t) / (1 - b1**t) * m / (np.sqrt(v) + eps)
        else:
            step = 0.5 * m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps)
        np.testing.assert_allclose(updates["kernel"], -step, rtol=1e-4)


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_adam_s_default_constants_are_optax_s(optimizer: str) -> None:
    one = recipe(optimizer=optimizer)
    assert "eps" not in one.to_json()
    made = make_optimizer(one, steps_per_epoch=1)
    decay = {"weight_decay": 0.0} if optimizer == "adamw" else {}
    expected = getattr(optax, optimizer)(0.5, **decay)
    params = {"kernel": jnp.ones(3)}
    results = [
        transformation.update(
            {"kernel": jnp.asarray([1e-9, 0.3, 2])}, transformation.init(params), params
        )
        for transformation in (made, expected)
    ]
    assert str(jax.tree.structure(results[0])) == str(jax.tree.structure(results[1]))
    for a, b in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("segment", "sentence"),
    [
        ({"name": "cosine", "epochs": 1}, "cosine is missing 1 required .* 'end'"),
        ({"name": "cosine", "epochs": 0, "end": 0}, "epochs of cosine is 0.0; give a positive"),
        ({"name": "linear", "epochs": 1, "end": -1}, "end of linear is -1.0; give 0 or more"),
        ({"name": "constant", "epochs": 1, "start": -1}, "start of constant is -1.0; give 0 or"),
        ({"name": "constant", "epochs": 1, "start": "1"}, "start of constant is '1'; give a numb"),
        ({"name": "exponential", "epochs": 1, "factor": 0}, "factor of exponential is 0.0; give"),
        ({"name": "exponential", "epochs": 1, "factor": 1, "over": 0}, "over of exponential is"),
        ({"name": "exponential", "epochs": 1, "factor": 1, "staircase": 1}, "give true or false"),
        ({"name": "step"}, "one of constant, linear, exponential, cosine"),
    ],
)
def test_an_invalid_segment_is_refused_in_one_sentence(segment: Any, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        recipe(segment)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"b1": 1.0}, "b1 is 1.0; give a number from 0 to below 1"),
        ({"b2": math.nan}, "b2 is nan"),
        ({"eps": 0.0}, "eps is 0.0; give a positive number"),
        ({"optimizer": "sgd", "b2": 0.99}, "b1, b2 and eps are for adam and adamw"),
        ({"optimizer": "adamw", "eps_sense": "keras"}, "keras is for adam; the optimizer is adamw"),
    ],
)
def test_adam_s_constants_out_of_range_are_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        recipe(**({"optimizer": "adam"} | changes))
