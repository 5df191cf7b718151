"""The courses of runs that took the same batches: what is kept of them."""

from typing import NamedTuple


class Side(NamedTuple):
    """The course of one side, a value for every epoch: means over its images, and the test's."""

    train_loss: list[float]
    train_accuracy: list[float]
    test_loss: list[float]
    test_accuracy: list[float]


class Apart(NamedTuple):
    """How far another run is from ours after every epoch.

    Attributes:
      predictions: of how many test images the predicted labels differ.
      values: the largest difference of a parameter or BatchNorm statistic.
    """

    predictions: list[int]
    values: list[float]


class Followed(NamedTuple):
    """Runs that took the same batches.

    Attributes:
      ours: our course.
      theirs: that of the author's network.
      apart: how far they are apart.
      nudged: how far our second run is from ours.
      first_step: the first step, from 1 on, of whose batch the two had another number of images
        right; None if there is none.
      losses: the largest difference of the loss of any step before that.
      steps: taken.
    """

    ours: Side
    theirs: Side
    apart: Apart
    nudged: Apart
    first_step: int | None
    losses: float
    steps: int

    @property
    def sides(self) -> tuple[Side, Side]:
        """Ours and theirs."""
        return self.ours, self.theirs

    @property
    def distances(self) -> tuple[Apart, Apart]:
        """From the author's network, and from our second run."""
        return self.apart, self.nudged
