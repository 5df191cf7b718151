"""Writes a report on runs, with figures: `python -m mnist_jax.report --workdir=DIR`."""

from collections.abc import Sequence

from absl import flags

from mnist_jax import cli
from mnist_jax.cli import display
from mnist_jax.data import load_dataset
from mnist_jax.errors import UsageError
from mnist_jax.files import cache_folder, expanded
from mnist_jax.reporting import contents, history, network_contents, page
from mnist_jax.training import devices

_WORKDIR = flags.DEFINE_list(
    "workdir",
    None,
    "Run directories that differ only in their seed, or parents of seed-N run directories.",
)
_OUT = cli.define_path("out", None, "Folder to write; by default report/ in the first --workdir.")
_IMAGES = flags.DEFINE_list(
    "images",
    None,
    "Indices of test images whose activations are shown; by default one each of two classes.",
)
_DATA_DIR = cli.define_path("data_dir", None, "Where to look for the dataset first.")


def main(argv: Sequence[str]) -> None:
    """Writes the report."""
    del argv
    if not _WORKDIR.value:
        raise UsageError("No run given; add --workdir=DIR.")
    folders = [expanded(folder) for folder in _WORKDIR.value]
    out = _OUT.value or folders[0] / "report"
    runs = history.read_histories(folders)
    devices.configure_process(cache_folder() / "compiled")
    dataset = load_dataset(runs[0].recipe.dataset, _DATA_DIR.value)
    default = network_contents.default_images(dataset)
    chosen = _numbers(_IMAGES.value) if _IMAGES.value else default
    written = page.write(contents.report(runs, dataset, chosen), out)
    display.console().print(f"{written} has the report; its figures are beside it.")


def _numbers(texts: Sequence[str]) -> list[int]:
    try:
        return [int(text) for text in texts]
    except ValueError as error:
        raise UsageError(
            f"--images is {','.join(texts)!r}; give indices of test images, such as 0,7."
        ) from error


if __name__ == "__main__":
    cli.run(main)
