"""The HTML file of the page, with a network and test images."""

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from mnist_jax import measures
from mnist_jax.data import CLASS_NAMES, Dataset
from mnist_jax.drawing.layers import network_json
from mnist_jax.files import write_output
from mnist_jax.models.summary import summarize
from mnist_jax.reporting.contents import DATASET_TITLES
from mnist_jax.reporting.page import BASE_STYLE
from mnist_jax.runs.network import LoadedRun

_HERE = Path(__file__).parent
# The most misclassified test images shown, most confident first, besides a correct one per class.
_MOST_WRONG = 10


def write(run: LoadedRun, dataset: Dataset | None, target: Path) -> None:
    """Writes a drawing page, which frames drawings like `mnist_jax.predict` and classifies them.

    Args:
      run: the network.
      dataset: the dataset of the test images to show; None: show none.
      target: the HTML file.

    Raises:
      Failure: the page can't compute the network, or the file can't be written.
    """
    write_output(target, html(run, dataset).encode(), "--to")


def html(run: LoadedRun, dataset: Dataset | None) -> str:
    """Renders the page: one file, whose content security policy forbids loading anything.

    Raises:
      Failure: the page can't compute the network.
    """
    recipe = run.recipe
    garments = recipe.dataset == "fashion_mnist"
    data = {
        "classes": CLASS_NAMES[recipe.dataset],
        "garments": garments,
        **network_json(run.network, recipe),
    }
    layers = summarize(run.network)
    about = (
        f"{recipe.model}, trained on {DATASET_TITLES[recipe.dataset]}:"
        f" {sum(layer.parameters for layer in layers):,} weights"
    )
    examples: dict[str, Any] = {"images": "", "shown": []}
    if dataset is not None:
        test = dataset.test
        probability = run.probabilities(test.images)
        examples = _examples(test.images, test.labels, probability)
        right = np.mean(probability.argmax(-1) == test.labels)
        about += f", {right:.2%} of {len(test):,} test images right"
    script = "\n".join(_text(name) for name in ("network.js", "framing.js", "page.js"))
    style = f"{BASE_STYLE}\n{_text('page.css')}"
    return Template(_text("page.html")).substitute(
        title="Draw a garment" if garments else "Draw a digit",
        hint="Draw a garment here" if garments else "Draw a digit here",
        about=f"{about}.",
        # So that no text can close the script element that contains it.
        data=json.dumps(data | {"examples": examples}).replace("<", "\\u003c"),
        script=script,
        script_hash=_hash(script),
        style=style,
        style_hash=_hash(style),
    )


def _examples(images: np.ndarray, labels: np.ndarray, probability: np.ndarray) -> dict[str, Any]:
    """The first correct image of each class, and the most confidently misclassified ones."""
    predicted = probability.argmax(-1)
    right = np.flatnonzero(predicted == labels)
    first = right[np.unique(labels[right], return_index=True)[1]]
    wrong = measures.misclassified(probability, labels)[:_MOST_WRONG]
    numbers: Sequence[int] = [*map(int, first), *map(int, wrong)]
    return {
        "images": base64.b64encode(images[numbers].tobytes()).decode(),
        "shown": [
            {"number": number, "label": int(labels[number]), "read": int(predicted[number])}
            for number in numbers
        ],
    }


def _text(name: str) -> str:
    return (_HERE / name).read_text("utf-8").strip()


def _hash(text: str) -> str:
    """The hash of a `<script>` or `<style>` for the content security policy."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
