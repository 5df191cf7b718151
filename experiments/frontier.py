"""Our own search for the cheapest network that reaches 99.74%, starting from source G's.

Source: none; G's network without its residual block at 28x28, with other widths and learning-rate
schedules.
Protocol: a candidate trains on 50,000 images and is judged, after its last epoch, only by its
accuracy on the other 10,000 of the training set; its record has the test accuracy too, which
decides nothing. The resulting recipe, `chosen`, trains on all 60,000, and ten of its networks vote.
Expected: 99.74% is the mean of G's own ten networks, at 1.3 PFLOP each.
Duration: a seed with 11 epochs and 32 filters takes about 25 minutes on a CPU core;
`experiments/RESULTS.md` has the measured times.
Command: `python -m experiments.frontier --experiment=chosen`
"""

from experiments.evidence.rows import Article, Ensemble, Row, changed, no_figure
from mnist_jax.models import model_entry
from mnist_jax.recipe import Recipe
from mnist_jax.schedules import Cosine, Linear
from mnist_jax.transforms import CropResize, Elastic, MagnifyingRotation, Standardize

_SMALL = changed(
    model_entry("residual_cnn").recipe,
    model_args={"width": 32, "first_block": False},
    validation=10_000,
)


def _one_cycle(recipe: Recipe, epochs: int, learning_rate: float) -> Recipe:
    """A one-cycle schedule: one epoch of warm-up from a tenth, then cosine decay to zero."""
    return changed(
        recipe,
        epochs=epochs,
        learning_rate=learning_rate,
        learning_rate_schedule=(
            Linear(epochs=1, start=0.1, end=1.0),
            Cosine(epochs=epochs - 1, end=0.0),
        ),
    )


_ONE_CYCLE = _one_cycle(_SMALL, 11, 0.002)
_TURNED = changed(
    _ONE_CYCLE, augmentation=(CropResize(centre="turned"), *_ONE_CYCLE.augmentation[1:])
)


def _candidate(identifier: str, recipe: Recipe, what: str) -> Row:
    return Row(id=identifier, recipe=recipe, figures=no_figure(what, "our own"), seeds=1)


ARTICLE = Article(
    name="frontier",
    letter="O",
    title="our own recipe",
    rows=(
        _candidate("small", _SMALL, "G's protocol, 32 filters, no residual block at 28x28"),
        _candidate(
            "one_cycle",
            _ONE_CYCLE,
            "one-cycle learning rate, peak 0.002",
        ),
        _candidate(
            "one_cycle_wider",
            changed(_ONE_CYCLE, model_args={"width": 48}),
            "the same with 48 filters",
        ),
        _candidate(
            "one_cycle_longer",
            _one_cycle(_SMALL, 22, 0.002),
            "the same with 32 filters and 22 epochs",
        ),
        _candidate(
            "one_cycle_0.001",
            _one_cycle(_SMALL, 11, 0.001),
            "one_cycle, peak 0.001",
        ),
        _candidate(
            "one_cycle_0.004",
            _one_cycle(_SMALL, 11, 0.004),
            "one_cycle, peak 0.004",
        ),
        _candidate(
            "one_cycle_turned",
            _TURNED,
            "one_cycle, evaluated on the crop that rotation leaves on average",
        ),
        _candidate(
            "one_cycle_elastic",
            changed(
                _ONE_CYCLE,
                augmentation=(CropResize(), Elastic(), MagnifyingRotation(), Standardize()),
            ),
            "one_cycle, elastic in place of grid distortion",
        ),
        _candidate(
            "turned_wider_longer",
            changed(_one_cycle(_TURNED, 22, 0.002), model_args={"width": 48}),
            "one_cycle_turned, 48 filters and 22 epochs",
        ),
        _candidate(
            "turned_longest",
            _one_cycle(_TURNED, 33, 0.002),
            "one_cycle_turned, 33 epochs",
        ),
        # When gradients of biases were wrong (CHANGELOG.md), the rows above of at least 0.09 PFLOP
        # differed by no more than chance: this is the cheapest of them, with the evaluation crop
        # that did better at 11 epochs.
        Row(
            id="chosen",
            recipe=changed(_one_cycle(_TURNED, 22, 0.002), validation=0),
            figures=no_figure("one_cycle_turned, 22 epochs on all 60,000 images", "our own"),
            seeds=10,
            note="The goal is a mean of at least 99.74%, that of source G's ten networks at 1.3"
            " PFLOP each, and a committee of at least 99.84%, as the vote of all networks that"
            " source G ever trained.",
        ),
    ),
    ensembles=(
        Ensemble(
            id="committee",
            members="chosen",
            size=10,
            vote="mean",
            figures=no_figure("the vote of ten", "our own"),
        ),
    ),
)

if __name__ == "__main__":
    from experiments.evidence import runner

    runner.run(ARTICLE)
