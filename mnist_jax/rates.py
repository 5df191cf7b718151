"""Stretches of a learning rate's course, which a recipe may list."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import optax

from mnist_jax.named import Named


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
        """

    @abstractmethod
    def end_from(self, start: float) -> float:
        """Where it ends if it begins at `start`."""


@dataclass(frozen=True, kw_only=True)
class Constant(Stretch):
    """Stays where it begins."""

    name: str = field(default="constant", init=False, repr=False)

    def course(self, start: float, steps: int, steps_per_epoch: int) -> optax.Schedule:
        """See `Stretch`."""
        del steps, steps_per_epoch
        return optax.constant_schedule(start)

    def end_from(self, start: float) -> float:
        """See `Stretch`."""
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
        period = max(round(self.over * steps_per_epoch), 1)
        smooth = optax.exponential_decay(start, period, self.factor)
        # Optax's own staircase rounds a quotient down, and so a step late where that is inexact.
        return (lambda count: smooth(count - count % period)) if self.staircase else smooth

    def end_from(self, start: float) -> float:
        """See `Stretch`."""
        times = self.epochs / self.over
        return float(start * self.factor ** (times // 1 if self.staircase else times))


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

    def end_from(self, start: float) -> float:
        """See `Stretch`."""
        del start
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
