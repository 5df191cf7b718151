"""The small results that the articles work by hand, and the layers that they print."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from mnist_jax.models import abstract_model, create_model
from mnist_jax.models.layers import Conv, MaxPool


def test_convolution_is_a_cross_correlation() -> None:
    """Article B's worked example; a true convolution would flip the kernel."""
    layer = Conv(1, 1, 2, init="zeros", rngs=nnx.Rngs(params=0))
    layer.kernel[...] = jnp.array([[10.0, 20], [30, 40]]).reshape(2, 2, 1, 1)
    image = jnp.array([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]]).reshape(1, 3, 3, 1)
    assert layer(image)[0, :, :, 0].tolist() == [[370, 470], [670, 770]]


def test_article_b_softmax() -> None:
    softmax = nnx.softmax(jnp.array([0.2, 0.4, 0.9]))
    assert np.round(softmax, 4).tolist() == pytest.approx([0.2361, 0.2884, 0.4755])


@pytest.mark.parametrize(
    "loss",
    [
        lambda logits, label: -jnp.log(nnx.softmax(logits)[label]),
        lambda logits, label: -nnx.log_softmax(logits)[label],
        lambda logits, label: -jnp.vdot(jax.nn.one_hot(label, 3), nnx.log_softmax(logits)),
        optax.softmax_cross_entropy_with_integer_labels,
    ],
    ids=["softmax then log", "log_softmax", "negative log-likelihood", "cross-entropy of logits"],
)
def test_four_routes_to_the_same_cross_entropy(
    loss: Callable[[jax.Array, int], jax.Array],
) -> None:
    assert round(float(loss(jnp.array([0.2, 0.4, 0.9]), 2)), 4) == 0.7434


def test_lenet_has_the_output_shapes_that_article_d_prints() -> None:
    def outputs(image: jax.Array) -> list[jax.Array]:
        model = create_model("lenet", rngs=nnx.Rngs(params=0))
        return [output for _, output in model.layer_outputs(image)]

    one = jax.eval_shape(outputs, jnp.zeros((1, 28, 28, 1)))
    # PyTorch puts the channels first.
    shapes = [[x.shape[0], x.shape[-1], *x.shape[1:-1]] for x in one]
    assert shapes == [
        *[[1, 6, 28, 28]] * 2,
        [1, 6, 14, 14],
        *[[1, 16, 10, 10]] * 2,
        [1, 16, 5, 5],
        [1, 400],
        *[[1, 120]] * 2,
        *[[1, 84]] * 2,
        [1, 10],
    ]


def _describe(layer: object) -> str:
    match layer:
        case nnx.Conv():
            side = layer.kernel_size[0]
            return f"Conv2d({layer.in_features}, {layer.out_features}, {side}, {layer.padding})"
        case MaxPool():
            return f"MaxPool2d(2, {layer.padding})"
        case nnx.Dropout():
            return f"Dropout({layer.rate})"
        case nnx.Linear():
            return f"Linear({layer.in_features}, {layer.out_features})"
    return str(getattr(layer, "__name__", layer))


def test_dropout_cnn_has_the_layers_that_article_f_prints() -> None:
    model = abstract_model("dropout_cnn")
    assert [_describe(getattr(model, name)) for name in model.layer_names] == [
        *["Conv2d(1, 32, 3, 1)", "relu", "MaxPool2d(2, 0)", "Dropout(0.3)"],
        *["Conv2d(32, 64, 3, 1)", "relu", "MaxPool2d(2, 0)", "Dropout(0.3)"],
        *["Conv2d(64, 128, 3, 1)", "relu", "MaxPool2d(2, 1)", "Dropout(0.3)"],
        "flatten",
        *["Linear(2048, 625)", "relu", "Dropout(0.3)"],
        "Linear(625, 10)",
    ]
