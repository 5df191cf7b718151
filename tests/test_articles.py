"""The articles' rows: published figures and protocols, and what each variant changes."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from toy_records import ARTICLE

from experiments.evidence import records, rows
from experiments.evidence.rows import all_articles
from mnist_jax.errors import UsageError
from mnist_jax.models import abstract_model
from mnist_jax.schedules import Cosine, Exponential, Linear
from mnist_jax.training.optimizers import learning_rate
from mnist_jax.training.schedule import Schedule
from mnist_jax.transforms import (
    Affine,
    CropResize,
    Elastic,
    GridDistortion,
    HorizontalFlip,
    MagnifyingRotation,
    Standardize,
)

ARTICLES = all_articles()

ROWS = [(article, row) for article in ARTICLES for row in article.rows]


def test_all_articles_are_discovered():
    letters = [article.letter for article in ARTICLES]
    assert len(set(letters)) == len(letters)
    assert set("ABCDEFGHO") <= set(letters)
    folder = records.RESULTS.parent
    assert all((folder / f"{article.name}.py").exists() for article in ARTICLES)


@pytest.mark.parametrize(("article", "row"), ROWS, ids=lambda value: getattr(value, "id", ""))
def test_rows_name_valid_networks_and_quote_their_figures(article, row):
    assert [other.id for other in article.rows].count(row.id) == 1
    abstract_model(row.recipe.model, **row.recipe.model_args)
    for figure in row.figures:
        if figure.value is not None:
            assert any(f"{figure.value / scale:g}" in figure.printed for scale in (1, 100))
    for curve in row.curves:
        assert len(curve.values) <= row.recipe.epochs


# As printed in the articles: row, accuracy in percent, batch size, epochs, learning rate, weight
# decay.
PRINTED = """
A shallow                            97.80  10 60  0.1     0
A basic_conv                         98.78  10 60  0.1     0
A omit_fc                            nan    10 60  0.1     0
A dbl_conv                           99.06  10 60  0.1     0
A dbl_conv_relu                      99.23  10 60  0.03    0.1
A dbl_conv_relu_lambda_0             nan    10 60  0.03    0
A dbl_conv_relu_lambda_0.00001       nan    10 60  0.03    0.00001
A dbl_conv_relu_lambda_0.0001        nan    10 60  0.03    0.0001
A dbl_conv_relu_lambda_0.001         nan    10 60  0.03    0.001
A dbl_conv_relu_lambda_0.01          nan    10 60  0.03    0.01
A dbl_conv_relu_lambda_1             nan    10 60  0.03    1
A dbl_conv_relu_lambda_10            nan    10 60  0.03    10
A dbl_conv_relu_lambda_100           nan    10 60  0.03   100
A expanded_data_n100                 99.37  10 60  0.03    0.1
A expanded_data_n300                 99.46  10 60  0.03    0.1
A expanded_data_n1000                99.43  10 60  0.03    0.1
A expanded_data_double_fc_n100       99.43  10 60  0.03    0.1
A expanded_data_double_fc_n300       99.48  10 60  0.03    0.1
A expanded_data_double_fc_n1000      99.47  10 60  0.03    0.1
A double_fc_dropout                  99.60  10 40  0.03    0
B dense                              98     10 30  3       0
B basic_conv                         98.97  10 60  0.1     0
B dbl_conv                           99.05  10 60  0.1     0
B dbl_conv_relu_wd_0.1               85.31  10 60  0.03    0.1
B dbl_conv_relu                      99.43  10 60  0.03    0.00005
B dbl_conv_relu_expanded             99.51  10 60  0.03    0.00005
B double_fc_dropout_lr_0.03          99.5   10 40  0.03    0
B double_fc_dropout                  99.63  10 40  0.005   0
B dense_normalized                   97.58  10 30  3       0
B basic_conv_normalized              98.91  10 60  0.1     0
B dbl_conv_normalized                99.13  10 60  0.1     0
B dbl_conv_relu_normalized           99.30  10 60  0.03    0.00005
B dbl_conv_relu_expanded_normalized  99.43  10 60  0.03    0.00005
B double_fc_dropout_normalized       99.64  10 40  0.005   0
B dense_cross_entropy                nan    10 30  3       0
B shallow_cross_entropy              nan    10 30  0.1     0
B shallow_mean_squared_error         nan    10 30  0.1     0
C cmu_cnn                            98.86 100 10  0.001   0
C cmu_cnn_text                       nan   100 10  0.001   0
D lenet                              75.6  256  5  0.9     0
D lenet_10_epochs                    80.4  256 10  0.9     0
D lenet_max_pooling                  nan   256  5  0.9     0
D lenet_relu_max_pooling             nan   256  5  0.1     0
D lenet_wider_deeper                 nan   256  5  0.1     0
D lenet_torch_init                   nan   256  5  0.9     0
D lenet_wider_deeper_mnist           nan   256  5  0.1     0
D mlp_mnist                          nan   256 10  0.5     0
E batchnorm_cnn                      99    100 10  0.0003  0.001
E as_published                       99    100 10  0.0003  0.001
E early_stopping                     nan   100 10  0.0003  0.001
E augmented                          nan   100 30  0.0003  0.001
F dropout_cnn                        nan    32 15  0.001   0
F dropout_cnn_notebook               nan    32 15  0.001   0
F simple_cnn                         nan   100  5  0.001   0
G residual_cnn                       99.738 100 11 0.0004  0
G half_width                         nan   100 11  0.0004  0
G quarter_width                      nan   100 11  0.0004  0
G quarter_width_true_centre          nan   100 11  0.0004  0
G quarter_width_plain                nan   100 11  0.0004  0
G double_fc_dropout_augmented        nan   10 200  0.005   0
G fashion_mnist                      nan   100 11  0.0004  0
G fashion_mnist_flips                nan   100 11  0.0004  0
H strided_cnn                        99.641 64 30  0.001   0
O small                              nan   100 11  0.0004  0
O one_cycle                          nan   100 11  0.002   0
O one_cycle_wider                    nan   100 11  0.002   0
O one_cycle_longer                   nan   100 22  0.002   0
O one_cycle_0.001                    nan   100 11  0.001   0
O one_cycle_0.004                    nan   100 11  0.004   0
O one_cycle_turned                   nan   100 11  0.002   0
O one_cycle_elastic                  nan   100 11  0.002   0
O turned_wider_longer                nan   100 22  0.002   0
O turned_longest                     nan   100 33  0.002   0
O chosen                             nan   100 22  0.002   0
"""

# Validation images, shuffling, the epoch that is evaluated, optimiser.
PROTOCOLS = {
    "A": (10_000, "never", "best_validation", "sgd"),
    "B": (0, "every_epoch", "last", "sgd"),
    "C": (0, "never", "last", "adam"),
    "D": (0, "every_epoch", "last", "sgd"),
    "E": (0, "every_epoch", "last", "adam"),
    "F": (0, "every_epoch", "last", "adam"),
    "G": (0, "every_epoch", "last", "adam"),
    "H": (6000, "every_epoch", "last", "adam"),
    "O": (10_000, "every_epoch", "last", "adam"),
}


@pytest.mark.parametrize("line", PRINTED.strip().splitlines(), ids=lambda line: line[:30].strip())
def test_rows_follow_the_printed_protocols(line):
    letter, name, *numbers = line.split()
    (article,) = (article for article in ARTICLES if article.letter == letter)
    row = article.row(name)
    recipe = row.recipe
    figure = row.figures[0].value
    found = [
        np.nan if figure is None else figure,
        recipe.batch_size,
        recipe.epochs,
        recipe.learning_rate,
        recipe.weight_decay,
    ]
    np.testing.assert_array_equal(found, [float(number) for number in numbers])
    validation, order, selection, optimizer = PROTOCOLS[letter]
    expanded = ("expanded" in name or "double_fc" in name) and letter != "G"
    assert recipe.one_pixel_shifts == expanded
    # Article A shuffles its expanded images, once.
    assert recipe.shuffle == ("once" if letter == "A" and expanded else order)
    if name == "early_stopping":
        validation, selection = 10_000, "best_validation"
    if name == "chosen":  # On the other rows' validation images; it trains on all images.
        validation = 0
    assert (recipe.validation, recipe.selection) == (validation, selection)
    if name == "double_fc_dropout_augmented":  # Article B's.
        optimizer = "sgd"
    assert (recipe.optimizer, recipe.momentum) == (optimizer, 0)
    if recipe.weight_decay:
        assert recipe.weight_decay_sense == ("nielsen" if letter == "A" else "torch")
    if name.endswith("_normalized"):
        assert (recipe.mean, recipe.std) == (0.1305, 0.3081)
    else:
        assert (recipe.mean, recipe.std) == ((0.5, 0.5) if letter == "E" else (0, 1))
    fashion = (letter == "D" and not name.endswith("_mnist")) or name.startswith("fashion")
    assert recipe.dataset == ("fashion_mnist" if fashion else "mnist")


def test_protocols_of_g_and_h_are_those_of_their_programs():
    source_g, source_h = (
        rows.find(name).recipe for name in ("ttdoucet/residual_cnn", "cdeotte/strided_cnn")
    )
    window = CropResize(window=25, centre="published")
    others = (GridDistortion(), MagnifyingRotation(), Standardize())
    assert source_g.augmentation == (window, *others)
    assert (source_g.b1, source_g.b2, source_g.eps) == (0.9, 0.99, 1e-8)
    assert (source_h.b2, source_h.eps, source_h.eps_sense) == (0.999, 1e-7, "keras")
    assert source_h.augmentation == (Affine(rotation=15, shift=2.8, zoom=0.15, fill="nearest"),)
    assert (source_h.held_out, source_h.last_batch) == ("random", "dropped")
    schedule = Schedule.of_images(source_h, 60_000)
    assert (schedule.steps_per_epoch, schedule.total_steps) == (843, 25_290)
    assert Schedule.of_images(source_g, 60_000).total_steps == 6600
    # Learning rates at steps; G's cosine decay ends a step before a thousandth of its initial rate.
    last = 4e-4 * 0.1 ** (5999 / 6000)
    cosine = last / 1000 + (last - last / 1000) * (1 + np.cos(np.pi * 599 / 600)) / 2
    for recipe, expected in (
        (source_g, {0: 4e-4, 5999: last, 6000: last, 6599: cosine}),
        (source_h, {0: 1e-3, 842: 1e-3, 843: 9.5e-4, 25_289: 1e-3 * 0.95**29}),
    ):
        rate = learning_rate(recipe, Schedule.of_images(recipe, 60_000).steps_per_epoch)
        assert callable(rate)
        found = [float(rate(step)) for step in expected]
        np.testing.assert_allclose(found, list(expected.values()), rtol=1e-4)


_WITHOUT_CROP = (GridDistortion(), MagnifyingRotation(), Standardize())
_OF_G = (CropResize(window=25, centre="published"), *_WITHOUT_CROP)


def _one_cycle(epochs):
    """One epoch of warm-up from a tenth of the rate, then cosine decay to zero."""
    return (Linear(epochs=1, start=0.1, end=1), Cosine(epochs=epochs - 1, end=0))


# Rows whose recipe is that of another row except for these fields.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "ttdoucet/half_width": ("ttdoucet/residual_cnn", {"model_args": {"width": 64}}),
    "ttdoucet/quarter_width": ("ttdoucet/residual_cnn", {"model_args": {"width": 32}}),
    "ttdoucet/quarter_width_true_centre": (
        "ttdoucet/quarter_width",
        {"augmentation": (CropResize(window=25, centre="true"), *_WITHOUT_CROP)},
    ),
    "ttdoucet/quarter_width_plain": (
        "ttdoucet/quarter_width",
        {"augmentation": (Standardize(),)},
    ),
    "ttdoucet/double_fc_dropout_augmented": (
        "nested_software/double_fc_dropout",
        {"augmentation": _OF_G, "one_pixel_shifts": False, "epochs": 200},
    ),
    "ttdoucet/fashion_mnist": ("ttdoucet/residual_cnn", {"dataset": "fashion_mnist"}),
    "ttdoucet/fashion_mnist_flips": (
        "ttdoucet/fashion_mnist",
        {"augmentation": (HorizontalFlip(), *_OF_G)},
    ),
    "batchnorm_cnn/as_published": ("batchnorm_cnn/batchnorm_cnn", {"evaluation": "training_mode"}),
    "batchnorm_cnn/early_stopping": (
        "batchnorm_cnn/batchnorm_cnn",
        {"validation": 10_000, "selection": "best_validation"},
    ),
    # Our own candidates, compared on validation images.
    "frontier/small": (
        "ttdoucet/residual_cnn",
        {"model_args": {"width": 32, "first_block": False}, "validation": 10_000},
    ),
    "frontier/one_cycle": (
        "frontier/small",
        {"learning_rate": 0.002, "learning_rate_schedule": _one_cycle(11)},
    ),
    "frontier/one_cycle_wider": (
        "frontier/one_cycle",
        {"model_args": {"width": 48, "first_block": False}},
    ),
    "frontier/one_cycle_longer": (
        "frontier/one_cycle",
        {"epochs": 22, "learning_rate_schedule": _one_cycle(22)},
    ),
    "frontier/one_cycle_0.001": ("frontier/one_cycle", {"learning_rate": 0.001}),
    "frontier/one_cycle_0.004": ("frontier/one_cycle", {"learning_rate": 0.004}),
    "frontier/one_cycle_turned": (
        "frontier/one_cycle",
        {
            "augmentation": (
                CropResize(window=25, centre="turned"),
                GridDistortion(),
                MagnifyingRotation(),
                Standardize(),
            )
        },
    ),
    "frontier/one_cycle_elastic": (
        "frontier/one_cycle",
        {
            "augmentation": (
                CropResize(window=25, centre="published"),
                Elastic(alpha=34, sigma=4),
                MagnifyingRotation(),
                Standardize(),
            )
        },
    ),
    "frontier/turned_wider_longer": (
        "frontier/one_cycle_turned",
        {
            "epochs": 22,
            "learning_rate_schedule": _one_cycle(22),
            "model_args": {"width": 48, "first_block": False},
        },
    ),
    "frontier/turned_longest": (
        "frontier/one_cycle_turned",
        {"epochs": 33, "learning_rate_schedule": _one_cycle(33)},
    ),
    "frontier/chosen": (
        "frontier/one_cycle_turned",
        {"epochs": 22, "learning_rate_schedule": _one_cycle(22), "validation": 0},
    ),
    # Source H's augmentation and learning-rate schedule.
    "batchnorm_cnn/augmented": (
        "batchnorm_cnn/batchnorm_cnn",
        {
            "epochs": 30,
            "augmentation": (Affine(rotation=15, shift=2.8, zoom=0.15, fill="nearest"),),
            "learning_rate_schedule": (
                Exponential(epochs=30, factor=0.95, over=1, staircase=True),
            ),
        },
    ),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_variant_changes_exactly_the_listed_fields(name):
    original, changes = VARIANTS[name]
    assert rows.find(name).recipe == dataclasses.replace(rows.find(original).recipe, **changes)


def test_vote_has_no_recipe_and_the_error_names_its_members():
    with pytest.raises(UsageError, match=r"a vote of .* they belong to, ttdoucet/residual_cnn"):
        rows.find("ttdoucet/committee")


def test_all_rows_of_e_g_and_o_but_the_published_ones_are_variants():
    others = {f"{article.name}/{row.id}" for article, row in ROWS if article.letter in "EGO"}
    assert others - VARIANTS.keys() == {"ttdoucet/residual_cnn", "batchnorm_cnn/batchnorm_cnn"}


def test_ensembles_are_those_of_the_articles():
    found = [
        (article.letter, one.members, one.size, one.vote, *(f.value for f in one.figures))
        for article in ARTICLES
        for one in article.ensembles
    ]
    assert found == [
        ("A", "double_fc_dropout", 5, "majority", 99.67),
        ("G", "residual_cnn", 10, "mean", 99.82, None),
        ("H", "strided_cnn", 15, "mean", 99.745),
        ("O", "chosen", 10, "mean", None),
    ]


def test_rows_of_article_b_also_have_the_figures_of_its_repository():
    (article,) = (article for article in ARTICLES if article.letter == "B")
    others = {
        row.id: other.value
        for row in article.rows
        for other in row.figures[1:]
        if "repository" in other.source
    }
    assert others == {
        "dense": 97.78,
        "basic_conv": 98.94,
        "dbl_conv": 99.15,
        "dbl_conv_relu": 99.26,
        "dbl_conv_relu_expanded": 99.42,
        "double_fc_dropout": 99.59,
    }


def test_printed_protocols_cover_every_row():
    listed = [tuple(line.split()[:2]) for line in PRINTED.strip().splitlines()]
    assert listed == [(article.letter, row.id) for article, row in ROWS]


def test_ablations_ensembles_and_costs_refer_to_existing_rows():
    names = {f"{article.name}/{row.id}" for article, row in ROWS}
    ablations = [ablation for article in ARTICLES for ablation in article.ablations]
    assert ablations
    assert {name for one in ablations for name in (one.first, one.second)} <= names
    used = {f"{article.name}/{one.members}" for article in ARTICLES for one in article.ensembles}
    trained = {f"{article.name}/{cost.row}" for article in ARTICLES for cost in article.costs}
    assert used
    assert trained
    assert used | trained <= names


def test_unknown_row_is_an_error_that_lists_the_rows():
    with pytest.raises(UsageError, match="no row 'plane'; its rows are plain, variant"):
        ARTICLE.row("plane")
