"""Reloads a run and prints how well it does: `python -m mnist_jax.evaluate --workdir=DIR`."""

from collections.abc import Sequence

import numpy as np
from absl import flags

from mnist_jax import cli, measures
from mnist_jax.cli import display, streams
from mnist_jax.data import CLASS_NAMES, load_dataset
from mnist_jax.errors import UsageError
from mnist_jax.files import cache_folder
from mnist_jax.runs.directory import RunDirectory
from mnist_jax.runs.network import restore
from mnist_jax.training import devices
from mnist_jax.training.trainer import Trainer

_WORKDIR = cli.define_path("workdir", None, "The run directory.")
_DATA_DIR = cli.define_path("data_dir", None, "Where to look for the dataset first.")
_STEP = flags.DEFINE_integer(
    "step", None, "Which checkpoint; by default the run's selected one, or else its latest."
)


def main(argv: Sequence[str]) -> None:
    """Evaluates what the flags say."""
    del argv
    if _WORKDIR.value is None:
        raise UsageError("No run given; add --workdir=DIR.")
    run = RunDirectory(_WORKDIR.value)
    recipe = run.recipe()
    devices.configure_process(cache_folder() / "compiled")
    dataset = load_dataset(recipe.dataset, _DATA_DIR.value)
    trainer = Trainer(recipe, dataset, seeds=[recipe.seed])
    step, saved = restore(run, trainer.saved()[0], _STEP.value)
    trainer.restore(step, [saved])
    (predictions,) = trainer.logits(dataset.test.images).argmax(-1)
    labels = dataset.test.labels
    confusion = measures.confusion(labels, predictions)
    out = display.console()
    out.print(
        f"{recipe.model} on {dataset.name}, step {step}:"
        f" test accuracy {np.mean(predictions == labels):.2%} of {len(labels):,} images"
    )
    display.class_table(out, CLASS_NAMES[dataset.name], confusion)
    display.confusion_matrix(out, CLASS_NAMES[dataset.name], confusion)
    streams.delivered()


if __name__ == "__main__":
    cli.run(main)
