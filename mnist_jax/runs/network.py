"""Loading the network of a run, with its weights and without its training state."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mnist_jax.errors import UsageError
from mnist_jax.files import expanded
from mnist_jax.inputs import evaluation_inputs
from mnist_jax.models import abstract_model
from mnist_jax.models.layers import Network, in_evaluation
from mnist_jax.recipe import Recipe
from mnist_jax.runs.checkpoints import Checkpoints
from mnist_jax.runs.directory import RunDirectory

# Images per call of the compiled function.
_CHUNK = 500
_KINDS = {"params": nnx.Param, "batch_stats": nnx.BatchStat}


def blank_network(recipe: Recipe) -> Network:
    """The recipe's network with all arrays zero, which is fast to make."""
    network = abstract_model(recipe.model, **recipe.model_args)
    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), nnx.state(network))
    nnx.update(network, zeros)
    return network


def arrays_of(network: Network) -> dict[str, Any]:
    """A network's `params` and `batch_stats`, as in checkpoints."""
    return {name: nnx.as_pure(nnx.state(network, kind)) for name, kind in _KINDS.items()}


@dataclass(frozen=True)
class LoadedRun:
    """The network of a run; see `load_run`.

    Attributes:
      recipe: the run's recipe.
      step: the step of the checkpoint.
      network: from normalised images [N, 28, 28, 1] to logits [N, 10], in evaluation mode; has the
        averaged weights if the recipe evaluates these.
      source: where it was loaded from, for messages.
      voters: number of networks in it, which vote by the mean of their probabilities.
    """

    recipe: Recipe
    step: int
    network: Network
    source: str
    voters: int = 1

    @functools.cached_property
    def probabilities(self) -> Callable[[np.ndarray], np.ndarray]:
        """A compiled function from images uint8 [N, 28, 28] to probabilities [N, 10]."""
        return classifier(self.network, self.recipe)


def load_run(path: Path | str, step: int | None = None) -> LoadedRun:
    """Loads the network from a run directory of `mnist_jax.train`; the dataset is not needed.

    Args:
      path: the run directory, of one seed.
      step: the checkpoint's step; by default the selected one of a finished run, else the latest.

    Raises:
      UsageError: the path's `~NAME` is not a user.
      Failure: there is no such run or checkpoint, or it is damaged.
    """
    run = RunDirectory(expanded(path))
    recipe = run.recipe()
    network = blank_network(recipe)
    if step is None and (result := run.result()) is not None:
        step = result["selected_step"]
    like = arrays_of(network)
    if recipe.average_decay:
        like = {"averages": like}
    with Checkpoints(run.checkpoints) as checkpoints:
        step, saved = checkpoints.restore(like, step)
    saved = saved.get("averages", saved)
    nnx.update(network, *(jax.tree.map(jnp.asarray, saved[name]) for name in _KINDS))
    return LoadedRun(recipe, step, in_evaluation(network), str(run.path))


def classifier(network: Network, recipe: Recipe) -> Callable[[np.ndarray], np.ndarray]:
    """Compiles a function from images uint8 [N, 28, 28] to probabilities [N, 10], for any N.

    They are the softmax of the logits of a network in evaluation mode. A network trained on squared
    errors outputs probabilities already, which are scaled to sum to 1. The function raises a
    UsageError for arrays of another shape, or not of integers.
    """

    @jax.jit
    def probabilities(images: jax.Array) -> jax.Array:
        outputs = network(evaluation_inputs(recipe, images))
        if recipe.loss == "cross_entropy":
            return jax.nn.softmax(outputs)
        positive = jnp.maximum(outputs, 1e-6)
        return positive / positive.sum(-1, keepdims=True)

    def classify(images: np.ndarray) -> np.ndarray:
        images = np.asarray(images)
        if images.shape[1:] != (28, 28) or not np.issubdtype(images.dtype, np.integer):
            raise UsageError(
                f"The images are {images.dtype} {list(images.shape)}; give integers from 0 to 255"
                " in the shape [N, 28, 28]."
            )
        starts = range(0, len(images), _CHUNK)
        found = [probabilities(images[start : start + _CHUNK]) for start in starts]
        return np.concatenate([np.zeros((0, 10), np.float32), *found])

    return classify
