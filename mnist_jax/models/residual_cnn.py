"""The residual network of ttdoucet/mnist (source G), whose committees reach 99.82%."""

from flax import nnx

from mnist_jax.models.layers import (
    BatchNorm,
    Conv,
    Layer,
    Linear,
    MaxPool,
    Network,
    Residual,
    global_avg_pool,
    max_pool,
    relu,
)
from mnist_jax.models.registry import register
from mnist_jax.recipe import Recipe
from mnist_jax.schedules import Cosine, Exponential
from mnist_jax.transforms import CropResize, GridDistortion, MagnifyingRotation, Standardize

# Its cosine begins at the learning rate of the last of 6,000 steps, as a multiple of the first.
_LAST = 0.1 ** (5999 / 6000)


@register(
    Recipe(
        model="residual_cnn",
        batch_size=100,
        epochs=11,
        optimizer="adam",
        learning_rate=0.0004,
        b2=0.99,
        augmentation=(CropResize(), GridDistortion(), MagnifyingRotation(), Standardize()),
        learning_rate_schedule=(
            Exponential(epochs=10, factor=0.1, over=10),
            Cosine(epochs=1, start=_LAST, end=_LAST / 1000),
        ),
    ),
    article="G: ttdoucet/mnist",
    published="99.738%, mean of 10",
    torch_names={
        "0": "conv1",
        "2.bn": "bn1",
        "2.conv3x3": "res1.conv",
        "4.bn": "bn2",
        "4.conv3x3": "res2.conv",
        "5": "bn3",
        "6": "conv2",
        "9.bn": "bn4",
        "9.conv3x3": "res3.conv",
        "10": "bn5",
        "11": "conv3",
        "14.bn": "bn6",
        "14.conv3x3": "res4.conv",
        "15": "bn7",
        "18": "out",
    },
)
class ResidualCnn(Network):
    """A 5×5 convolution, six of 3×3, four of them residual, and global average pooling (source G).

    The source's residual blocks begin with a batch normalisation, whose output is also their skip
    connection: here it stands before the block.

    Args:
      width: filters at 28×28 and 14×14; twice as many at 7×7, and four times at 4×4.
      first_block: whether there is a residual block at 28×28, which is a third of all work; False,
        our variant, also omits the batch normalisation before it.
      rngs: the stream `params` gives the initial values.
    """

    def __init__(self, *, width: int = 128, first_block: bool = True, rngs: nnx.Rngs):
        def residual(features: int) -> Residual:
            return Residual(conv=Conv(features, features, 3, padding=1, rngs=rngs), act=relu)

        # Made before the block, because the stream gives initial values in order.
        conv1 = Conv(1, width, 5, padding=2, rngs=rngs)
        first: dict[str, Layer] = {}
        if first_block:
            first = {"bn1": BatchNorm(width, rngs=rngs), "res1": residual(width)}
        super().__init__(
            conv1=conv1,
            act1=relu,
            **first,
            pool1=max_pool,
            bn2=BatchNorm(width, rngs=rngs),
            res2=residual(width),
            bn3=BatchNorm(width, rngs=rngs),
            conv2=Conv(width, 2 * width, 3, padding=1, rngs=rngs),
            act2=relu,
            pool2=max_pool,
            bn4=BatchNorm(2 * width, rngs=rngs),
            res3=residual(2 * width),
            bn5=BatchNorm(2 * width, rngs=rngs),
            conv3=Conv(2 * width, 4 * width, 3, padding=1, rngs=rngs),
            act3=relu,
            pool3=MaxPool(padding="SAME"),
            bn6=BatchNorm(4 * width, rngs=rngs),
            res4=residual(4 * width),
            bn7=BatchNorm(4 * width, rngs=rngs),
            mean=global_avg_pool,
            out=Linear(4 * width, 10, rngs=rngs),
        )
