"""The network of "The Convolution Neural Network with PyTorch" (article C)."""

from flax import nnx

from mnist_jax.models.layers import Conv, Layer, Linear, Network, flatten, max_pool, relu
from mnist_jax.models.registry import register
from mnist_jax.recipe import Recipe


@register(
    Recipe(
        model="cmu_cnn",
        shuffle="never",
        batch_size=100,
        epochs=10,
        optimizer="adam",
        learning_rate=0.001,
    ),
    article="C: The Convolution Neural Network with PyTorch",
    published="98.86%",
)
class CmuCnn(Network):
    """5×5 convolutions of 24 and 64 filters, dense layers of 240 and 168 (article C).

    Args:
      conv_relu: ReLU after the convolutions too, as in the author's program. The text mentions it
        for the dense layers only.
      rngs: the stream `params` gives the initial values.
    """

    def __init__(self, *, conv_relu: bool = True, rngs: nnx.Rngs):
        act1: dict[str, Layer] = {"act1": relu} if conv_relu else {}
        act2: dict[str, Layer] = {"act2": relu} if conv_relu else {}
        super().__init__(
            conv1=Conv(1, 24, 5, rngs=rngs),
            **act1,
            pool1=max_pool,
            conv2=Conv(24, 64, 5, rngs=rngs),
            **act2,
            pool2=max_pool,
            flatten=flatten,
            fc1=Linear(1024, 240, rngs=rngs),
            act3=relu,
            fc2=Linear(240, 168, rngs=rngs),
            act4=relu,
            fc3=Linear(168, 10, rngs=rngs),
        )
