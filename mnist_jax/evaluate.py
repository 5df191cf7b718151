"""Prints the test accuracy of a run or of a pretrained network.

`python -m mnist_jax.evaluate --workdir=DIR` or `python -m mnist_jax.evaluate --model=NAME`.
"""

from collections.abc import Sequence

import numpy as np

from mnist_jax import cli, measures
from mnist_jax.cli import display, networks, streams
from mnist_jax.data import CLASS_NAMES, Dataset, load_dataset
from mnist_jax.files import cache_folder
from mnist_jax.runs.network import LoadedRun, arrays_of
from mnist_jax.training import devices
from mnist_jax.training.trainer import Trainer

_LOAD = networks.define()
_DATA_DIR = cli.define_path("data_dir", None, "Where to look for the dataset first.")


def main(argv: Sequence[str]) -> None:
    """Evaluates the network that the flags select."""
    del argv
    devices.configure_process(cache_folder() / "compiled")
    run = _LOAD()
    dataset = load_dataset(run.recipe.dataset, _DATA_DIR.value)
    predictions = _outputs(run, dataset).argmax(-1)
    labels = dataset.test.labels
    confusion = measures.confusion(labels, predictions)
    out = display.console()
    vote = f"the vote of {run.voters} networks " if run.voters > 1 else ""
    out.print(
        f"{vote}{run.recipe.model} on {dataset.name}, step {run.step}:"
        f" test accuracy {np.mean(predictions == labels):.2%} of {len(labels):,} images"
    )
    display.class_table(out, CLASS_NAMES[dataset.name], confusion)
    display.confusion_matrix(out, CLASS_NAMES[dataset.name], confusion)
    streams.delivered()


def _outputs(run: LoadedRun, dataset: Dataset) -> np.ndarray:
    """The logits of the test images, or an ensemble's probabilities: [N, 10]."""
    images = dataset.test.images
    if run.voters > 1:
        return run.probabilities(images)
    trainer = Trainer(run.recipe, dataset, seeds=[run.recipe.seed])
    # The step too: masks in training mode depend on it.
    trainer.restore(run.step, trainer.saved())
    trainer.start_from(arrays_of(run.network))
    return trainer.logits(images).squeeze(0)


if __name__ == "__main__":
    cli.run(main)
