"""Stretches of a learning rate's course, which a recipe may list."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import optax

from mnist_jax.errors import UsageError
from mnist_jax.named import LARGEST, Named


def steps_of(epochs: float, steps_per_epoch: int) -> int:
    """How many steps so many epochs have, to the nearest.

    Raises:
      UsageError: they are more than 32 bits count, as a training's are counted.
    """
    if epochs * steps_per_epoch > 2**31 - 2:
        raise UsageError(
            f"learning_rate_schedule has {epochs:g} epochs of {steps_per_epoch} steps; give fewer."
        )
    return round(epochs * steps_per_epoch)


@dataclass(frozen=True, kw_only=True)
class Stretch(Named, ABC):
    """A learning rate over some epochs, as a multiple of the recipe's.

    Attributes:
      epochs: how long it lasts; may be a fraction.
      start: where it begins; by default where the stretch before ends, and the first one at 1.
    """

    epochs: float
    start: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epochs <= 0:
            self.refuse("epochs", "a positive number")
        if self.start is not None and self.start < 0:
            self.refuse("start", "0 or more")

    @abstractmethod
    def course(self, start: float, steps: int, steps_per_epoch: int) -> optax.Schedule:
        """From the steps since its beginning to the multiple.

        Args:
          start: where it begins.
          steps: how long it lasts.
          steps_per_epoch: that an epoch has.

        Raises:
          UsageError: it counts more steps than there can be.
        """

    @abstractmethod
    def end_from(self, start: float, steps: int, steps_per_epoch: int) -> float:
        """What its course comes to after its last step; arguments and errors as there.

        Raises:
          UsageError: no number can hold it.
        """


@dataclass(frozen=True, kw_only=True)
class Constant(Stretch):
    """Stays where it begins."""

    name: str = field(default="constant", init=False, repr=False)

    def course(self, start: float, steps: int, steps_per_epoch: int) -> optax.Schedule:
        """See `Stretch`."""
        del steps, steps_per_epoch
        return optax.constant_schedule(start)

    def end_from(self, start: float, steps: int, steps_per_epoch: int) -> float:
        """See `Stretch`."""
        del steps, steps_per_epoch
        return start


@dataclass(frozen=True, kw_only=True)
class Exponential(Stretch):
    """Falls, or rises, by the same factor in equal times.

    Attributes:
      factor: by which it changes.
      over: the epochs in which it does so.
      staircase: whether it changes at the end of these alone, and not at every step.
    """

    name: str = field(default="exponential", init=False, repr=False)
    factor: float
    over: float = 1.0
    staircase: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("factor", "over"):
            if getattr(self, name) <= 0:
                self.refuse(name, "a positive number")

    def course(self, start: float, steps: int, steps_per_epoch: int) -> optax.Schedule:
        """See `Stretch`."""
        del steps
        period = self._period(steps_per_epoch)
        smooth = optax.exponential_decay(start, period, self.factor)
        # Optax's own staircase rounds a quotient down, and so a step late where that is inexact.
        return (lambda count: smooth(count - count % period)) if self.staircase else smooth

    def end_from(self, start: float, steps: int, steps_per_epoch: int) -> float:
        """See `Stretch`."""
        period = self._period(steps_per_epoch)
        times = steps // period if self.staircase else steps / period
        try:
            end = start * self.factor**times
        except OverflowError:
            end = math.inf
        if end > LARGEST:
            self.refuse("epochs", "fewer, so that the rate stays a number")
        return end

    def _period(self, steps_per_epoch: int) -> int:
        return max(steps_of(self.over, steps_per_epoch), 1)


@dataclass(frozen=True, kw_only=True)
class _ToEnd(Stretch):
    """Goes to an end that is given.

    Attributes:
      end: which it would have reached at the step after its last.
    """

    end: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.end < 0:
            self.refuse("end", "0 or more")

    def end_from(self, start: float, steps: int, steps_per_epoch: int) -> float:
        """See `Stretch`."""
        del start, steps, steps_per_epoch
        return self.end


@dataclass(frozen=True, kw_only=True)
class Linear(_ToEnd):
    """Goes straight to its end."""

    name: str = field(default="linear", init=False, repr=False)

    def course(self, start: float, steps: int, steps_per_epoch: int) -> optax.Schedule:
        """See `Stretch`."""
        del steps_per_epoch
        return optax.linear_schedule(start, self.end, steps)


@dataclass(frozen=True, kw_only=True)
class Cosine(_ToEnd):
    """Goes to its end along half a wave of a cosine."""

    name: str = field(default="cosine", init=False, repr=False)

    def course(self, start: float, steps: int, steps_per_epoch: int) -> optax.Schedule:
        """See `Stretch`."""
        del steps_per_epoch
        fall = optax.cosine_decay_schedule(1.0, steps)
        return lambda count: self.end + (start - self.end) * fall(count)


STRETCHES: dict[str, type[Stretch]] = {
    kind.name: kind for kind in (Constant, Linear, Exponential, Cosine)
}
