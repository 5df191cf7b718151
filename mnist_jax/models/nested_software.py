"""The networks of article B, which re-implements Nielsen's (article A) in PyTorch.

If both articles have a network, its registered protocol is article B's.
"""

from flax import nnx

from mnist_jax.errors import UsageError
from mnist_jax.models.layers import (
    ClassicDropout,
    Dropout,
    Layer,
    Linear,
    Network,
    flatten,
    relu,
    sigmoid,
)
from mnist_jax.models.nielsen import convolutions, softmax_layer
from mnist_jax.models.registry import register
from mnist_jax.recipe import Recipe

_ARTICLE = "B: PyTorch Image Recognition with Convolutional Networks"
_DROPOUTS = {"inverted": Dropout, "classic": ClassicDropout}


@register(
    Recipe(
        model="dense",
        batch_size=10,
        epochs=30,
        learning_rate=3.0,
        loss="mean_squared_error",
    ),
    article=_ARTICLE,
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
    article=_ARTICLE,
    published="98.97%",
)
class BasicConv(Network):
    """One 5×5 convolution of 20 filters and a dense layer of 100, sigmoid (articles A and B).

    Args:
      fully_connected: the dense layer, which article A's `omit_FC` leaves out.
      init: a name that `initializers.get_initializer` knows.
      rngs: the stream `params` gives the initial values.
    """

    def __init__(self, *, fully_connected: bool = True, init: str = "torch", rngs: nnx.Rngs):
        layers, features = convolutions((20,), sigmoid, init, rngs), 2880
        if fully_connected:
            layers |= {"fc1": Linear(features, 100, init=init, rngs=rngs), "act2": sigmoid}
            features = 100
        super().__init__(**layers, out=softmax_layer(features, init, rngs))


class _TwoConvolutions(Network):
    """Convolutions of 20 and 40 filters and a dense layer, all with one activation."""

    def __init__(self, activation: Layer, hidden: int, init: str, rngs: nnx.Rngs):
        super().__init__(
            **convolutions((20, 40), activation, init, rngs),
            fc1=Linear(640, hidden, init=init, rngs=rngs),
            act3=activation,
            out=softmax_layer(hidden, init, rngs),
        )


@register(
    Recipe(model="dbl_conv", batch_size=10, epochs=60, learning_rate=0.1),
    article=_ARTICLE,
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
    article=_ARTICLE,
    published="99.43%",
)
class DblConvRelu(_TwoConvolutions):
    """`dbl_conv` with ReLU and `hidden` units in the dense layer (articles A and B)."""

    def __init__(self, *, hidden: int = 100, init: str = "torch", rngs: nnx.Rngs):
        super().__init__(relu, hidden, init, rngs)


@register(
    Recipe(
        model="double_fc_dropout",
        one_pixel_shifts=True,
        batch_size=10,
        epochs=40,
        learning_rate=0.005,
    ),
    article=_ARTICLE,
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
            **convolutions((20, 40), relu, init, rngs),
            dropout1=drop(rate),
            fc1=Linear(640, 1000, init=init, rngs=rngs),
            act3=relu,
            dropout2=drop(rate),
            fc2=Linear(1000, 1000, init=init, rngs=rngs),
            act4=relu,
            dropout3=drop(rate),
            out=softmax_layer(1000, init, rngs),
        )
