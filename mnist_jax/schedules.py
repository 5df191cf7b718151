"""Segments of a learning-rate schedule, which a recipe may list."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import optax

from mnist_jax.errors import UsageError
from mnist_jax.named import LARGEST, Named


def steps_of(epochs: float, steps_per_epoch: int) -> int:
    """The number of steps in `epochs`, rounded to the nearest.

    Raises:
      UsageError: there are more than a 32-bit step counter can hold.
    """
    if epochs * steps_per_epoch > 2**31 - 2:
        raise UsageError(
            f"learning_rate_schedule has {epochs:g} epochs of {steps_per_epoch} steps; give fewer."
        )
    return round(epochs * steps_per_epoch)


@dataclass(frozen=True, kw_only=True)
class Segment(Named, ABC):
    """A learning rate over some epochs, as a multiple of the recipe's.

    Attributes:
      epochs: its length; may be a fraction.
      start: the first multiple; by default where the previous segment ends, or 1 in the first.
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
    def schedule(self, start: float, steps: int, steps_per_epoch: int) -> optax.Schedule:
        """The multiple as a function of the steps since the segment began.

        Args:
          start: the first multiple.
          steps: the segment's length in steps.
          steps_per_epoch: steps in an epoch.

        Raises:
          UsageError: a period has more steps than a 32-bit step counter can hold.
        """

    @abstractmethod
    def end_from(self, start: float, steps: int, steps_per_epoch: int) -> float:
        """The multiple after the segment's last step; arguments and errors as for `schedule`.

        Raises:
          UsageError: it is too large for a float32.
        """


@dataclass(frozen=True, kw_only=True)
class Constant(Segment):
    """Keeps its first multiple."""

    name: str = field(default="constant", init=False, repr=False)

    def schedule(self, start: float, steps: int, steps_per_epoch: int) -> optax.Schedule:
        """See `Segment`."""
        del steps, steps_per_epoch
        return optax.constant_schedule(start)

    def end_from(self, start: float, steps: int, steps_per_epoch: int) -> float:
        """See `Segment`."""
        del steps, steps_per_epoch
        return start


@dataclass(frozen=True, kw_only=True)
class Exponential(Segment):
    """Exponential decay, or growth.

    Attributes:
      factor: what the rate is multiplied by in each period.
      over: the period, in epochs.
      staircase: whether it changes only at the end of a period instead of at every step.
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

    def schedule(self, start: float, steps: int, steps_per_epoch: int) -> optax.Schedule:
        """See `Segment`."""
        del steps
        period = self._period(steps_per_epoch)
        smooth = optax.exponential_decay(start, period, self.factor)
        # Optax's own staircase floors a quotient; where that is inexact, it changes a step late.
        return (lambda count: smooth(count - count % period)) if self.staircase else smooth

    def end_from(self, start: float, steps: int, steps_per_epoch: int) -> float:
        """See `Segment`."""
        period = self._period(steps_per_epoch)
        times = steps // period if self.staircase else steps / period
        try:
            end = start * self.factor**times
        except OverflowError:
            end = math.inf
        if end > LARGEST:
            self.refuse("epochs", "fewer, so that the rate stays finite")
        return end

    def _period(self, steps_per_epoch: int) -> int:
        return max(steps_of(self.over, steps_per_epoch), 1)


@dataclass(frozen=True, kw_only=True)
class _ToEnd(Segment):
    """Moves to a given final multiple.

    Attributes:
      end: the multiple it would reach one step after its last.
    """

    end: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.end < 0:
            self.refuse("end", "0 or more")

    def end_from(self, start: float, steps: int, steps_per_epoch: int) -> float:
        """See `Segment`."""
        del start, steps, steps_per_epoch
        return self.end


@dataclass(frozen=True, kw_only=True)
class Linear(_ToEnd):
    """Moves linearly to `end`."""

    name: str = field(default="linear", init=False, repr=False)

    def schedule(self, start: float, steps: int, steps_per_epoch: int) -> optax.Schedule:
        """See `Segment`."""
        del steps_per_epoch
        return optax.linear_schedule(start, self.end, steps)


@dataclass(frozen=True, kw_only=True)
class Cosine(_ToEnd):
    """Moves to `end` along half a cosine wave."""

    name: str = field(default="cosine", init=False, repr=False)

    def schedule(self, start: float, steps: int, steps_per_epoch: int) -> optax.Schedule:
        """See `Segment`."""
        del steps_per_epoch
        fall = optax.cosine_decay_schedule(1.0, steps)
        return lambda count: self.end + (start - self.end) * fall(count)


SEGMENTS: dict[str, type[Segment]] = {
    kind.name: kind for kind in (Constant, Linear, Exponential, Cosine)
}
