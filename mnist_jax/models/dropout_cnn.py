"""A three-convolution network with dropout, and its two-convolution sibling (article F)."""

from flax import nnx

from mnist_jax.errors import UsageError
from mnist_jax.models.layers import (
    Conv,
    Dropout,
    Layer,
    Linear,
    MaxPool,
    Network,
    flatten,
    max_pool,
    relu,
)
from mnist_jax.models.registry import register
from mnist_jax.recipe import Recipe

_ARTICLE = "F: amineHY's article on the CNN, whose text has no title"


@register(
    Recipe(
        model="dropout_cnn",
        batch_size=32,
        epochs=15,
        optimizer="adam",
        learning_rate=0.001,
    ),
    article=_ARTICLE,
    published="90 to 100% on training batches",
    torch_names={
        "layer1.0": "conv1",
        "layer2.0": "conv2",
        "layer3.0": "conv3",
        "fc1": "fc1",
        "layer4.0": "fc1",  # The author's layer4 holds the same tensor a second time.
        "fc2": "fc2",
    },
)
class DropoutCnn(Network):
    """3×3 convolutions of 32, 64 and 128 filters, a dense layer of 625, dropout (article F).

    Args:
      forward: `text`, the network the article's text describes; or `notebook`, the author's
        program, which keeps every unit and skips the activation after the first dense layer.
      rate: the probability of dropping a unit, for the text's network.
      rngs: the stream `params` gives the initial values.

    Raises:
      UsageError: `forward` is neither.
    """

    def __init__(self, *, forward: str = "text", rate: float = 0.3, rngs: nnx.Rngs):
        if forward not in ("text", "notebook"):
            raise UsageError(f"dropout_cnn's forward is {forward!r}; give text or notebook.")
        layers: dict[str, Layer] = {}
        for i, (inputs, features) in enumerate([(1, 32), (32, 64), (64, 128)], start=1):
            layers[f"conv{i}"] = Conv(inputs, features, 3, padding=1, rngs=rngs)
            layers[f"act{i}"] = relu
            layers[f"pool{i}"] = MaxPool(padding=1) if i == 3 else max_pool
            if forward == "text":
                layers[f"dropout{i}"] = Dropout(rate)
        layers["flatten"] = flatten
        layers["fc1"] = Linear(2048, 625, init="xavier", rngs=rngs)
        if forward == "text":
            layers["act4"] = relu
            layers["dropout4"] = Dropout(rate)
        super().__init__(**layers, fc2=Linear(625, 10, init="xavier", rngs=rngs))


@register(
    Recipe(
        model="simple_cnn",
        batch_size=100,
        epochs=5,
        optimizer="adam",
        learning_rate=0.001,
    ),
    article=_ARTICLE + ", sibling notebook",
    published="training loss 0.0291 in epoch 5",
    torch_names={"layer1.0": "conv1", "layer2.0": "conv2", "fc": "fc"},
)
class SimpleCnn(Network):
    """3×3 convolutions of 32 and 64 filters and one dense layer (article F's sibling notebook)."""

    def __init__(self, *, rngs: nnx.Rngs):
        super().__init__(
            conv1=Conv(1, 32, 3, padding=1, rngs=rngs),
            act1=relu,
            pool1=max_pool,
            conv2=Conv(32, 64, 3, padding=1, rngs=rngs),
            act2=relu,
            pool2=max_pool,
            flatten=flatten,
            fc=Linear(3136, 10, init="xavier", rngs=rngs),
        )
