"""Stored training curves of runs on the same batches."""

from typing import NamedTuple


class Side(NamedTuple):
    """The curves of one side, one value per epoch: means over its images, and test results."""

    train_loss: list[float]
    train_accuracy: list[float]
    test_loss: list[float]
    test_accuracy: list[float]


class Distance(NamedTuple):
    """The differences between another run and ours after every epoch.

    Attributes:
      predictions: the number of test images whose predicted labels differ.
      values: the largest difference of a parameter or BatchNorm statistic.
    """

    predictions: list[int]
    values: list[float]


class Replay(NamedTuple):
    """A run of ours, and its replay by the author's network.

    Attributes:
      ours: our curves.
      theirs: those of the author's network.
      distance: the author's network compared with ours.
      perturbed: our perturbed runs compared with ours.
      first_step: the first step, from 1 on, at which the two classified different numbers of the
        batch's images correctly; None if there is none.
      losses: the largest difference of the loss of any step before that.
      steps: the number of steps.
    """

    ours: Side
    theirs: Side
    distance: Distance
    perturbed: list[Distance]
    first_step: int | None
    losses: float
    steps: int

    @property
    def sides(self) -> tuple[Side, Side]:
        """Ours and theirs."""
        return self.ours, self.theirs
