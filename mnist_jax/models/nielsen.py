"""The networks of Nielsen's chapter 6 (article A) and their PyTorch rewriting (article B).

The registered protocols are article B's where it has the network, else article A's. A's variants
are arguments: `init="nielsen"` for its initial values, `dropout="classic"` for its dropout.
"""

from flax import nnx

from mnist_jax.errors import UsageError
from mnist_jax.models.layers import (
    ClassicDropout,
    Conv,
    Dropout,
    Layer,
    Linear,
    Network,
    flatten,
    max_pool,
    relu,
    sigmoid,
)
from mnist_jax.models.registry import register
from mnist_jax.recipe import Recipe

_ARTICLE_A = "A: Nielsen, Neural Networks and Deep Learning, chapter 6"
_ARTICLE_B = "B: PyTorch Image Recognition with Convolutional Networks"
_DROPOUTS = {"inverted": Dropout, "classic": ClassicDropout}


def _blocks(
    filters: tuple[int, ...], activation: Layer, init: str, rngs: nnx.Rngs
) -> dict[str, Layer]:
    """5×5 convolutions, each with an activation and a max-pool, and the flattening after them."""
    layers: dict[str, Layer] = {}
    for i, (inputs, features) in enumerate(zip((1, *filters), filters, strict=False), start=1):
        layers[f"conv{i}"] = Conv(inputs, features, 5, init=init, rngs=rngs)
        layers[f"act{i}"] = activation
        layers[f"pool{i}"] = max_pool
    return layers | {"flatten": flatten}


def _output(inputs: int, init: str, rngs: nnx.Rngs) -> nnx.Linear:
    # Article A's softmax layer starts at zero.
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
    article=_ARTICLE_A,
    published="97.80%",
)
class Shallow(Network):
    """Dense 784→100 sigmoid, dense 100→10 (article A, `shallow`)."""

    def __init__(self, *, init: str = "torch", rngs: nnx.Rngs):
        super().__init__(
            flatten=flatten,
            fc1=Linear(784, 100, init=init, rngs=rngs),
            act1=sigmoid,
            out=_output(100, init, rngs),
        )


@register(
    Recipe(
        model="dense",
        batch_size=10,
        epochs=30,
        learning_rate=3.0,
        loss="mean_squared_error",
    ),
    article=_ARTICLE_B,
    published="close to 98%",
)
class Dense(Network):
    """Dense 784→100→10 with a sigmoid on both layers (article B, the network before the CNNs)."""

    def __init__(self, *, init: str = "torch", rngs: nnx.Rngs):
        super().__init__(
            flatten=flatten,
            hidden_layer=Linear(784, 100, init=init, rngs=rngs),
            act1=sigmoid,
            output_layer=Linear(100, 10, init=init, rngs=rngs),
            act2=sigmoid,
        )


@register(
    Recipe(model="basic_conv", batch_size=10, epochs=60, learning_rate=0.1),
    article=_ARTICLE_B,
    published="98.97%",
)
class BasicConv(Network):
    """One 5×5 convolution of 20 filters and a dense layer of 100, sigmoid (article B)."""

    def __init__(self, *, init: str = "torch", rngs: nnx.Rngs):
        super().__init__(
            **_blocks((20,), sigmoid, init, rngs),
            fc1=Linear(2880, 100, init=init, rngs=rngs),
            act2=sigmoid,
            out=_output(100, init, rngs),
        )


class _TwoConvolutions(Network):
    """Convolutions of 20 and 40 filters and a dense layer, all with one activation."""

    def __init__(self, activation: Layer, hidden: int, init: str, rngs: nnx.Rngs):
        super().__init__(
            **_blocks((20, 40), activation, init, rngs),
            fc1=Linear(640, hidden, init=init, rngs=rngs),
            act3=activation,
            out=_output(hidden, init, rngs),
        )


@register(
    Recipe(model="dbl_conv", batch_size=10, epochs=60, learning_rate=0.1),
    article=_ARTICLE_B,
    published="99.05%",
)
class DblConv(_TwoConvolutions):
    """Two 5×5 convolutions (20, 40 filters) and a dense layer of 100, sigmoid (article B)."""

    def __init__(self, *, init: str = "torch", rngs: nnx.Rngs):
        super().__init__(sigmoid, 100, init, rngs)


@register(
    Recipe(
        model="dbl_conv_relu",
        batch_size=10,
        epochs=60,
        learning_rate=0.03,
        weight_decay=0.00005,
    ),
    article=_ARTICLE_B,
    published="99.43%",
)
class DblConvRelu(_TwoConvolutions):
    """`dbl_conv` with ReLU and `hidden` units in the dense layer (articles A and B)."""

    def __init__(self, *, hidden: int = 100, init: str = "torch", rngs: nnx.Rngs):
        super().__init__(relu, hidden, init, rngs)


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
    article=_ARTICLE_A,
    published="99.43%",
)
class ExpandedDoubleFc(Network):
    """`dbl_conv_relu` with two dense layers of `hidden` units (article A)."""

    def __init__(self, *, hidden: int = 100, init: str = "torch", rngs: nnx.Rngs):
        super().__init__(
            **_blocks((20, 40), relu, init, rngs),
            fc1=Linear(640, hidden, init=init, rngs=rngs),
            act3=relu,
            fc2=Linear(hidden, hidden, init=init, rngs=rngs),
            act4=relu,
            out=_output(hidden, init, rngs),
        )


@register(
    Recipe(
        model="double_fc_dropout",
        one_pixel_shifts=True,
        batch_size=10,
        epochs=40,
        learning_rate=0.005,
    ),
    article=_ARTICLE_B,
    published="99.63%",
)
class DoubleFcDropout(Network):
    """Two dense layers of 1000 with dropout 0.5 before each and the output (articles A and B).

    Args:
      dropout: `inverted` (article B) or `classic` (article A).
      rate: the probability of dropping a unit.
      init: a name that `initializers.get_initializer` knows.
      rngs: the stream `params` gives the initial values.

    Raises:
      UsageError: `dropout` is neither.
    """

    def __init__(
        self,
        *,
        dropout: str = "inverted",
        rate: float = 0.5,
        init: str = "torch",
        rngs: nnx.Rngs,
    ):
        if dropout not in _DROPOUTS:
            raise UsageError(
                f"double_fc_dropout's dropout is {dropout!r}; give {' or '.join(_DROPOUTS)}."
            )
        drop = _DROPOUTS[dropout]
        super().__init__(
            **_blocks((20, 40), relu, init, rngs),
            dropout1=drop(rate),
            fc1=Linear(640, 1000, init=init, rngs=rngs),
            act3=relu,
            dropout2=drop(rate),
            fc2=Linear(1000, 1000, init=init, rngs=rngs),
            act4=relu,
            dropout3=drop(rate),
            out=_output(1000, init, rngs),
        )
