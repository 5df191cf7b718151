"""The schedule of steps, batches and evaluations."""

import pytest

from mnist_jax.errors import UsageError
from mnist_jax.models import model_entry
from mnist_jax.training.schedule import Schedule


def test_last_batch_of_an_epoch_has_the_remaining_images() -> None:
    schedule = Schedule(examples=64, batch_size=24, epochs=2, eval_every=0)
    assert (schedule.full_steps, schedule.steps_per_epoch, schedule.total_steps) == (2, 3, 6)
    assert schedule.batch_sizes == {24, 16}
    assert schedule.images(1, 5).tolist() == [24, 16, 24, 24]
    assert schedule.images(0, 6).sum() == 2 * 64


def test_batches_that_divide_an_epoch_are_all_full() -> None:
    schedule = Schedule(examples=64, batch_size=16, epochs=3, eval_every=0)
    assert schedule.full_steps == schedule.steps_per_epoch == 4
    assert schedule.batch_sizes == {16}
    assert schedule.images(0, 4).tolist() == [16] * 4


@pytest.mark.parametrize(
    ("eval_every", "expected"), [(0, [7, 14]), (3, [3, 6, 7, 9, 12, 14]), (9, [7, 9, 14])]
)
def test_evaluations_are_periodic_and_after_every_epoch(
    eval_every: int, expected: list[int]
) -> None:
    schedule = Schedule(examples=100, batch_size=16, epochs=2, eval_every=eval_every)
    step, found = 0, []
    while step < schedule.total_steps:
        after = schedule.next_evaluation(step)
        assert all(schedule.last_evaluation(s) == step for s in range(step, after))
        step = after
        found.append(step)
    assert found == expected


def test_batch_size_above_the_number_of_examples_is_refused() -> None:
    recipe = model_entry("shallow").recipe
    assert Schedule.of(recipe, recipe.batch_size).steps_per_epoch == 1
    with pytest.raises(UsageError, match=f"has {recipe.batch_size - 1} training images"):
        Schedule.of(recipe, recipe.batch_size - 1)
