"""Duration and device of a seed's training."""

import math

from experiments.evidence import networks
from experiments.evidence.records import Record
from experiments.evidence.results import Results
from experiments.evidence.rows import Article, Row
from mnist_jax.recipe import Recipe
from mnist_jax.training.schedule import Schedule

# Training images of MNIST, and of Fashion-MNIST.
_TRAINING_IMAGES = 60_000
# A run took long if it took over this many times its training time.
LONG = 3


def device(run: Record) -> str:
    """The device that a run was trained on, in words."""
    on = run.environment["device"]
    count = math.prod(on["mesh"].values())
    kind = "CPU core" if on["platform"] == "cpu" else on["kind"]
    return f"{count} {kind}{'s' if count > 1 else ''}"


def took_long(run: Record) -> bool:
    """Whether a run took over `LONG` times as long as its images at its median throughput.

    Its duration includes evaluations, compilation and other load on the machine.
    """
    return run.seconds > LONG * _trained(run) / run.images_per_second


def missing(results: Results, article: Article, row: Row) -> int:
    """The number of seeds that a row lacks."""
    return max(0, row.seeds - len(results.runs[article.name, row.id, "jax"]))


def on_a_core(results: Results, row: Row) -> float | None:
    """Estimated seconds for one seed on one CPU core; None if nothing was trained on CPUs.

    The time per image is that of the network's quickest run, evaluations included; without a run,
    that of the network with the most similar multiply-adds per image, scaled by them.
    """
    # Core-seconds per training image.
    costs: dict[tuple[str, int], float] = {}
    for (_, _, framework), runs in results.runs.items():
        for run in runs:
            on = run.environment["device"]
            if framework == "jax" and on["platform"] == "cpu":
                cores = math.prod(on["mesh"].values())
                cost = run.seconds * cores / run.seeds_together / _trained(run)
                network = _network(run.recipe)
                costs[network] = min(cost, costs.get(network, math.inf))
    if not costs:
        return None
    own = _network(row.recipe)
    nearest = min(costs, key=lambda one: (one != own, abs(math.log(one[1] / own[1]))))
    return costs[nearest] * _images(row.recipe) * own[1] / nearest[1]


def petaflops(recipe: Recipe) -> float:
    """The floating-point operations of training a seed, in 10^15.

    A multiply-add is two operations, once in the forward pass and twice for the gradients. Only
    convolutions and dense layers count.
    """
    return 3 * 2 * _network(recipe)[1] * _images(recipe) / 1e15


def steps(recipe: Recipe) -> int:
    """The number of steps of a run."""
    return Schedule.of_images(recipe, _TRAINING_IMAGES).total_steps


def _trained(run: Record) -> float:
    """The number of images that a run, which may have ended early, trained on."""
    return _images(run.recipe) * run.epochs / run.recipe.epochs


def _images(recipe: Recipe) -> int:
    return Schedule.of_images(recipe, _TRAINING_IMAGES).examples * recipe.epochs


def _network(recipe: Recipe) -> tuple[str, int]:
    """The cost of an image: the network and its multiply-adds."""
    return recipe.model, sum(layer.multiply_adds for layer in networks.layers(recipe))
