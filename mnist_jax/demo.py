"""Writes a drawing page: `python -m mnist_jax.demo --workdir=DIR --to=demo.html`.

With the network of a run, or with a pretrained one: `--model=NAME`.

The page is one file for any browser, and needs neither internet access nor a server: drawings are
framed and classified in the page itself, as `mnist_jax.predict` would.
"""

from collections.abc import Sequence

from absl import logging

from mnist_jax import cli
from mnist_jax.cli import display, networks
from mnist_jax.data import DatasetNotFound, load_dataset
from mnist_jax.drawing import page
from mnist_jax.errors import UsageError
from mnist_jax.files import cache_folder
from mnist_jax.training import devices

_LOAD = networks.define()
_TO = cli.define_path("to", None, "The HTML file to write.")
_DATA_DIR = cli.define_path("data_dir", None, "Where to look for the test images first.")


def main(argv: Sequence[str]) -> None:
    """Writes the page."""
    del argv
    if _TO.value is None:
        raise UsageError("No file to write given; add --to=demo.html.")
    devices.configure_process(cache_folder() / "compiled")
    run = _LOAD()
    try:
        dataset = load_dataset(run.recipe.dataset, _DATA_DIR.value)
    except DatasetNotFound as error:
        logging.warning("The page will show no test images, because %s", error)
        dataset = None
    page.write(run, dataset, _TO.value)
    display.console().print(f"{_TO.value} is the page; open it in a browser.")


if __name__ == "__main__":
    cli.run(main)
