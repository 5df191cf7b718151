"""Loss and right answers of every step, as records keep them."""

import base64
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from mnist_jax.recipe import Recipe
from mnist_jax.training.schedule import Schedule

# Article F's runs have 28,125 steps, the most of those whose article shows every one. A and B take
# ten times as many, and print epochs.
MOST = 30_000
# Of a float16's 11 significant bits the last five are noise: losses are kept to 1.6%.
_LAST_BITS = 5


@dataclass(frozen=True, eq=False)
class Steps:
    """Every step of a run.

    Attributes:
      examples: in an epoch.
      images: [steps], in the batch of each step.
      loss: float32 [steps], the mean over that batch, to 1.6%.
      right: [steps], how many of the batch's images were classified rightly.
    """

    examples: int
    images: np.ndarray
    loss: np.ndarray
    right: np.ndarray

    @classmethod
    def of_log(cls, log: np.ndarray | None, schedule: Schedule) -> Self | None:
        """Of `RunDirectory.steps`; None of a run that is too long, or has steps nobody knows."""
        if log is None or len(log) > MOST:
            return None
        loss = _rounded(log[:, 0])
        if len(log) != schedule.total_steps or not np.isfinite([loss, log[:, 1]]).all():
            return None
        images = schedule.images(0, len(log))
        return cls(schedule.examples, images, loss, np.rint(log[:, 1] * images).astype(int))

    @property
    def accuracy(self) -> np.ndarray:
        """[steps], on the batch, in percent."""
        return 100 * self.right / self.images

    def to_json(self) -> dict[str, Any]:
        """What a record holds of it."""
        loss = self.loss.astype(np.float16).view(np.uint16)
        return {"examples": self.examples, "loss": _pack(loss), "right": _pack(self.right)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], recipe: Recipe) -> Self:
        """Reads what `to_json` wrote of a run of this recipe.

        Raises:
          ValueError: it is something else.
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
        """Whether their means are those that a curve has of every evaluation."""
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
    """Losses as a float16 has them, to fewer bits; infinite where it has no such number."""
    unit = 1 << _LAST_BITS
    with np.errstate(over="ignore"):
        bits = loss.astype(np.float16).view(np.uint16)
    return ((bits + unit // 2) // unit * unit).astype(np.uint16).view(np.float16).astype(np.float32)


def _pack(values: np.ndarray) -> str:
    """Numbers below 2^16; high and low bytes apart, which compresses better."""
    planes = values.astype("<u2").view(np.uint8).reshape(-1, 2).T
    return base64.b64encode(zlib.compress(planes.tobytes(), 9)).decode()


def _unpack(text: str) -> np.ndarray:
    content = zlib.decompress(base64.b64decode(text, validate=True))
    planes = np.frombuffer(content, np.uint8).reshape(2, -1)
    return np.ascontiguousarray(planes.T).view("<u2")[:, 0]
