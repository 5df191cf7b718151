"""The flags that choose a network: a run's, or a pretrained one."""

from collections.abc import Callable
from pathlib import Path

from absl import flags

from mnist_jax import cli
from mnist_jax.errors import UsageError
from mnist_jax.interchange.pretrained import load_pretrained
from mnist_jax.runs.network import LoadedRun, load_run


def define() -> Callable[[], LoadedRun]:
    """Defines `--workdir`, `--step` and `--model`; returns what loads the network they name.

    That raises what `load_run` and `load_pretrained` do, and UsageError where not exactly one of
    the two is named.
    """
    workdir = cli.define_path("workdir", None, "The run directory.")
    step = flags.DEFINE_integer(
        "step", None, "Which checkpoint; by default the run's selected one, or else its latest."
    )
    model = flags.DEFINE_string(
        "model", None, "A pretrained network, such as lenet, instead of a run."
    )

    def load() -> LoadedRun:
        match workdir.value, model.value:
            case Path() as run, None:
                return load_run(run, step.value)
            case None, str(name) if step.value is None:
                return load_pretrained(name)
            case None, str():
                raise UsageError("--step is for --workdir; a pretrained network has one alone.")
        raise UsageError("Give either --workdir=DIR, of a run, or --model=NAME, of a network.")

    return load
