"""A row of `metrics.jsonl`: one evaluation of one seed."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Self

from mnist_jax.files import parse_json


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What an evaluation found, and what training was like since the one before it.

    Attributes:
      epoch: passes over the training set so far.
      step: steps taken so far.
      train_loss: mean over the images trained on since the last evaluation.
      train_accuracy: the same, from 0 to 1.
      test_loss: mean over all test images.
      test_accuracy: from 0 to 1.
      validation_accuracy: from 0 to 1; None where no images are held out.
      images_per_second: trained on since the last evaluation, of this seed.
      seconds: since the beginning of the run, without interruptions.
    """

    epoch: float
    step: int
    train_loss: float
    train_accuracy: float
    test_loss: float
    test_accuracy: float
    validation_accuracy: float | None = None
    images_per_second: float
    seconds: float

    def to_json(self) -> str:
        """One line; what there is none of is left out."""
        values = dataclasses.asdict(self).items()
        return json.dumps({name: value for name, value in values if value is not None})

    @classmethod
    def from_json(cls, line: str) -> Self:
        """Reads what `to_json` wrote.

        Raises:
          ValueError: it is something else.
        """
        try:
            row = cls(**parse_json(line))
        except TypeError as error:
            raise ValueError(f"a row has other columns: {error}") from error
        values = dataclasses.asdict(row)
        if row.validation_accuracy is None:
            del values["validation_accuracy"]
        if not all(type(value) in (int, float) for value in values.values()):
            raise ValueError("a column is no number")
        if not isinstance(row.step, int):
            raise ValueError("step is no whole number")
        return row
