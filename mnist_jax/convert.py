"""Carries weights between PyTorch and run directories.

`python -m mnist_jax.convert --model=lenet --from=weights.pt --workdir=runs/theirs` makes a run of
an author's weights, for `mnist_jax.evaluate`;
`python -m mnist_jax.convert --workdir=runs/ours --to=weights.safetensors` writes a run's weights,
for `load_state_dict(strict=True)` of the author's module.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from flax import nnx

from mnist_jax import cli
from mnist_jax.cli import display
from mnist_jax.data import Dataset, Split
from mnist_jax.errors import Failure, UsageError
from mnist_jax.interchange import pytorch, tensor_files
from mnist_jax.models import model_entry
from mnist_jax.models.layers import Network
from mnist_jax.recipe import Recipe
from mnist_jax.runs.checkpoints import Checkpoints
from mnist_jax.runs.directory import RunDirectory, describe_environment
from mnist_jax.runs.network import blank_network, load_network
from mnist_jax.training.optimizers import make_optimizer
from mnist_jax.training.step import TrainState

_MODEL = flags.DEFINE_string("model", None, "Which network the weights of --from belong to.")
_MODEL_ARGS = flags.DEFINE_string(
    "model_args", None, 'Arguments of that network as JSON, such as {"hidden": 300}.'
)
_FROM = flags.DEFINE_string("from", None, "A .pt or .safetensors file to make a run of.")
_TO = flags.DEFINE_string("to", None, "A .safetensors file to write the run's weights to.")
_WORKDIR = flags.DEFINE_string("workdir", None, "The run directory.")
_STEP = flags.DEFINE_integer(
    "step", None, "With --to, which checkpoint; by default the run's selected one or its latest."
)


def import_weights(
    model: str, source: Path, run: RunDirectory, model_args: Mapping[str, Any] | None = None
) -> None:
    """Makes a run of an author's weights, with the article's recipe and one checkpoint.

    The checkpoint's step is what BatchNorm counted in the file, and 0 without BatchNorm.

    Args:
      model: one of `model_names()`.
      source: a `state_dict` as `.safetensors` or `.pt`.
      run: a directory without a run.
      model_args: arguments of the network's constructor that the article's recipe has not.

    Raises:
      UsageError: the model, an argument or the file's ending is unknown, or the directory has a
        run.
      Failure: the file is not a `state_dict` of this network, or the run can't be written. Then
        nothing is written.
    """
    entry = model_entry(model)
    arguments = {**entry.recipe.model_args, **(model_args or {})}
    recipe = dataclasses.replace(entry.recipe, model_args=arguments)
    if (run.path / "config.json").exists():
        raise UsageError(f"{run.path} has a run already; give another --workdir.")
    tensors = tensor_files.read_tensors(source)
    network = blank_network(recipe)
    states = nnx.state(network, nnx.Param), nnx.state(network, nnx.BatchStat)
    try:
        names = pytorch.torch_layers(network, entry.torch_names)
        layers = pytorch.from_torch(tensors, names, pytorch.by_layer(*states))
    except Failure as clause:
        raise Failure(f"{source} {clause}; give the state_dict of a {model}.") from clause
    nnx.update(network, jax.tree.map(jnp.asarray, layers))
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    none = Split(np.zeros((0, 28, 28), np.uint8), np.zeros(0, np.int32))
    origin = f"none, the weights are those of {source} (SHA-256 {digest})"
    unseen = Dataset(recipe.dataset, none, none, sha256="", source=origin)
    with run.locked():
        run.create(recipe, describe_environment(unseen, {}))
        with Checkpoints(run.checkpoints) as checkpoints:
            step = pytorch.batches_seen(tensors)
            checkpoints.save(step, _saved(network, recipe), best=True)


def export_weights(run: RunDirectory, target: Path, step: int | None = None) -> None:
    """Writes a run's weights for the author's module.

    Args:
      run: of any network whose layers are its author's.
      target: a `.safetensors` file.
      step: which checkpoint; by default the selected one of a run that has ended, else its latest.

    Raises:
      UsageError: the file's ending is another.
      Failure: there is no such run or checkpoint, the network's layers are not its author's, or
        the file can't be written.
    """
    step, network = load_network(run, step)
    model = run.recipe().model
    try:
        names = pytorch.torch_layers(network, model_entry(model).torch_names)
    except Failure as clause:
        raise Failure(f"The {model} in {run.path} {clause}.") from clause
    states = nnx.state(network, nnx.Param), nnx.state(network, nnx.BatchStat)
    layers = pytorch.by_layer(*states)
    tensor_files.write_tensors(pytorch.to_torch(layers, names, batches=step), target)


def main(argv: Sequence[str]) -> None:
    """Converts in the direction that the flags say."""
    del argv
    if _WORKDIR.value is None:
        raise UsageError("No run directory given; add --workdir=DIR.")
    run = RunDirectory(Path(_WORKDIR.value))
    match _FROM.value, _TO.value, _MODEL.value:
        case None, str(target), _:
            export_weights(run, Path(target), _STEP.value)
            display.console().print(f"{target} has the weights of {run.path}")
        case str(source), None, str(model):
            import_weights(model, Path(source), run, cli.json_object(_MODEL_ARGS))
            display.console().print(f"{run.path} has the weights of {source}")
        case str(), None, None:
            raise UsageError("No model given; add --model=NAME, the network of the weights.")
        case _:
            raise UsageError("Give either --from=FILE or --to=FILE.")


def _saved(network: Network, recipe: Recipe) -> dict[str, Any]:
    """What a checkpoint has of a network whose training is about to begin."""
    state = TrainState.create(network, make_optimizer(recipe, 1), key=jax.random.key(0))
    return {
        "params": state.params,
        "batch_stats": state.batch_stats,
        "opt_state": state.opt_state,
    }


if __name__ == "__main__":
    cli.run(main)
