"""Loss and number of correct images of every step, as stored in records."""

import base64
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from mnist_jax.recipe import Recipe
from mnist_jax.training.schedule import Schedule

# Article F's runs, at 28,125 steps, are the longest whose article shows every step. A's and B's
# have ten times as many, and the articles report epochs.
MOST = 30_000
# The last five of a float16's 11 significant bits are noise: losses are stored to 1.6%, or,
# if that is more, to 1e-6.
_LAST_BITS = 5


@dataclass(frozen=True, eq=False)
class Steps:
    """The log of every step of a run.

    Attributes:
      examples: images per epoch.
      images: [steps], the number of images in each step's batch.
      loss: float32 [steps], the mean over that batch, to 1.6% or, if that is more, 1e-6.
      right: [steps], the number of the batch's images classified correctly.
    """

    examples: int
    images: np.ndarray
    loss: np.ndarray
    right: np.ndarray

    @classmethod
    def of_log(cls, log: np.ndarray | None, schedule: Schedule) -> Self | None:
        """Makes it from `RunDirectory.steps`; None if the run is too long or steps are unknown."""
        if log is None or len(log) > MOST:
            return None
        loss = _rounded(log[:, 0])
        if len(log) != schedule.total_steps or not np.isfinite([loss, log[:, 1]]).all():
            return None
        images = schedule.images(0, len(log))
        return cls(schedule.examples, images, loss, np.rint(log[:, 1] * images).astype(int))

    @property
    def accuracy(self) -> np.ndarray:
        """[steps], the batch accuracy in percent."""
        return 100 * self.right / self.images

    def to_json(self) -> dict[str, Any]:
        """The form stored in a record."""
        loss = self.loss.astype(np.float16).view(np.uint16)
        return {"examples": self.examples, "loss": _pack(loss), "right": _pack(self.right)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], recipe: Recipe) -> Self:
        """Reads what `to_json` wrote for a run of this recipe.

        Raises:
          ValueError: the values do not fit the recipe.
        """
        if values.keys() != {"examples", "loss", "right"}:
            raise ValueError("its steps are none")
        schedule = Schedule.of(recipe, values["examples"])
        images = schedule.images(0, schedule.total_steps)
        loss, right = _unpack(values["loss"]), _unpack(values["right"])
        if not len(loss) == len(right) == len(images) or (right > images).any():
            raise ValueError("its steps are not those of its recipe")
        return cls(schedule.examples, images, loss.view(np.float16).astype(np.float32), right)

    def agree(self, curve: Mapping[str, Sequence[float]]) -> bool:
        """Whether the steps' means agree with a curve's values at every evaluation."""
        ends = np.asarray(curve["step"])
        if ends[-1] != len(self.images):
            return False
        starts = [0, *ends[:-1]]
        images, right, loss = (
            np.add.reduceat(values, starts)
            for values in (self.images, self.right, self.loss * self.images)
        )
        return np.allclose(right / images, curve["train_accuracy"], rtol=0, atol=1e-5) and (
            np.allclose(loss / images, curve["train_loss"], rtol=0.02, atol=1e-5)
        )


def _rounded(loss: np.ndarray) -> np.ndarray:
    """Losses rounded to a float16 with fewer bits; infinite on overflow."""
    unit = 1 << _LAST_BITS
    with np.errstate(over="ignore"):
        bits = loss.astype(np.float16).view(np.uint16)
    return ((bits + unit // 2) // unit * unit).astype(np.uint16).view(np.float16).astype(np.float32)


def _pack(values: np.ndarray) -> str:
    """Packs integers below 2^16, with high and low bytes separate, which compresses better."""
    planes = values.astype("<u2").view(np.uint8).reshape(-1, 2).T
    return base64.b64encode(zlib.compress(planes.tobytes(), 9)).decode()


def _unpack(text: str) -> np.ndarray:
    content = zlib.decompress(base64.b64decode(text, validate=True))
    planes = np.frombuffer(content, np.uint8).reshape(2, -1)
    return np.ascontiguousarray(planes.T).view("<u2")[:, 0]
