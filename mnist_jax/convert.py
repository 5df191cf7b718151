"""Converts weights between PyTorch and run directories.

`python -m mnist_jax.convert --model=lenet --from=weights.pt --workdir=runs/theirs` makes a run
directory from an author's weights, for `mnist_jax.evaluate`;
`python -m mnist_jax.convert --workdir=runs/ours --to=weights.safetensors` writes a run's weights,
for `load_state_dict(strict=True)` of the author's module.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from mnist_jax import cli
from mnist_jax.cli import display
from mnist_jax.errors import UsageError
from mnist_jax.interchange.weights import export_weights, import_weights
from mnist_jax.runs.directory import RunDirectory

# Public names: scripts import them from here.
__all__ = ["export_weights", "import_weights"]

_MODEL = flags.DEFINE_string("model", None, "The network that the weights of --from belong to.")
_MODEL_ARGS = flags.DEFINE_string(
    "model_args", None, 'Arguments of that network as JSON, such as {"hidden": 300}.'
)
_FROM = cli.define_path("from", None, "A .pt or .safetensors file to make a run from.")
_TO = cli.define_path("to", None, "A .safetensors file to write the run's weights to.")
_WORKDIR = cli.define_path("workdir", None, "The run directory.")
_STEP = flags.DEFINE_integer(
    "step", None, "With --to, the checkpoint's step; by default the selected one, else the latest."
)


def main(argv: Sequence[str]) -> None:
    """Converts in the direction that the flags select."""
    del argv
    if _WORKDIR.value is None:
        raise UsageError("No run directory given; add --workdir=DIR.")
    run = RunDirectory(_WORKDIR.value)
    match _FROM.value, _TO.value, _MODEL.value:
        case None, Path() as target, None:
            export_weights(run, target, _STEP.value)
            display.console().print(f"{target} has the weights of {run.path}")
        case Path() as source, None, str(model) if _STEP.value is None:
            import_weights(model, source, run, cli.json_object(_MODEL_ARGS))
            display.console().print(f"{run.path} has the weights of {source}")
        case Path(), None, None:
            raise UsageError("No model given; add --model=NAME, the network of the weights.")
        case _:
            raise UsageError(
                "Give either --from=FILE and --model, or --to=FILE, perhaps with --step."
            )


if __name__ == "__main__":
    cli.run(main)
