"""The networks of Nielsen's chapter 6 that only article A has.

The others are in `nested_software`, as re-implemented by article B; article A's variants of them
are selected by arguments: `init="nielsen"` for its initial values, `dropout="classic"` for its
dropout.
"""

from flax import nnx

from mnist_jax.models.layers import Conv, Layer, Linear, Network, flatten, max_pool, relu, sigmoid
from mnist_jax.models.registry import register
from mnist_jax.recipe import Recipe

_ARTICLE = "A: Nielsen, Neural Networks and Deep Learning, chapter 6"


def convolutions(
    filters: tuple[int, ...], activation: Layer, init: str, rngs: nnx.Rngs
) -> dict[str, Layer]:
    """5×5 convolutions, each with an activation and a max-pool, followed by flattening."""
    layers: dict[str, Layer] = {}
    for i, (inputs, features) in enumerate(zip((1, *filters), filters, strict=False), start=1):
        layers[f"conv{i}"] = Conv(inputs, features, 5, init=init, rngs=rngs)
        layers[f"act{i}"] = activation
        layers[f"pool{i}"] = max_pool
    return layers | {"flatten": flatten}


def softmax_layer(inputs: int, init: str, rngs: nnx.Rngs) -> nnx.Linear:
    """The output layer; article A initialises it to zero."""
    return Linear(inputs, 10, init="zeros" if init == "nielsen" else init, rngs=rngs)


@register(
    Recipe(
        model="shallow",
        model_args={"init": "nielsen"},
        validation=10_000,
        shuffle="never",
        batch_size=10,
        epochs=60,
        learning_rate=0.1,
        selection="best_validation",
    ),
    article=_ARTICLE,
    published="97.80%",
)
class Shallow(Network):
    """Dense 784→100 sigmoid, dense 100→10 (article A, `shallow`)."""

    def __init__(self, *, init: str = "torch", rngs: nnx.Rngs):
        super().__init__(
            flatten=flatten,
            fc1=Linear(784, 100, init=init, rngs=rngs),
            act1=sigmoid,
            out=softmax_layer(100, init, rngs),
        )


@register(
    Recipe(
        model="expanded_double_fc",
        model_args={"init": "nielsen"},
        validation=10_000,
        one_pixel_shifts=True,
        shuffle="once",
        batch_size=10,
        epochs=60,
        learning_rate=0.03,
        weight_decay=0.1,
        weight_decay_sense="nielsen",
        selection="best_validation",
    ),
    article=_ARTICLE,
    published="99.43%",
)
class ExpandedDoubleFc(Network):
    """`dbl_conv_relu` with two dense layers of `hidden` units (article A)."""

    def __init__(self, *, hidden: int = 100, init: str = "torch", rngs: nnx.Rngs):
        super().__init__(
            **convolutions((20, 40), relu, init, rngs),
            fc1=Linear(640, hidden, init=init, rngs=rngs),
            act3=relu,
            fc2=Linear(hidden, hidden, init=init, rngs=rngs),
            act4=relu,
            out=softmax_layer(hidden, init, rngs),
        )
