"""The network of cdeotte/MNIST-CNN-99.75 (source H), which article E's last lines refer to."""

from flax import nnx

from mnist_jax.models.layers import BatchNorm, Conv, Dropout, Layer, Linear, Network, flatten, relu
from mnist_jax.models.registry import register
from mnist_jax.recipe import Recipe
from mnist_jax.schedules import Exponential
from mnist_jax.transforms import Affine

# Input channels, filters, side of the kernel; 5×5 convolutions have stride 2 instead of pooling.
_CONVOLUTIONS = [
    (1, 32, 3),
    (32, 32, 3),
    (32, 32, 5),
    (32, 64, 3),
    (64, 64, 3),
    (64, 64, 5),
    (64, 128, 4),
]


@register(
    Recipe(
        model="strided_cnn",
        validation=6_000,
        held_out="random",
        batch_size=64,
        last_batch="dropped",
        epochs=30,
        optimizer="adam",
        learning_rate=0.001,
        eps=1e-7,
        eps_sense="keras",
        augmentation=(Affine(),),
        learning_rate_schedule=(Exponential(epochs=30, factor=0.95, staircase=True),),
    ),
    article="H: cdeotte/MNIST-CNN-99.75",
    published="99.641%, mean of 1,500",
)
class StridedCnn(Network):
    """Seven convolutions, two of which have stride 2 instead of pooling (source H).

    Initial values and batch normalisation are Keras'.

    Args:
      rate: the probability of dropping a unit.
      rngs: the stream `params` gives the initial values.
    """

    def __init__(self, *, rate: float = 0.4, rngs: nnx.Rngs):
        layers: dict[str, Layer] = {}
        for i, (inputs, features, kernel_size) in enumerate(_CONVOLUTIONS, start=1):
            halves = kernel_size == 5
            layers[f"conv{i}"] = Conv(
                inputs,
                features,
                kernel_size,
                strides=2 if halves else 1,
                padding="SAME" if halves else 0,
                init="keras",
                rngs=rngs,
            )
            layers[f"act{i}"] = relu
            layers[f"bn{i}"] = BatchNorm(features, momentum=0.99, epsilon=0.001, rngs=rngs)
            if halves:
                layers[f"dropout{i}"] = Dropout(rate)
        super().__init__(
            **layers,
            flatten=flatten,
            dropout7=Dropout(rate),
            out=Linear(128, 10, init="keras", rngs=rngs),
        )
