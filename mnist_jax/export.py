"""Writes a network for other programs: `python -m mnist_jax.export --model=NAME --to=net.onnx`.

Of a run (`--workdir=DIR`) or a pretrained network (`--model=NAME`): as ONNX where the name ends in
`.onnx`, as StableHLO for `jax.export.deserialize` where it ends in `.stablehlo`. Both compute
logits float32 [N, 10] of images [N, 28, 28], for any N. JAX promises to read StableHLO with its
releases of six months after the one that wrote it and of three weeks before; ONNX is for longer.
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
    "Images as uint8 from 0 to 255; or as float32 that are normalised as in training.",
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
    """What a model says of itself: texts, and JSON where there is more than one value."""
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
