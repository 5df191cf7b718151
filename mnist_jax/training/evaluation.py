"""Logits, loss and accuracy over a whole split of images."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mnist_jax.inputs import evaluation_inputs
from mnist_jax.recipe import Recipe
from mnist_jax.training import chunks, devices
from mnist_jax.training.step import LOSSES, TrainState, training_mode_logits

# Takes states with a leading axis of seeds, and all images of a split, uint8 [N, 28, 28]; returns
# the states after the evaluation and the logits [seeds, N, 10], with every image exactly once.
# `exact` also accepts images that differ between seeds, [seeds, N, 28, 28].
Evaluate = Callable[[TrainState, np.ndarray], tuple[TrainState, np.ndarray]]


def exact(recipe: Recipe, mesh: Mesh, *, multiply_adds_per_parameter: float) -> Evaluate:
    """Evaluates in inference mode: dropout off, running statistics; states are unchanged.

    Args:
      recipe: the recipe that was trained.
      mesh: the devices to use, which do not communicate.
      multiply_adds_per_parameter: of the network's forward pass over one image.
    """
    chunk = chunks.evaluation_chunk(multiply_adds_per_parameter=multiply_adds_per_parameter)

    def of_seed(state: TrainState, chunks: jax.Array) -> jax.Array:
        model = state.model()
        logits: jax.Array = lax.map(lambda images: model(evaluation_inputs(recipe, images)), chunks)
        return logits

    def compiled(spec: P) -> Any:
        return devices.compile_over_seeds(
            of_seed, mesh, in_specs=(P("seed"), spec), out_specs=P("seed", "data")
        )

    specs = {3: P("data"), 4: P("seed", "data")}
    by_rank = {rank: compiled(spec) for rank, spec in specs.items()}

    def evaluate(states: TrainState, images: np.ndarray) -> tuple[TrainState, np.ndarray]:
        (*seeds, count, height, width), rank = images.shape, images.ndim
        missing = -count % (chunk * mesh.shape["data"])
        widths = [*[(0, 0)] * len(seeds), (0, missing), (0, 0), (0, 0)]
        padded = np.pad(images, widths) if missing else images
        chunks = padded.reshape(*seeds, -1, chunk, height, width)
        logits = by_rank[rank](
            # The optimiser's moments are not moved.
            jax.device_put(states.replace(opt_state=None), NamedSharding(mesh, P("seed"))),
            devices.place(chunks, mesh, specs[rank]),
        )
        found = devices.fetch(logits, mesh)
        return states, found.reshape(len(found), count + missing, -1)[:, :count]

    return evaluate


def in_training_mode(recipe: Recipe, mesh: Mesh) -> Evaluate:
    """Evaluates as article E's program does, in training batches; updates BatchNorm statistics.

    Args:
      recipe: the recipe that was trained.
      mesh: the mesh that it was trained on.
    """

    def of_seed(state: TrainState, batches: jax.Array) -> tuple[TrainState, jax.Array]:
        inputs = evaluation_inputs(recipe, batches)
        return training_mode_logits(state, inputs, axis_name=devices.data_axis(mesh))

    compiled = devices.compile_over_seeds(
        of_seed,
        mesh,
        in_specs=(P("seed"), P(None, "data")),
        out_specs=(P("seed"), P("seed", None, "data")),
        donate=(0,),
    )

    def evaluate(states: TrainState, images: np.ndarray) -> tuple[TrainState, np.ndarray]:
        size = recipe.batch_size
        split = len(images) // size * size
        parts = []
        for some in (images[:split].reshape(-1, size, *images.shape[1:]), images[None, split:]):
            if some.size:
                batches = devices.place(some, mesh, P(None, "data"))
                states, logits = compiled(states, batches)
                seeds, count, batch, classes = logits.shape
                parts.append(devices.fetch(logits, mesh).reshape(seeds, count * batch, classes))
        return states, np.concatenate(parts, axis=1)

    return evaluate


def score(recipe: Recipe, logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each seed's mean loss and accuracy [seeds].

    Args:
      recipe: defines the loss.
      logits: [seeds, N, 10].
      labels: [N], or [seeds, N] if they differ between seeds.
    """
    losses = np.asarray(_losses(recipe.loss, logits, labels), np.float64)
    return losses.mean(-1), (logits.argmax(-1) == labels).mean(-1)


@partial(jax.jit, static_argnums=0)
def _losses(name: str, logits: jax.Array, labels: jax.Array) -> jax.Array:
    losses: jax.Array = jax.vmap(LOSSES[name], (0, 0 if labels.ndim > 1 else None))(logits, labels)
    return losses
