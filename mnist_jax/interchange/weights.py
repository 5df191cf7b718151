"""Conversion of weights between PyTorch's files and run directories."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mnist_jax.data import Dataset, Split
from mnist_jax.errors import Failure, UsageError
from mnist_jax.interchange import pytorch, tensor_files
from mnist_jax.models import model_entry
from mnist_jax.models.layers import Network
from mnist_jax.recipe import Recipe
from mnist_jax.runs.checkpoints import Checkpoints
from mnist_jax.runs.directory import RunDirectory
from mnist_jax.runs.environment import describe_environment
from mnist_jax.runs.network import LoadedRun, arrays_of, blank_network, load_run
from mnist_jax.training.optimizers import make_optimizer
from mnist_jax.training.session import Weights
from mnist_jax.training.step import SAVED, TrainState


def read_weights(recipe: Recipe) -> Weights:
    """Reads a recipe's `init_from` weights: a run's selected or latest checkpoint, or a file.

    Raises:
      UsageError: the run is of another network, or the file's suffix is unknown.
      Failure: it can't be read, or its arrays are not those of the recipe's network.
    """
    source = Path(recipe.init_from)
    if source.is_dir():
        run = RunDirectory(source)
        theirs = run.recipe()
        network = load_run(source).network
        if theirs.model != recipe.model or _shapes(network) != _shapes(blank_network(recipe)):
            raise UsageError(
                f"{source} is a run of {_description(theirs)}, not of {_description(recipe)}."
            )
    else:
        network, _ = network_of(tensor_files.read_tensors(source), recipe, source)
    arrays = arrays_of(network)
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(arrays):
        digest.update(np.asarray(leaf).tobytes())
    return Weights(arrays, digest.hexdigest())


def import_weights(
    model: str,
    source: Path | str,
    run: RunDirectory,
    model_args: Mapping[str, Any] | None = None,
) -> None:
    """Makes a run from an author's weights, with the article's recipe and one checkpoint.

    The checkpoint's step is BatchNorm's `num_batches_tracked` in the file, or 0 without BatchNorm.

    Args:
      model: one of `model_names()`.
      source: a `state_dict` as `.safetensors` or `.pt`.
      run: a directory without a run.
      model_args: constructor arguments of the network to add to the article's recipe.

    Raises:
      UsageError: the model, an argument or the file's suffix is unknown, or the directory has a
        run.
      Failure: the file is not a `state_dict` of this network, or the run can't be written; nothing
        is left behind.
    """
    source = Path(source)
    recipe = model_entry(model).recipe
    recipe = dataclasses.replace(recipe, model_args={**recipe.model_args, **(model_args or {})})
    network, batches = network_of(tensor_files.read_tensors(source), recipe, source)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    none = Split(np.zeros((0, 28, 28), np.uint8), np.zeros(0, np.int32))
    origin = f"none, the weights are those of {source} (SHA-256 {digest})"
    unseen = Dataset(recipe.dataset, none, none, sha256="", source=origin)
    # The checkpoint's content: a network whose training is about to begin.
    state = TrainState.create(
        network,
        make_optimizer(recipe, 1),
        key=jax.random.key(0),
        average_decay=recipe.average_decay,
    )
    with run.locked():
        if run.begun():
            raise UsageError(f"{run.path} already has a run; give another --workdir.")
        try:
            run.create(recipe, describe_environment(unseen, {}))
            with Checkpoints(run.checkpoints) as checkpoints:
                checkpoints.save(batches, {name: getattr(state, name) for name in SAVED})
        except BaseException:  # Ctrl-C too: half a run would be in the way of the next try.
            run.clear()
            raise


def export_weights(run: RunDirectory, target: Path | str, step: int | None = None) -> None:
    """Writes a run's weights as `.safetensors` for the author's module.

    The checkpoint is the one that `load_run` reads.

    Raises:
      UsageError: the file has another suffix.
      Failure: there is no such run or checkpoint, the network has a layer that can't be converted,
        or the file can't be written.
    """
    tensor_files.write_tensors(state_dict(load_run(run.path, step)), target)


def state_dict(run: LoadedRun) -> dict[str, np.ndarray]:
    """The weights of a run's network for the author's module.

    Raises:
      Failure: the network has a layer that can't be converted.
    """
    names = _torch_layers(run.network, run.recipe.model)
    layers = pytorch.by_layer(nnx.state(run.network))
    return pytorch.to_torch(layers, names, batches=run.step)


def network_of(
    tensors: Mapping[str, np.ndarray], recipe: Recipe, source: Path
) -> tuple[Network, int]:
    """Makes the recipe's network with a file's weights; also returns `num_batches_tracked`.

    Args:
      tensors: a `state_dict`.
      recipe: the recipe.
      source: the file, for messages.

    Raises:
      Failure: it is not a `state_dict` of this network.
    """
    network = blank_network(recipe)
    names = _torch_layers(network, recipe.model)
    arrays = nnx.state(network)
    try:
        layers = pytorch.from_torch(tensors, names, pytorch.by_layer(arrays))
    except Failure as clause:
        raise Failure(
            f"{source} {clause}; give the state_dict of a {_description(recipe)}."
        ) from clause
    nnx.update(network, jax.tree.map(jnp.asarray, pytorch.fill(arrays, layers)))
    return network, pytorch.batches_seen(tensors)


def _torch_layers(network: Network, model: str) -> dict[str, pytorch.Layer]:
    try:
        return pytorch.torch_layers(network, model_entry(model).torch_names)
    except Failure as clause:
        raise Failure(f"The network {model} {clause}.") from clause


def _shapes(network: Network) -> Any:
    return jax.tree.map(jnp.shape, nnx.as_pure(nnx.state(network)))


def _description(recipe: Recipe) -> str:
    arguments = f" with {json.dumps(recipe.model_args)}" if recipe.model_args else ""
    return recipe.model + arguments
