"""The networks, their layers and their registry."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from experiments.references.ours import make_network
from mnist_jax.errors import UsageError
from mnist_jax.models import abstract_model, create_model, model_entry, model_names
from mnist_jax.models.layers import Conv, Dropout, Network, Residual, check_trainable, max_pool
from mnist_jax.models.registry import register
from mnist_jax.models.summary import summarize
from mnist_jax.recipe import Recipe
from mnist_jax.training import TrainState

# Counted by hand from the articles: (inputs + 1) · outputs for every layer.
PARAMETERS = {
    "shallow": 785 * 100 + 101 * 10,
    "dense": 785 * 100 + 101 * 10,
    "basic_conv": 26 * 20 + 2881 * 100 + 101 * 10,
    "dbl_conv": 26 * 20 + 501 * 40 + 641 * 100 + 101 * 10,
    "dbl_conv_relu": 26 * 20 + 501 * 40 + 641 * 100 + 101 * 10,
    "expanded_double_fc": 26 * 20 + 501 * 40 + 641 * 100 + 101 * 100 + 101 * 10,
    "double_fc_dropout": 26 * 20 + 501 * 40 + 641 * 1000 + 1001 * 1000 + 1001 * 10,
    "cmu_cnn": 26 * 24 + 601 * 64 + 1025 * 240 + 241 * 168 + 169 * 10,
    "lenet": 26 * 6 + 151 * 16 + 401 * 120 + 121 * 84 + 85 * 10,
    # Each BatchNorm has a scale and a bias.
    "batchnorm_cnn": 10 * 5 + 46 * 10 + 2 * 10 + 91 * 20 + 2 * 20 + 181 * 40 + 2 * 40
    + 1961 * 200 + 201 * 500 + 501 * 10,
    "dropout_cnn": 10 * 32 + 289 * 64 + 577 * 128 + 2049 * 625 + 626 * 10,
    "simple_cnn": 10 * 32 + 289 * 64 + 3137 * 10,
    "residual_cnn": 26 * 128 + 2 * 1153 * 128 + 1153 * 256 + 2305 * 256 + 2305 * 512
    + 4609 * 512 + 2 * (3 * 128 + 2 * 256 + 2 * 512) + 513 * 10,
    "strided_cnn": 10 * 32 + 289 * 32 + 801 * 32 + 289 * 64 + 577 * 64 + 1601 * 64 + 1025 * 128
    + 2 * (3 * 32 + 3 * 64 + 128) + 129 * 10,
}  # fmt: skip


def parameters(model: Network) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def test_every_network_has_an_expected_count() -> None:
    assert sorted(PARAMETERS) == model_names()


@pytest.mark.parametrize("name", model_names())
def test_parameter_count_and_output_shape(name: str) -> None:
    model = abstract_model(name, **model_entry(name).recipe.model_args)
    layers = summarize(model)
    assert parameters(model) == PARAMETERS[name]
    assert sum(layer.parameters for layer in layers) == PARAMETERS[name]
    assert layers[-1].output_shape == (1, 10)


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("dbl_conv_relu", {"hidden": 300}, 26 * 20 + 501 * 40 + 641 * 300 + 301 * 10),
        ("expanded_double_fc", {"hidden": 20}, 26 * 20 + 501 * 40 + 641 * 20 + 21 * 20 + 21 * 10),
        ("basic_conv", {"fully_connected": False}, 26 * 20 + 2881 * 10),
        ("cmu_cnn", {"conv_relu": False}, PARAMETERS["cmu_cnn"]),
        ("dropout_cnn", {"forward": "notebook"}, PARAMETERS["dropout_cnn"]),
        ("double_fc_dropout", {"dropout": "classic"}, PARAMETERS["double_fc_dropout"]),
        ("lenet", {"pooling": "max", "activation": "relu"}, PARAMETERS["lenet"]),
        (
            "lenet",
            {"channels": [8], "kernel_size": 3, "hidden": [32]},
            10 * 8 + (14 * 14 * 8 + 1) * 32 + 33 * 10,
        ),
        ("residual_cnn", {"width": 32}, 298_442),
        ("residual_cnn", {"width": 32, "first_block": False}, 298_442 - 2 * 32 - 289 * 32),
        # Without convolutions it is a multilayer perceptron.
        ("lenet", {"channels": [], "hidden": [256]}, 785 * 256 + 257 * 10),
    ],
)
def test_parameter_counts_of_variants(
    name: str, arguments: dict[str, object], expected: int
) -> None:
    assert parameters(abstract_model(name, **arguments)) == expected


def test_summaries_of_g_and_h_have_the_layers_sizes() -> None:
    layers = {layer.name: layer for layer in summarize(abstract_model("residual_cnn"))}
    shapes = [layers[name].output_shape[1:] for name in ("res1", "res2", "res3", "res4", "mean")]
    assert shapes == [(28, 28, 128), (14, 14, 128), (7, 7, 256), (4, 4, 512), (512,)]
    assert layers["res1"].multiply_adds == 28 * 28 * 9 * 128 * 128
    with jax.enable_x64(True):
        double = jax.eval_shape(
            lambda model: jax.tree.map(lambda a: a.astype(float), model),
            abstract_model("residual_cnn"),
        )
        assert summarize(double) == list(layers.values())

    strided = summarize(abstract_model("strided_cnn"))
    sides = [layer.output_shape[1] for layer in strided if layer.kind == "Conv"]
    assert sides == [26, 24, 12, 10, 8, 4, 1]
    (conv6,) = (layer for layer in strided if layer.name == "conv6")
    assert conv6.settings == "5×5, stride 2, padding SAME"


def test_multiply_adds_of_a_nested_network_use_its_layers_sizes() -> None:
    rngs = nnx.Rngs(0)
    first, second = Conv(1, 2, 3, rngs=rngs), Conv(2, 4, 1, rngs=rngs)
    (inner,) = summarize(Network(inner=Network(first=first, pool=max_pool, second=second)))
    assert inner.multiply_adds == 26 * 26 * 9 * 2 + 13 * 13 * 2 * 4


class Branches(Network):
    """Parallel layers, whose outputs are concatenated."""

    def __call__(self, images: jax.Array, *, keys: jax.Array | None = None) -> jax.Array:
        del keys
        return jnp.concatenate([layer(images) for layer in self.named_layers().values()], axis=-1)


def test_multiply_adds_of_a_custom_call_are_unknown() -> None:
    rngs = nnx.Rngs(0)
    one, other = (Conv(1, 2, size, rngs=rngs, padding="SAME") for size in (3, 5))
    (layer,) = summarize(Network(branches=Branches(one=one, other=other)))
    assert (layer.output_shape, layer.multiply_adds) == ((1, 28, 28, 4), 0)


def test_article_c_s_text_variant_has_no_relu_after_convolutions() -> None:
    kinds = {
        conv_relu: [
            layer.kind for layer in summarize(abstract_model("cmu_cnn", conv_relu=conv_relu))
        ]
        for conv_relu in (True, False)
    }
    assert kinds[True].count("relu") == 4
    assert kinds[False].count("relu") == 2


@pytest.mark.parametrize(
    ("name", "arguments", "sentence"),
    [
        ("dbl_conv_rleu", {}, "did you mean 'dbl_conv_relu'"),
        ("lenet", {"poling": "max"}, "takes no argument 'poling'"),
        ("lenet", {"rngs": 1}, "takes no argument 'rngs'"),
        ("lenet", {"name": "x"}, "takes no argument 'name'"),
        ("lenet", {"pooling": "min"}, "give avg or max"),
        ("lenet", {"pooling": ["max"]}, 'give a value like "avg"'),
        ("lenet", {"channels": 6}, r"channels is 6; give a value like \[6, 16\]"),
        ("lenet", {"channels": [6, 2**31]}, r"give a value like \[6, 16\]"),
        ("lenet", {"hidden": [120, 0]}, r"give a value like \[120, 84\]"),
        ("dbl_conv_relu", {"hidden": "300"}, "hidden is '300'; give a value like 100"),
        ("batchnorm_cnn", {"rate": "x"}, "give a value like 0.5"),
        ("cmu_cnn", {"conv_relu": 1}, "give a value like true"),
        ("lenet", {"activation": "gelu"}, "give one of relu, sigmoid, tanh"),
        ("lenet", {"channels": [6, 16, 32, 64]}, "leave nothing of a 28x28 image"),
        ("dropout_cnn", {"forward": "txt"}, "give text or notebook"),
        ("double_fc_dropout", {"dropout": "spatial"}, "give inverted or classic"),
        ("dbl_conv", {"init": "he"}, "give one of"),
    ],
)
def test_misuse_is_one_sentence(name: str, arguments: dict[str, object], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        abstract_model(name, **arguments)


def test_registering_a_name_twice_is_an_error() -> None:
    recipe = Recipe(model="lenet", batch_size=1, epochs=1, learning_rate=0.1)
    with pytest.raises(ValueError, match="already registered"):
        register(recipe, article="", published="")(Network)


def test_initial_parameters_depend_only_on_the_seed() -> None:
    @jax.jit
    def leaves(key: jax.Array) -> list[jax.Array]:
        return jax.tree.leaves(nnx.state(create_model("lenet", rngs=nnx.Rngs(key)), nnx.Param))

    once, again, other = (jax.device_get(leaves(jax.random.key(seed))) for seed in (1, 1, 2))
    assert all((a == b).all() for a, b in zip(once, again, strict=True))
    assert not any((a == b).all() for a, b in zip(once, other, strict=True))


def test_dropout_in_training_needs_keys() -> None:
    model = make_network("double_fc_dropout", np.float32)
    with pytest.raises(ValueError, match="needs `keys`"):
        jax.eval_shape(model, jnp.zeros((2, 28, 28, 1)))


def test_nested_networks_drop_out_independently() -> None:
    drop = Dropout(0.5)
    block = Residual(drop=drop, inner=Residual(drop=drop))
    keys = jax.random.split(jax.random.key(0), 4)
    check_trainable(Network(block=block))
    outputs = np.asarray(jax.jit(lambda x: block(x, keys=keys))(jnp.ones((4, 28, 28, 1))))
    # x + d(x) + d'(d(x)), where d and d' drop or double.
    assert set(np.unique(outputs)) == {1.0, 3.0, 7.0}


class _Keyless(Network):
    def __call__(self, images: jax.Array) -> jax.Array:  # type: ignore[override]
        return images + super().__call__(images)


@pytest.mark.parametrize(
    ("layers", "sentence"),
    [
        ({"block": _Keyless(act=nnx.relu)}, "network at block takes no keys"),
        ({"drop": nnx.Dropout(0.5)}, "Dropout at drop would get no keys"),
        ({"drop": nnx.Dropout(0.5, rngs=nnx.Rngs(0))}, "Dropout at drop would get no keys"),
        ({"head": nnx.Sequential(Dropout(0.5))}, "Dropout at head.layers.0 would get no keys"),
        ({"inner": Network(norm=nnx.BatchNorm(1, rngs=nnx.Rngs(0)))}, "BatchNorm at inner.norm"),
        (
            {"a": nnx.SpectralNorm(nnx.Linear(1, 1, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(0))},
            "a.batch_stats.* is a BatchStat",
        ),
    ],
)
def test_layers_that_cannot_be_trained_are_refused(layers: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        TrainState.create(Network(**layers), optax.sgd(0.1), key=jax.random.key(0))


def test_dropout_drops_units_at_its_rate_and_scales_the_others() -> None:
    keys = jax.random.split(jax.random.key(0), 50)
    masked = jax.jit(Dropout(0.3).masked)
    masks = np.asarray(masked(jnp.ones((50, 5, 5, 33)), keys))
    kept = masks > 0
    # Six standard errors of the mean of 41,250 independent units.
    assert abs(kept.mean() - 0.7) < 0.014
    np.testing.assert_allclose(masks[kept], 1 / 0.7, rtol=1e-6)
    assert not (kept[0] == kept[1]).all()
    np.testing.assert_array_equal(masked(jnp.ones((1, 5, 5, 33)), keys[7:8])[0], masks[7])


def test_dropout_masks_do_not_depend_on_the_default_precision() -> None:
    keys = jax.random.split(jax.random.key(0), 4)
    images = np.ones((4, 5, 5, 33), np.float32)
    masks = Dropout(0.3).masked(jnp.asarray(images), keys)
    with jax.enable_x64(True):
        np.testing.assert_array_equal(Dropout(0.3).masked(jnp.asarray(images), keys), masks)


def test_dropout_rate_of_zero_keeps_every_unit() -> None:
    keys = jax.random.split(jax.random.key(0), 4)
    assert (np.asarray(jax.jit(Dropout(0).masked)(jnp.ones((4, 5, 5, 33)), keys)) == 1).all()


def test_dropout_rate_of_one_is_refused() -> None:
    with pytest.raises(UsageError, match=r"The dropout rate is 1; give a number from 0 to 0\.99"):
        Dropout(1)


def test_canonical_json_does_not_depend_on_the_order_of_arguments() -> None:
    recipe = model_entry("lenet").recipe
    one, other = (
        replace(recipe, model_args=dict(arguments))
        for arguments in ([("a", {"x": 1, "y": 2}), ("b", 2)], [("b", 2), ("a", {"y": 2, "x": 1})])
    )
    assert one == other
    assert one.canonical() == other.canonical()
    assert one.canonical() != replace(one, epochs=99).canonical()


@pytest.mark.parametrize("name", model_names())
def test_article_recipes_are_in_canonical_form(name: str) -> None:
    recipe = model_entry(name).recipe
    assert recipe.canonical() == recipe.to_json()
