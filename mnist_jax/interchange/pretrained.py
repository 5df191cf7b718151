"""Pretrained weights of recorded runs: beside their cards, or as release files to download."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from mnist_jax.data import download
from mnist_jax.errors import Failure
from mnist_jax.files import cache_folder, make_folder, parse_json, unwritable, write_bytes
from mnist_jax.interchange import tensor_files
from mnist_jax.interchange.weights import network_of
from mnist_jax.models import model_names, unknown_model
from mnist_jax.models.ensemble import Ensemble
from mnist_jax.models.layers import Network, in_evaluation
from mnist_jax.recipe import Recipe
from mnist_jax.runs.network import LoadedRun

# A folder for each network and each ensemble, with the layout of a Hugging Face repository.
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
      row: row of the comparison, as `article/row`; for an ensemble, that of its vote.
      recipe: the run's recipe, with its seed; for an ensemble, that of its first member.
      step: the step after which the weights were saved; for an ensemble, its first member's.
      correct: number of test images classified correctly.
      images: number of test images.
      revisions: git revision of the training code, by the seed of each network in the file. Several
        vote by the mean of their probabilities.
      sha256: digest of the weights file.
      size: size of that file, in bytes.
    """

    row: str
    recipe: Recipe
    step: int
    correct: int
    images: int
    revisions: Mapping[int, str]
    sha256: str
    size: int

    @property
    def name(self) -> str:
        """The name of the network, or of the ensemble, such as `frontier_committee`."""
        return self.recipe.model if len(self.revisions) == 1 else self.row.replace("/", "_")

    @property
    def release(self) -> str:
        """The name of the release file, if the weights are too large for the package."""
        return f"{self.name}-{self.sha256[:12]}.safetensors"

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
            recipe = Recipe.from_dict(values["recipe"])
            revisions = {int(seed): one for seed, one in values["revisions"].items()}
            texts = [values[name] for name in ("row", "sha256")]
            numbers = [values[name] for name in ("step", "correct", "images", "size")]
            if not revisions or {*map(type, texts)} != {str} or {*map(type, numbers)} != {int}:
                raise ValueError
            return cls(**values | {"recipe": recipe, "revisions": revisions})
        except (OSError, ValueError, TypeError, KeyError, AttributeError, Failure) as error:
            raise Failure(f"{path} is damaged or of another version; {_RESTORE}") from error


def pretrained_names() -> list[str]:
    """The networks and ensembles with pretrained weights, in alphabetical order."""
    return sorted(path.parent.name for path in FOLDER.glob("*/config.json"))


def load_pretrained(name: str) -> LoadedRun:
    """Loads the network of an article with the weights of one recorded run, or an ensemble.

    Weights under 2 MiB come with the package, larger ones only with a checkout. An installed
    package looks for the latter in its cache, and downloads them into it from the folder whose path
    or address is in `$MNIST_JAX_RELEASES`. The SHA-256 is verified in any case.

    Args:
      name: one of `pretrained_names()`: a network, such as `lenet`, or an ensemble, whose
        probabilities are the mean of its members'.

    Raises:
      UsageError: there is no such network or ensemble.
      Failure: it has no weights, they are damaged, or they can't be downloaded.

    Example:
      >>> import numpy as np
      >>> run = load_pretrained("dense")
      >>> run.recipe.dataset
      'mnist'
      >>> run.probabilities(np.zeros((2, 28, 28), np.uint8)).shape
      (2, 10)
    """
    if name not in (there := pretrained_names()):
        if name not in model_names():
            raise unknown_model(name, sorted({*model_names(), *there}))
        raise Failure(
            f"There are no pretrained weights of {name} (available: {', '.join(there) or 'none'});"
            f" `python -m mnist_jax.train --model={name}` trains it."
        )
    origin = Origin.load(FOLDER / name)
    path = _verified(origin, FOLDER / name)
    return LoadedRun(
        origin.recipe,
        origin.step,
        in_evaluation(_network(origin, path)),
        f"pretrained {name}",
        voters=len(origin.revisions),
    )


def seed_prefix(seed: int) -> str:
    """The prefix of a member's tensors in the file of an ensemble."""
    return f"seed{seed}."


def _network(origin: Origin, path: Path) -> Network:
    """The network in a file, or the vote of those in it."""
    tensors = tensor_files.read_tensors(path)
    if len(origin.revisions) == 1:
        return network_of(tensors, origin.recipe, path)[0]
    members = []
    for prefix in map(seed_prefix, origin.revisions):
        own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        members.append(network_of(own, origin.recipe, path)[0])
    return Network(ensemble=Ensemble(members))


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
    what = f"The weights of {origin.name} ({origin.size / 1e6:.1f} MB)"
    address = os.environ.get(RELEASES, "").rstrip("/")
    if not address:
        raise Failure(
            f"{what} are a release file; put {origin.release} into {path.parent}, or set"
            f" ${RELEASES} to the path or address of a folder that has it."
        )
    if "://" not in address:
        address = Path(address).absolute().as_uri()
    url = f"{address}/{origin.release}"
    try:
        data = download.get(url, origin.size)
    except download.MirrorError as error:
        raise Failure(f"{what} can't be downloaded: {url} {error.problem}.") from error
    if hashlib.sha256(data).hexdigest() != origin.sha256:
        raise Failure(f"{what} can't be downloaded: {url} has another SHA-256.")
    try:
        make_folder(path.parent)
        write_bytes(path, data)
    except OSError as error:
        raise unwritable(path, error, "XDG_CACHE_HOME") from error
