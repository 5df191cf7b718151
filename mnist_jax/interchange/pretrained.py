"""Weights of recorded runs: beside their cards, or as release files that are fetched once."""

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

# A folder for each network: a repository as Hugging Face has them.
FOLDER = Path(__file__).parents[1] / "pretrained"
# From so many bytes on a file is no part of the package.
LARGEST_IN_PACKAGE = 2 * 2**20
# Where release files are looked for: an address of the folder that has them.
RELEASES = "MNIST_JAX_RELEASES"

_RESTORE = "restore it from the repository or install again."


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where pretrained weights come from, as `config.json` beside them says.

    Attributes:
      row: of the comparison, as `article/row`.
      recipe: the run's, with its seed.
      step: after which the weights were taken.
      correct: how many test images they have right.
      images: how many test images there are.
      revision: of the code that trained.
      sha256: of the file of weights.
      size: of that file, in bytes.
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
        """The file's name where it is too large for the package."""
        return f"{self.recipe.model}-{self.sha256[:12]}.safetensors"

    def to_json(self) -> str:
        """The text of `config.json`."""
        return json.dumps(vars(self) | {"recipe": self.recipe.to_dict()}, indent=2) + "\n"

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads a folder's `config.json`.

        Raises:
          Failure: it can't be read, or has something else.
        """
        path = folder / "config.json"
        try:
            values = parse_json(path.read_text())
            return cls(**values | {"recipe": Recipe.from_dict(values["recipe"])})
        except (OSError, ValueError, TypeError, KeyError, Failure) as error:
            raise Failure(f"{path} is damaged or of another version; {_RESTORE}") from error


def pretrained_names() -> list[str]:
    """The networks that there are weights of, in alphabetical order."""
    return sorted(path.parent.name for path in FOLDER.glob("*/config.json"))


def load_pretrained(name: str) -> LoadedRun:
    """Loads the network of an article with the weights of one recorded run.

    Weights under 2 MiB come with the package, larger ones only with a checkout. Elsewhere these
    are looked for in the cache, and downloaded into it from the folder whose address is in
    `$MNIST_JAX_RELEASES`. Whatever their source, their SHA-256 is verified.

    Args:
      name: one of `mnist_jax.models.model_names()`, such as `lenet`.

    Raises:
      UsageError: there is no such network.
      Failure: there are no weights of it, they are damaged, or they can't be had.

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
            f"There are no pretrained weights of {name}; there are those of {there}, and"
            f" `python -m mnist_jax.train --model={name}` trains it."
        )
    origin = Origin.load(FOLDER / name)
    path = _verified(origin, FOLDER / name)
    network = network_of_file(path, origin.recipe)[0]
    return LoadedRun(origin.recipe, origin.step, in_evaluation(network), f"pretrained {name}")


def _verified(origin: Origin, folder: Path) -> Path:
    """The file of weights, wherever it is, after its SHA-256 was found right."""
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
    """Downloads a release file into the cache, if what comes is the file."""
    what = f"The weights of {origin.recipe.model} ({origin.size / 1e6:.1f} MB)"
    address = os.environ.get(RELEASES, "").rstrip("/")
    if not address:
        raise Failure(
            f"{what} are a release file; put {origin.release} into {path.parent}, or give the"
            f" address of a folder that has it as ${RELEASES}."
        )
    url = f"{address}/{origin.release}"
    try:
        data = download.get(url)
    except download.MirrorError as error:
        raise Failure(f"{what} can't be had: {url} {error.problem}.") from error
    if hashlib.sha256(data).hexdigest() != origin.sha256:
        raise Failure(f"{what} can't be had: {url} is another file or damaged on its way.")
    try:
        make_folder(path.parent)
        write_bytes(path, data)
    except OSError as error:
        raise unwritable(path, error, "XDG_CACHE_HOME") from error
