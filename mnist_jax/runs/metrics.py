"""A row of `metrics.jsonl`: one evaluation of one seed."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Self

from mnist_jax.files import parse_json


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The results of an evaluation, and training metrics since the previous one.

    Attributes:
      epoch: passes over the training set so far.
      step: steps taken so far.
      train_loss: mean over the images trained on since the last evaluation.
      train_accuracy: the same, from 0 to 1.
      test_loss: mean over all test images.
      test_accuracy: from 0 to 1.
      validation_accuracy: from 0 to 1; None if no images are held out.
      images_per_second: this seed's training speed since the last evaluation.
      seconds: time since the beginning of the run, without interruptions.
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
        """Formats the row as one line of JSON, without a field that is None."""
        values = dataclasses.asdict(self).items()
        return json.dumps({name: value for name, value in values if value is not None})

    @classmethod
    def from_json(cls, line: str) -> Self:
        """Reads a line that `to_json` wrote.

        Raises:
          ValueError: it is not such a line.
        """
        try:
            row = cls(**parse_json(line))
        except TypeError as error:
            raise ValueError(f"a row has other columns: {error}") from error
        values = dataclasses.asdict(row)
        if row.validation_accuracy is None:
            del values["validation_accuracy"]
        if not all(type(value) in (int, float) for value in values.values()):
            raise ValueError("a column is not a number")
        if not isinstance(row.step, int):
            raise ValueError("step is not a whole number")
        return row
