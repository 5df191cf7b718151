"""How long a seed takes, and on what."""

import math

from experiments.evidence import networks
from experiments.evidence.records import Record
from experiments.evidence.results import Results
from experiments.evidence.rows import Article, Row
from mnist_jax.recipe import Recipe
from mnist_jax.training.schedule import Schedule

# Images in the training set of MNIST and of Fashion-MNIST.
_TRAINING_IMAGES = 60_000
# So many times as long as training is long.
LONG = 3


def device(run: Record) -> str:
    """What a run was trained on, in words."""
    on = run.environment["device"]
    count = math.prod(on["mesh"].values())
    kind = "CPU core" if on["platform"] == "cpu" else on["kind"]
    return f"{count} {kind}{'s' if count > 1 else ''}"


def took_long(run: Record) -> bool:
    """Whether a run took over `LONG` times as long as its images at its median speed.

    What it took includes its evaluations and compilation, and what else the machine did.
    """
    return run.seconds > LONG * _trained(run) / run.images_per_second


def missing(results: Results, article: Article, row: Row) -> int:
    """How many seeds a row has fewer than it is to have."""
    return max(0, row.seeds - len(results.runs[article.name, row.id, "jax"]))


def on_a_core(results: Results, row: Row) -> float | None:
    """Seconds that one seed takes on one CPU core; None where nothing was trained on CPUs.

    As long for an image as in the network's quickest run, evaluations included; where there is
    none, as in that of the network whose work for an image is most like its own, and by its work.
    """
    # Core-seconds for an image to train on.
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
    """The operations of training a seed, in 10^15.

    A multiply-add counts as two, and is one forward and two of the gradients; what is no part of a
    convolution or a dense layer does not count.
    """
    return 3 * 2 * _network(recipe)[1] * _images(recipe) / 1e15


def steps(recipe: Recipe) -> int:
    """How many steps a run takes."""
    return Schedule.of_images(recipe, _TRAINING_IMAGES).total_steps


def _trained(run: Record) -> float:
    """Images that a run trained on, which may have ended early."""
    return _images(run.recipe) * run.epochs / run.recipe.epochs


def _images(recipe: Recipe) -> int:
    return Schedule.of_images(recipe, _TRAINING_IMAGES).examples * recipe.epochs


def _network(recipe: Recipe) -> tuple[str, int]:
    """What decides the cost of an image: the network and its work."""
    return recipe.model, sum(layer.multiply_adds for layer in networks.layers(recipe))
