"""Pretrained weights of recorded runs: beside their cards, or as release files to download."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from mnist_jax.data import download
from mnist_jax.errors import Failure
from mnist_jax.files import cache_folder, make_folder, parse_json, unwritable, write_bytes
from mnist_jax.interchange.weights import network_of_file
from mnist_jax.models import model_entry
from mnist_jax.models.layers import in_evaluation
from mnist_jax.recipe import Recipe
from mnist_jax.runs.network import LoadedRun

# A folder for each network, with the layout of a Hugging Face repository.
FOLDER = Path(__file__).parents[1] / "pretrained"
# Files of this many bytes or more are not part of the package.
LARGEST_IN_PACKAGE = 2 * 2**20
# The environment variable with the address of the folder of release files.
RELEASES = "MNIST_JAX_RELEASES"

_RESTORE = "restore it from the repository or install again."


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The origin of pretrained weights, as in `config.json` beside them.

    Attributes:
      row: row of the comparison, as `article/row`.
      recipe: the run's recipe, with its seed.
      step: the step after which the weights were saved.
      correct: number of test images classified correctly.
      images: number of test images.
      revision: git revision of the training code.
      sha256: digest of the weights file.
      size: size of that file, in bytes.
    """

    row: str
    recipe: Recipe
    step: int
    correct: int
    images: int
    revision: str
    sha256: str
    size: int

    @property
    def release(self) -> str:
        """The name of the release file, if the weights are too large for the package."""
        return f"{self.recipe.model}-{self.sha256[:12]}.safetensors"

    def to_json(self) -> str:
        """The text of `config.json`."""
        return json.dumps(vars(self) | {"recipe": self.recipe.to_dict()}, indent=2) + "\n"

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads a folder's `config.json`.

        Raises:
          Failure: it can't be read, or is not such a file.
        """
        path = folder / "config.json"
        try:
            values = parse_json(path.read_text())
            return cls(**values | {"recipe": Recipe.from_dict(values["recipe"])})
        except (OSError, ValueError, TypeError, KeyError, Failure) as error:
            raise Failure(f"{path} is damaged or of another version; {_RESTORE}") from error


def pretrained_names() -> list[str]:
    """The networks with pretrained weights, in alphabetical order."""
    return sorted(path.parent.name for path in FOLDER.glob("*/config.json"))


def load_pretrained(name: str) -> LoadedRun:
    """Loads the network of an article with the weights of one recorded run.

    Weights under 2 MiB come with the package, larger ones only with a checkout. An installed
    package looks for the latter in its cache, and downloads them into it from the folder whose
    address is in `$MNIST_JAX_RELEASES`. The SHA-256 is verified in any case.

    Args:
      name: one of `mnist_jax.models.model_names()`, such as `lenet`.

    Raises:
      UsageError: there is no such network.
      Failure: it has no weights, they are damaged, or they can't be downloaded.

    Example:
      >>> import numpy as np
      >>> run = load_pretrained("dense")
      >>> run.recipe.dataset
      'mnist'
      >>> run.probabilities(np.zeros((2, 28, 28), np.uint8)).shape
      (2, 10)
    """
    model_entry(name)
    if name not in pretrained_names():
        there = ", ".join(pretrained_names()) or "none"
        raise Failure(
            f"There are no pretrained weights of {name} (available: {there});"
            f" `python -m mnist_jax.train --model={name}` trains it."
        )
    origin = Origin.load(FOLDER / name)
    path = _verified(origin, FOLDER / name)
    network = network_of_file(path, origin.recipe)[0]
    return LoadedRun(origin.recipe, origin.step, in_evaluation(network), f"pretrained {name}")


def _verified(origin: Origin, folder: Path) -> Path:
    """The path of the weights, after verifying their SHA-256."""
    cached = cache_folder() / "pretrained" / origin.release
    places = (folder / "model.safetensors", folder / origin.release)
    path = next((place for place in places if place.exists()), cached)
    if not path.exists():
        _fetch(origin, path)
    if (found := hashlib.sha256(path.read_bytes()).hexdigest()) != origin.sha256:
        raise Failure(
            f"{path} is damaged (SHA-256 {found[:12]}… instead of {origin.sha256[:12]}…); "
            + ("remove it to have it fetched again." if path == cached else _RESTORE)
        )
    return path


def _fetch(origin: Origin, path: Path) -> None:
    """Downloads a release file into the cache, after verifying its SHA-256."""
    what = f"The weights of {origin.recipe.model} ({origin.size / 1e6:.1f} MB)"
    address = os.environ.get(RELEASES, "").rstrip("/")
    if not address:
        raise Failure(
            f"{what} are a release file; put {origin.release} into {path.parent}, or set"
            f" ${RELEASES} to the address of a folder that has it."
        )
    url = f"{address}/{origin.release}"
    try:
        data = download.get(url)
    except download.MirrorError as error:
        raise Failure(f"{what} can't be downloaded: {url} {error.problem}.") from error
    if hashlib.sha256(data).hexdigest() != origin.sha256:
        raise Failure(f"{what} can't be downloaded: {url} has another SHA-256.")
    try:
        make_folder(path.parent)
        write_bytes(path, data)
    except OSError as error:
        raise unwritable(path, error, "XDG_CACHE_HOME") from error
