"""Four convolutions with batch normalisation (article E)."""

from flax import nnx

from mnist_jax.models.layers import (
    BatchNorm,
    Conv,
    Dropout,
    Linear,
    Network,
    flatten,
    max_pool,
    relu,
)
from mnist_jax.models.registry import register
from mnist_jax.recipe import Recipe


@register(
    Recipe(
        model="batchnorm_cnn",
        mean=0.5,
        std=0.5,
        batch_size=100,
        epochs=10,
        optimizer="adam",
        learning_rate=0.0003,
        weight_decay=0.001,
        eval_every=50,
    ),
    article=(
        "E: Learn how to Classify Hand Written Digits using a Convolutional Neural Network (CNN)"
    ),
    published="99% (approx)",
    torch_names={
        "features.0": "conv1",
        "features.2": "conv2",
        "features.5": "bn2",
        "features.6": "conv3",
        "features.8": "bn3",
        "features.9": "conv4",
        "features.12": "bn4",
        "classifier.0": "fc1",
        "classifier.3": "fc2",
        "classifier.5": "out",
    },
)
class BatchNormCnn(Network):
    """3×3 convolutions of 5, 10, 20 and 40 filters, dense layers of 200 and 500 (article E)."""

    def __init__(self, *, rate: float = 0.5, rngs: nnx.Rngs):
        super().__init__(
            conv1=Conv(1, 5, 3, padding=1, rngs=rngs),
            act1=relu,
            conv2=Conv(5, 10, 3, padding=1, rngs=rngs),
            pool2=max_pool,
            act2=relu,
            bn2=BatchNorm(10, rngs=rngs),
            conv3=Conv(10, 20, 3, padding=1, rngs=rngs),
            act3=relu,
            bn3=BatchNorm(20, rngs=rngs),
            conv4=Conv(20, 40, 3, padding=1, rngs=rngs),
            pool4=max_pool,
            act4=relu,
            bn4=BatchNorm(40, rngs=rngs),
            flatten=flatten,
            fc1=Linear(1960, 200, rngs=rngs),
            act5=relu,
            dropout=Dropout(rate),
            fc2=Linear(200, 500, rngs=rngs),
            act6=relu,
            out=Linear(500, 10, rngs=rngs),
        )
