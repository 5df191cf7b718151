"""Networks as ONNX models, written from the ordered lists of their layers."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from mnist_jax.errors import Failure
from mnist_jax.models.ensemble import Ensemble
from mnist_jax.models.layers import (
    BatchNorm,
    ClassicDropout,
    Conv,
    Dropout,
    Linear,
    MaxPool,
    Network,
    Residual,
    avg_pool,
    flatten,
    global_avg_pool,
    relu,
    sigmoid,
    tanh,
)
from mnist_jax.recipe import Recipe
from mnist_jax.transforms import CropResize, Standardize, Transform
from mnist_jax.transforms.resampling import WEIGHT_BITS
from mnist_jax.version import __version__

# Imported where it is used: it is optional.
if TYPE_CHECKING:
    import onnx

# From late 2021: old enough for any runtime in use, new enough for the operations used here.
_OPSET, _IR_VERSION = 15, 8
_FUNCTIONS = {relu: "Relu", sigmoid: "Sigmoid", tanh: "Tanh"}
_WINDOWS = {"kernel_shape": [2, 2], "strides": [2, 2]}
_NHWC = [0, 2, 3, 1]
# ONNX's codes of data types.
_FLOAT, _INT32 = 1, 6


def to_onnx(
    network: Network, recipe: Recipe, *, pixels: bool, metadata: Mapping[str, str]
) -> "onnx.ModelProto":
    """Converts a network to a model from `images` to `logits`, for any number N of images.

    Args:
      network: a network in evaluation mode.
      recipe: the recipe that it was trained with.
      pixels: whether images are uint8 [N, 28, 28], as in datasets; otherwise they are float32
        [N, 28, 28], already normalised.
      metadata: the model's metadata.

    Returns:
      A model with logits float32 [N, 10], which ONNX's checker accepts.

    Raises:
      Failure: the package `onnx` is not installed, or a layer or a transform of the recipe can't be
        expressed in ONNX.
    """
    try:
        from onnx import TensorProto, checker, helper
    except ModuleNotFoundError as error:
        raise Failure(
            "Writing ONNX needs the package onnx, which is not installed; run `make onnx` or"
            " `pip install onnx`."
        ) from error
    graph = _Graph()
    images = _normalized(graph, recipe) if pixels else "images"
    outputs = _layers(graph, network, graph.add("channel", "Unsqueeze", images, np.array([1])))
    graph.add("logits", "Identity", outputs)
    kind = TensorProto.UINT8 if pixels else TensorProto.FLOAT
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            recipe.model,
            [helper.make_tensor_value_info("images", kind, ["N", 28, 28])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 10])],
            graph.constants,
        ),
        producer_name="mnist_jax",
        producer_version=__version__,
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
    )
    helper.set_model_props(model, dict(metadata))
    checker.check_model(model, full_check=True)
    return model


class _Graph:
    """Nodes in order, and their constant arrays. Images are [N, C, H, W]."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, name: str, operation: str, *inputs: Any, **attributes: Any) -> str:
        """Appends a node; returns the name of its output, which is the node's name.

        Args:
          name: the node's name.
          operation: an ONNX operation.
          *inputs: names of other outputs, and arrays, which become constants.
          **attributes: attributes of the operation.
        """
        from onnx import helper, numpy_helper

        names = []
        for number, value in enumerate(inputs):
            if not isinstance(value, str):
                array = np.ascontiguousarray(value)
                value = f"{name}.{number}"
                self.constants.append(numpy_helper.from_array(array, value))
            names.append(value)
        self.nodes.append(helper.make_node(operation, names, [name], name=name, **attributes))
        return name


def _normalized(graph: _Graph, recipe: Recipe) -> str:
    """Adds the conversion of pixels to network inputs, as in `evaluation_inputs`."""
    number = graph.add("number", "Cast", "images", to=_FLOAT)
    x = graph.add("unit", "Div", number, np.float32(255))
    for position, transform in enumerate(recipe.augmentation):
        x = _transform(graph, transform, x, f"transform{position}")
    centred = graph.add("centred", "Sub", x, np.float32(recipe.mean))
    return graph.add("normalized", "Div", centred, np.float32(recipe.std))


def _transform(graph: _Graph, transform: Transform, x: str, name: str) -> str:
    """Adds a transform of images [N, H, W], as in evaluation."""

    def add(part: str, operation: str, *inputs: Any, **attributes: Any) -> str:
        return graph.add(f"{name}.{part}", operation, *inputs, **attributes)

    def to_bytes(part: str, x: str) -> str:
        # Integer division truncates towards zero; negative results are clipped anyway.
        rounded = add(f"{part}.rounded", "Add", x, np.int32(1 << WEIGHT_BITS - 1))
        scaled = add(f"{part}.scaled", "Div", rounded, np.int32(1 << WEIGHT_BITS))
        return add(f"{part}.bytes", "Clip", scaled, np.int32(0), np.int32(255))

    if transform.in_training_only:
        return x
    match transform:
        case Standardize():
            # A constant image has a deviation of 0.
            highest, lowest, mean = (
                add(part, f"Reduce{part}", x, axes=[1, 2]) for part in ("Max", "Min", "Mean")
            )
            varied = add("varied", "Greater", highest, lowest)
            centred = add("centred", "Sub", x, mean)
            square = add("square", "Mul", centred, centred)
            deviation = add("deviation", "Sqrt", add("variance", "ReduceMean", square, axes=[1, 2]))
            return add("out", "Div", centred, add("by", "Where", varied, deviation, np.float32(1)))
        case CropResize():
            weights = transform.evaluation_weights()
            nearest = add("nearest", "Round", add("scaled", "Mul", x, np.float32(255)))
            image = add("image", "Cast", nearest, to=_INT32)
            narrow = to_bytes("narrow", add("columns", "MatMul", image, weights.T))
            resized = to_bytes("resized", add("rows", "MatMul", weights, narrow))
            return add("out", "Div", add("float", "Cast", resized, to=_FLOAT), np.float32(255))
    raise Failure(
        f"The recipe's transform {transform.name} can't be expressed in ONNX; give"
        " --input=normalized, and apply it to the images beforehand."
    )


def _layers(graph: _Graph, network: Network, x: str, prefix: str = "") -> str:
    """Appends a network's layers in order; returns the name of the last one's output."""
    for name, layer in network.named_layers().items():
        x = _layer(graph, layer, x, prefix + name)
    return x


def _pads(padding: int | str) -> dict[str, Any]:
    # If SAME adds an odd number of rows, the extra one is after the image, as with SAME_UPPER.
    return {"auto_pad": "SAME_UPPER"} if padding == "SAME" else {"pads": [padding] * 4}


def _layer(graph: _Graph, layer: Any, x: str, name: str) -> str:
    kind = type(layer)
    # By the exact class: a subclass may compute something else.
    if kind is Conv:
        kernel = np.transpose(layer.kernel[...], (3, 2, 0, 1))
        strides, pads = [layer.strides] * 2, _pads(layer.padding)
        return graph.add(name, "Conv", x, kernel, layer.bias[...], strides=strides, **pads)
    if kind is Linear:
        return graph.add(name, "Gemm", x, layer.kernel[...], layer.bias[...])
    if kind is BatchNorm:
        arrays = (a[...] for a in (layer.scale, layer.bias, layer.mean, layer.var))
        return graph.add(name, "BatchNormalization", x, *arrays, epsilon=layer.epsilon)
    if kind is MaxPool:
        return graph.add(name, "MaxPool", x, **_pads(layer.padding), **_WINDOWS)
    if kind is Dropout:
        return x
    if kind is ClassicDropout:
        return graph.add(name, "Mul", x, np.float32(1 - layer.rate))
    if layer is avg_pool:
        return graph.add(name, "AveragePool", x, **_WINDOWS)
    if layer is global_avg_pool:
        return graph.add(name, "Flatten", graph.add(f"{name}.places", "GlobalAveragePool", x))
    if layer is flatten:
        # Ours flattens row by row, with the channels innermost.
        return graph.add(name, "Flatten", graph.add(f"{name}.rows", "Transpose", x, perm=_NHWC))
    if kind is Ensemble:
        votes = []
        for number, member in enumerate(layer.members()):
            logits = _layers(graph, member, x, f"{name}.{number}.")
            vote = graph.add(f"{name}.vote{number}", "LogSoftmax", logits)
            votes.append(graph.add(f"{name}.row{number}", "Unsqueeze", vote, np.array([0])))
        stacked = graph.add(f"{name}.votes", "Concat", *votes, axis=0)
        total = graph.add(f"{name}.sum", "ReduceLogSumExp", stacked, axes=[0], keepdims=0)
        return graph.add(name, "Sub", total, np.log(np.float32(layer.size)))
    if layer in _FUNCTIONS:
        return graph.add(name, _FUNCTIONS[layer], x)
    if isinstance(layer, Network) and kind.__call__ is Network.__call__:
        return _layers(graph, layer, x, f"{name}.")
    if isinstance(layer, Network) and kind.__call__ is Residual.__call__:
        return graph.add(name, "Add", x, _layers(graph, layer, x, f"{name}."))
    what = getattr(layer, "__name__", kind.__name__)
    raise Failure(f"The layer {name}, of type {what}, can't be expressed in ONNX.")
