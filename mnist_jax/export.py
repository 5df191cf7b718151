"""Writes a network for other programs: `python -m mnist_jax.export --model=NAME --to=net.onnx`.

The network is that of a run (`--workdir=DIR`) or a pretrained one (`--model=NAME`). The file's
suffix selects the format: `.onnx` for ONNX, `.stablehlo` for StableHLO, which
`jax.export.deserialize` reads. Both map images [N, 28, 28] to logits float32 [N, 10], for any N.
JAX guarantees that StableHLO is readable by its releases from three weeks before to six months
after the one that wrote it; ONNX is for longer.
"""

import json
from collections.abc import Sequence

from absl import flags

from mnist_jax import cli
from mnist_jax.cli import display, networks
from mnist_jax.data import CLASS_NAMES
from mnist_jax.errors import UsageError
from mnist_jax.files import write_output
from mnist_jax.inputs import evaluation_formula
from mnist_jax.interchange.onnx_files import to_onnx
from mnist_jax.interchange.stablehlo import to_stablehlo
from mnist_jax.models import model_entry
from mnist_jax.runs.network import LoadedRun

_LOAD = networks.define()
_TO = cli.define_path("to", None, "The .onnx or .stablehlo file to write.")
_INPUT = flags.DEFINE_enum(
    "input",
    "pixels",
    ["pixels", "normalized"],
    "Type of the images: uint8 from 0 to 255, or float32 normalised as in training.",
)


def main(argv: Sequence[str]) -> None:
    """Writes the file."""
    del argv
    target = _TO.value
    if target is None or target.suffix not in (".onnx", ".stablehlo"):
        raise UsageError("Give the file to write, --to=FILE.onnx or --to=FILE.stablehlo.")
    run, pixels = _LOAD(), _INPUT.value == "pixels"
    if target.suffix == ".onnx":
        model = to_onnx(run.network, run.recipe, pixels=pixels, metadata=_metadata(run))
        content = model.SerializeToString()
    else:
        content = to_stablehlo(run.network, run.recipe, pixels=pixels)
    write_output(target, content, "--to")
    display.console().print(f"{target} has the network of {run.source}, after step {run.step}")


def _metadata(run: LoadedRun) -> dict[str, str]:
    """The model's metadata: text, and JSON for lists and the recipe."""
    recipe = run.recipe
    return {
        "classes": json.dumps(CLASS_NAMES[recipe.dataset]),
        "input": _INPUT.value,
        "normalization": evaluation_formula(recipe),
        "article": model_entry(recipe.model).article,
        "source": run.source,
        "step": str(run.step),
        "recipe": recipe.to_json(),
    }


if __name__ == "__main__":
    cli.run(main)
