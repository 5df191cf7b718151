"""How long a seed takes, and on what."""

import functools
import json
import math

from experiments.evidence.records import Record
from experiments.evidence.results import Results
from experiments.evidence.rows import Row
from mnist_jax.models import abstract_model
from mnist_jax.models.summary import summarize
from mnist_jax.recipe import Recipe
from mnist_jax.training.schedule import Schedule

# Images in the training set of MNIST and of Fashion-MNIST.
_TRAINING_IMAGES = 60_000


def device(run: Record) -> str:
    """What a run was trained on, in words."""
    on = run.environment["device"]
    count = math.prod(on["mesh"].values())
    kind = "CPU core" if on["platform"] == "cpu" else on["kind"]
    return f"{count} {kind}{'s' if count > 1 else ''}"


def estimate(results: Results, row: Row) -> float | None:
    """Seconds for a seed's training images, at the highest speed that its network had.

    Of a network that has not been run, at as many multiply-adds a second as the one whose work for
    an image is nearest.
    """
    speeds: dict[tuple[str, int], float] = {}
    for (_, _, framework), runs in results.runs.items():
        for run in runs:
            if framework == "jax" and run.environment["device"]["platform"] == "cpu":
                network, speed = _network(run.recipe), run.images_per_second * run.seeds_together
                speeds[network] = max(speed, speeds.get(network, 0.0))
    if not speeds:
        return None
    network = _network(row.recipe)
    nearest = min(speeds, key=lambda one: (one != network, abs(math.log(one[1] / network[1]))))
    speed = speeds[nearest] * nearest[1] / network[1]
    images = Schedule.of_images(row.recipe, _TRAINING_IMAGES).examples * row.recipe.epochs
    return images / speed


def _network(recipe: Recipe) -> tuple[str, int]:
    """What decides the cost of an image: the network and its work."""
    return recipe.model, _multiply_adds(recipe.model, json.dumps(recipe.model_args))


@functools.cache
def _multiply_adds(model: str, model_args: str) -> int:
    layers = summarize(abstract_model(model, **json.loads(model_args)))
    return sum(layer.multiply_adds for layer in layers)
