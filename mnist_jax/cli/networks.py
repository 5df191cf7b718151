"""The flags that select a network: that of a run, or a pretrained one."""

from collections.abc import Callable
from pathlib import Path

from absl import flags

from mnist_jax import cli
from mnist_jax.data import require_dataset
from mnist_jax.errors import UsageError
from mnist_jax.interchange.pretrained import load_pretrained
from mnist_jax.runs.network import LoadedRun, load_run


def define() -> Callable[[], LoadedRun]:
    """Defines `--workdir`, `--step` and `--model`; returns a function that loads the network.

    The function raises what `load_run` and `load_pretrained` do, and UsageError unless exactly one
    of `--workdir` and `--model` is given, or if the run's dataset is none of ours, whose classes
    have names.
    """
    workdir = cli.define_path("workdir", None, "The run directory.")
    step = flags.DEFINE_integer(
        "step", None, "Step of the checkpoint; by default the run's selected one, else its latest."
    )
    model = flags.DEFINE_string(
        "model", None, "A pretrained network or ensemble, such as lenet, instead of --workdir."
    )

    def load() -> LoadedRun:
        match workdir.value, model.value:
            case Path() as run, None:
                loaded = load_run(run, step.value)
                require_dataset(loaded.recipe.dataset)
                return loaded
            case None, str(name) if step.value is None:
                return load_pretrained(name)
            case None, str():
                raise UsageError("--step needs --workdir; a pretrained network has one step only.")
        raise UsageError("Give either --workdir=DIR, a run, or --model=NAME, a pretrained network.")

    return load
