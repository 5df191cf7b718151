"""Worked examples from the articles, and the layer summaries that they print."""

import jax.numpy as jnp
from flax import nnx

from mnist_jax.models import abstract_model
from mnist_jax.models.layers import Conv
from mnist_jax.models.summary import summarize


def test_convolution_is_a_cross_correlation() -> None:
    """Article B's worked example; a true convolution would flip the kernel."""
    layer = Conv(1, 1, 2, init="zeros", rngs=nnx.Rngs(params=0))
    layer.kernel[...] = jnp.array([[10.0, 20], [30, 40]]).reshape(2, 2, 1, 1)
    image = jnp.array([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]]).reshape(1, 3, 3, 1)
    assert layer(image)[0, :, :, 0].tolist() == [[370, 470], [670, 770]]


def test_lenet_has_the_output_shapes_that_article_d_prints() -> None:
    layers = summarize(abstract_model("lenet"))
    # PyTorch puts the channels first.
    shapes = [[1, *layer.output_shape[-1:], *layer.output_shape[1:-1]] for layer in layers]
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
    assert layers[2].settings == "2×2, stride 2, padding 0"


def test_dropout_cnn_has_the_layers_that_article_f_prints() -> None:
    layers = summarize(abstract_model("dropout_cnn"))
    conv, dropout = ("Conv", "3×3, stride 1, padding 1"), ("Dropout", "rate 0.3")
    assert [(layer.kind, layer.settings) for layer in layers] == [
        *[conv, ("relu", ""), ("MaxPool", "2×2, stride 2, padding 0"), dropout] * 2,
        *[conv, ("relu", ""), ("MaxPool", "2×2, stride 2, padding 1"), dropout],
        ("flatten", ""),
        *[("Linear", ""), ("relu", ""), dropout],
        ("Linear", ""),
    ]
    sizes = [layer.output_shape[1:] for layer in layers if layer.kind in ("Conv", "Linear")]
    assert sizes == [(28, 28, 32), (14, 14, 64), (7, 7, 128), (625,), (10,)]
    assert layers[12].output_shape == (1, 2048)
