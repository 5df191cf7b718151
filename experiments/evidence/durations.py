"""How long a seed takes, and on what."""

import dataclasses
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
    """Seconds for a seed's training images, at the highest speed that its network had."""
    speeds = [
        run.images_per_second * run.seeds_together
        for (_, _, framework), runs in results.runs.items()
        for run in runs
        if framework == "jax"
        and _network(run.recipe) == _network(row.recipe)
        and run.environment["device"]["platform"] == "cpu"
    ]
    if not speeds:
        return None
    return _images(row.recipe) / max(speeds)


def on_a_core(results: Results, row: Row) -> float | None:
    """Seconds that one seed takes on one CPU core; None where no network was trained on CPUs.

    The shortest of the row's own runs, else its images to train on at the highest speed of the
    network's other runs, else at that of the network whose work for an image is most like its own.
    """
    cpu = [
        run
        for (_, _, framework), runs in results.runs.items()
        for run in runs
        if framework == "jax" and run.environment["device"]["platform"] == "cpu"
    ]
    if own := [run for run in cpu if _of(run.recipe, row.recipe)]:
        return min(run.seconds / _share(run) for run in own)
    if not cpu:
        return None
    work = _network(row.recipe)

    def unlike(network: tuple[str, int]) -> tuple[bool, float]:
        return network != work, abs(math.log(network[1] / work[1]))

    nearest = min((_network(run.recipe) for run in cpu), key=unlike)
    speed = max(
        run.images_per_second * _share(run) for run in cpu if _network(run.recipe) == nearest
    )
    return _images(row.recipe) / speed * (1.0 if nearest == work else work[1] / nearest[1])


def steps(recipe: Recipe) -> int:
    """How many steps a run takes."""
    return Schedule.of_images(recipe, _TRAINING_IMAGES).total_steps


def _of(recipe: Recipe, row: Recipe) -> bool:
    return dataclasses.replace(recipe, seed=row.seed) == row


def _share(run: Record) -> float:
    """Seeds of a run for each core that it had."""
    return run.seeds_together / math.prod(run.environment["device"]["mesh"].values())


def _images(recipe: Recipe) -> int:
    return Schedule.of_images(recipe, _TRAINING_IMAGES).examples * recipe.epochs


def _network(recipe: Recipe) -> tuple[str, int]:
    """What decides the cost of an image: the network and its work."""
    return recipe.model, _multiply_adds(recipe.model, json.dumps(recipe.model_args))


@functools.cache
def _multiply_adds(model: str, model_args: str) -> int:
    layers = summarize(abstract_model(model, **json.loads(model_args)))
    return sum(layer.multiply_adds for layer in layers)
