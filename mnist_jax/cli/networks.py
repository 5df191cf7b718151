"""The flags that choose a network: a run's, or a pretrained one."""

from collections.abc import Callable

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
        "model", None, "A pretrained network, such as dbl_conv_relu, instead of a run."
    )

    def load() -> LoadedRun:
        if (workdir.value is None) == (model.value is None):
            raise UsageError(
                "Give either --workdir=DIR, a run, or --model=NAME, a pretrained network."
            )
        if model.value is None:
            return load_run(workdir.value, step.value)
        if step.value is not None:
            raise UsageError("--step is for --workdir; a pretrained network has no checkpoints.")
        return load_pretrained(model.value)

    return load
