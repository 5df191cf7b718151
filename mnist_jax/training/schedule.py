"""The arithmetic of a recipe's steps: batches, epochs and evaluations."""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np

from mnist_jax.errors import UsageError
from mnist_jax.recipe import Recipe
from mnist_jax.training.shifts import SHIFTS


@dataclass(frozen=True)
class Schedule:
    """The steps of a training run, counted from 0 to `total_steps`.

    Attributes:
      examples: examples per epoch.
      batch_size: examples per step; the last step of an epoch takes the remainder.
      epochs: passes over the examples.
      eval_every: steps between evaluations, besides those at the end of every epoch; 0: none.
    """

    examples: int
    batch_size: int
    epochs: int
    eval_every: int

    @classmethod
    def of(cls, recipe: Recipe, examples: int) -> Self:
        """The recipe's schedule on a given number of examples.

        Raises:
          UsageError: they do not fill one batch.
        """
        if recipe.batch_size > examples:
            raise UsageError(
                f"batch_size is {recipe.batch_size}, but {recipe.dataset} has"
                f" {examples} training images."
            )
        if recipe.last_batch == "dropped":
            examples -= examples % recipe.batch_size
        return cls(examples, recipe.batch_size, recipe.epochs, recipe.eval_every)

    @classmethod
    def of_images(cls, recipe: Recipe, images: int) -> Self:
        """The recipe's schedule on a training set of `images`, including those held out.

        Raises:
          UsageError: they do not fill one batch.
        """
        views = len(SHIFTS) if recipe.one_pixel_shifts else 1
        return cls.of(recipe, views * (images - recipe.validation))

    @property
    def full_steps(self) -> int:
        """Steps of an epoch with a full batch."""
        return self.examples // self.batch_size

    @property
    def steps_per_epoch(self) -> int:
        """All steps of an epoch."""
        return math.ceil(self.examples / self.batch_size)

    @property
    def total_steps(self) -> int:
        """Steps of all epochs."""
        return self.steps_per_epoch * self.epochs

    @property
    def batch_sizes(self) -> set[int]:
        """The sizes of all batches."""
        return {self.batch_size, self.examples % self.batch_size or self.batch_size}

    def images(self, start: int, stop: int) -> np.ndarray:
        """The number of images in each step from `start` to before `stop`: [stop - start]."""
        first = np.arange(start, stop) % self.steps_per_epoch * self.batch_size
        return np.minimum(self.batch_size, self.examples - first)

    def next_evaluation(self, step: int) -> int:
        """The first evaluation after a step."""
        epoch, every = self.steps_per_epoch, self.eval_every or self.steps_per_epoch
        return min(step - step % every + every, step - step % epoch + epoch)

    def last_evaluation(self, step: int) -> int:
        """The last evaluation up to a step; 0 before the first."""
        epoch, every = self.steps_per_epoch, self.eval_every or self.steps_per_epoch
        return max(step - step % every, step - step % epoch)
