"""Conversion of every network's arrays to PyTorch's names and back, and what is refused."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.references.ours import ARRAYS, make_network
from mnist_jax.errors import Failure
from mnist_jax.interchange import pytorch
from mnist_jax.models import model_entry, model_names
from mnist_jax.models.layers import Network, check_trainable, flatten

PREFIXES = {
    "dense": "hidden_layer output_layer",
    "shallow": "fc1 out",
    "basic_conv": "conv1 fc1 out",
    "dbl_conv": "conv1 conv2 fc1 out",
    "dbl_conv_relu": "conv1 conv2 fc1 out",
    "expanded_double_fc": "conv1 conv2 fc1 fc2 out",
    "double_fc_dropout": "conv1 conv2 fc1 fc2 out",
    "cmu_cnn": "conv1 conv2 fc1 fc2 fc3",
    "lenet": "1 4 8 10 12",
    "batchnorm_cnn": "features.0 features.2 features.5 features.6 features.8 features.9"
    " features.12 classifier.0 classifier.3 classifier.5",
    "dropout_cnn": "layer1.0 layer2.0 layer3.0 fc1 layer4.0 fc2",
    "simple_cnn": "layer1.0 layer2.0 fc",
    "residual_cnn": "0 2.bn 2.conv3x3 4.bn 4.conv3x3 5 6 9.bn 9.conv3x3 10 11 14.bn 14.conv3x3"
    " 15 18",
    "strided_cnn": "conv1 bn1 conv2 bn2 conv3 bn3 conv4 bn4 conv5 bn5 conv6 bn6 conv7 bn7 out",
}


def _network(name: str) -> tuple[dict[str, pytorch.Layer], pytorch.Layers]:
    network = make_network(name, np.float32)
    names = pytorch.torch_layers(network, model_entry(name).torch_names)
    return names, pytorch.by_layer(nnx.state(network, ARRAYS))


def _refusal(tensors: dict[str, np.ndarray], name: str = "dropout_cnn") -> str:
    names, layers = _network(name)
    with pytest.raises(Failure) as caught:
        pytorch.from_torch(tensors, names, layers)
    return str(caught.value)


@pytest.fixture
def tensors() -> dict[str, np.ndarray]:
    names, layers = _network("dropout_cnn")
    return pytorch.to_torch(layers, names)


def test_every_network_has_its_author_s_layer_names() -> None:
    assert set(model_names()) == set(PREFIXES)
    for name, prefixes in PREFIXES.items():
        assert list(_network(name)[0]) == prefixes.split()


@pytest.mark.parametrize("name", model_names())
def test_round_trip_is_bit_exact(name: str) -> None:
    names, layers = _network(name)
    tensors = pytorch.to_torch(layers, names, batches=7)
    again = pytorch.from_torch(tensors, names, layers)
    assert {layer: set(arrays) for layer, arrays in again.items()} == {
        layer: set(arrays) for layer, arrays in layers.items()
    }
    for layer, arrays in layers.items():
        for array_name, value in arrays.items():
            assert np.array_equal(again[layer][array_name], value)
    counted = any("mean" in arrays for arrays in layers.values())
    assert pytorch.batches_seen(tensors) == (7 if counted else 0)


def test_weights_of_flattened_activations_are_reordered() -> None:
    """PyTorch flattens channel by channel, we pixel by pixel."""
    network = Network(
        conv=nnx.Conv(1, 2, (14, 14), strides=14, rngs=nnx.Rngs(0)),
        flatten=flatten,
        fc=nnx.Linear(8, 1, rngs=nnx.Rngs(0)),
    )
    layers = pytorch.by_layer(nnx.state(network, ARRAYS))
    layers["fc"]["kernel"] = np.arange(8.0).reshape(8, 1)
    tensors = pytorch.to_torch(layers, pytorch.torch_layers(network, {}))
    assert tensors["fc.weight"].tolist() == [[0, 2, 4, 6, 1, 3, 5, 7]]


class _Residual(nnx.Module):
    """A user-defined module."""

    def __init__(self, channels: int, rngs: nnx.Rngs):
        self.norm = nnx.GroupNorm(channels, num_groups=2, epsilon=1e-5, rngs=rngs)
        self.conv = nnx.Conv(channels, channels, (3, 3), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return x + self.conv(self.norm(x))


def _user_defined_network() -> Network:
    rngs = nnx.Rngs(0)
    network = Network(
        first=nnx.Conv(1, 4, (7, 7), strides=7, padding=0, rngs=rngs),
        block=_Residual(4, rngs),
        flatten=flatten,
        norm=nnx.LayerNorm(64, epsilon=1e-5, rngs=rngs),
        out=nnx.Linear(64, 6, rngs=rngs),
        last=nnx.Sequential(nnx.Linear(6, 10, rngs=rngs)),
    )
    generator = np.random.default_rng(0)
    random = jax.tree.map(lambda a: generator.normal(size=a.shape), nnx.state(network))
    nnx.update(network, jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), random))
    return network


def test_a_user_defined_network_survives_a_round_trip() -> None:
    network = _user_defined_network()
    state = nnx.state(network)
    layers = pytorch.by_layer(state)
    names = pytorch.torch_layers(network, {})
    assert list(names) == ["first", "block.conv", "block.norm", "norm", "out", "last.layers.0"]
    again = pytorch.fill(state, pytorch.from_torch(pytorch.to_torch(layers, names), names, layers))
    jax.tree.map(np.testing.assert_array_equal, again, nnx.as_pure(state))


def test_a_user_defined_network_has_the_same_outputs_in_pytorch() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    nn, network = torch.nn, _user_defined_network()
    names = pytorch.torch_layers(network, {})
    tensors = pytorch.to_torch(pytorch.by_layer(nnx.state(network)), names)

    class Theirs(nn.Module):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(1, 4, 7, stride=7)
            conv = nn.Conv2d(4, 4, 3, padding=1)
            self.block = nn.ModuleDict({"norm": nn.GroupNorm(2, 4), "conv": conv})
            self.norm, self.out = nn.LayerNorm(64), nn.Linear(64, 6)
            self.last = nn.ModuleDict({"layers": nn.Sequential(nn.Linear(6, 10))})

        def forward(self, x: Any) -> Any:
            x = self.first(x)
            x = x + self.block["conv"](self.block["norm"](x))
            return self.last["layers"](self.out(self.norm(x.flatten(1))))

    theirs = Theirs()
    theirs.load_state_dict({k: torch.tensor(v) for k, v in tensors.items()}, strict=True)
    images = np.random.default_rng(1).random((3, 28, 28, 1), np.float32)
    expected = theirs(torch.tensor(images.transpose(0, 3, 1, 2))).detach().numpy()
    assert np.abs(network(jnp.asarray(images)) - expected).max() < 1e-4 * np.abs(expected).max()


class _Scale(nnx.Module):
    def __init__(self) -> None:
        self.factor = nnx.Param(jnp.ones(()))

    def __call__(self, x: jax.Array) -> jax.Array:
        return x * self.factor


@pytest.mark.parametrize(
    ("layers", "part"),
    [
        ({"scale": _Scale()}, "scale.factor of _Scale"),
        ({"up": nnx.ConvTranspose(1, 2, (3, 3), rngs=nnx.Rngs(0))}, "ConvTranspose"),
        (
            {
                "conv": nnx.Conv(1, 2, (3, 3), rngs=nnx.Rngs(0)),
                "flat": lambda x: x[:, ::2].reshape(len(x), -1),
                "out": nnx.Linear(784, 10, rngs=nnx.Rngs(0)),
            },
            "out.bias, and the order of that layer's inputs is not known",
        ),
        (
            {
                "conv": nnx.Conv(1, 2, (3, 3), rngs=nnx.Rngs(0)),
                "flat": flatten,
                "head": nnx.Sequential(nnx.Linear(1568, 10, rngs=nnx.Rngs(0))),
            },
            "head.layers.0.bias, and the order",
        ),
        (
            {
                "conv": nnx.Conv(1, 2, (3, 3), rngs=nnx.Rngs(0)),
                "flat": flatten,
                "norm": nnx.GroupNorm(1568, num_groups=2, rngs=nnx.Rngs(0)),
            },
            "norm.bias, and the order",
        ),
        (
            {
                "conv": nnx.Conv(1, 2, (3, 3), rngs=nnx.Rngs(0)),
                "flat": flatten,
                "turn": lambda x: x[:, ::-1],
                "out": nnx.Linear(1568, 10, rngs=nnx.Rngs(0)),
            },
            "out.bias, and the order",
        ),
        (
            {
                "conv": nnx.Conv(1, 2, (3, 3), rngs=nnx.Rngs(0)),
                "rows": lambda x: x.reshape(len(x), -1, 2),
                "flat": lambda x: x.reshape(len(x), -1),
                "out": nnx.Linear(1568, 10, rngs=nnx.Rngs(0)),
            },
            "out.bias, and the order",
        ),
        (
            {
                "flat": flatten,
                "wide": nnx.Linear(784, 98, rngs=nnx.Rngs(0)),
                "images": lambda x: x.reshape(len(x), 7, 7, 2),
            },
            "reshapes flat activations to images in images",
        ),
        (
            {
                "head": nnx.Sequential(flatten, nnx.Linear(784, 10, rngs=nnx.Rngs(0))),
            },
            "head.layers.1.bias, and the order",
        ),
    ],
)
def test_layers_that_cannot_be_converted_are_refused_by_name(
    layers: dict[str, Any], part: str
) -> None:
    with pytest.raises(Failure, match=re.escape(part)):
        pytorch.torch_layers(Network(**layers), {})


def test_missing_and_unknown_tensors_are_refused(tensors: dict[str, np.ndarray]) -> None:
    fewer = {name: value for name, value in tensors.items() if not name.startswith("layer3")}
    assert _refusal(fewer) == "lacks the tensor layer3.0.bias and 1 more"
    assert "extra" in _refusal(tensors | {"extra": np.zeros(1, np.float32)})


def test_the_tensors_of_another_network_are_refused(tensors: dict[str, np.ndarray]) -> None:
    assert "conv1.bias" in _refusal(tensors, "dbl_conv")


@pytest.mark.parametrize(
    ("value", "part"),
    [
        (np.zeros((10, 624), np.float32), "shape [10, 624], not [10, 625]"),
        (np.zeros((10, 625)), "type float64, not float32"),
        (np.full((10, 625), np.nan, np.float32), "not a finite number"),
        (np.full((10, 625), np.inf, np.float32), "not a finite number"),
    ],
)
def test_invalid_tensors_are_refused(
    tensors: dict[str, np.ndarray], value: np.ndarray, part: str
) -> None:
    assert part in _refusal(tensors | {"fc2.weight": value})


@pytest.mark.parametrize("count", [-1, 2**31])
def test_invalid_step_counts_are_refused(count: int) -> None:
    network = make_network("batchnorm_cnn", np.float32)
    layers = pytorch.by_layer(nnx.state(network, ARRAYS))
    names = pytorch.torch_layers(network, model_entry("batchnorm_cnn").torch_names)
    tensors = pytorch.to_torch(layers, names, batches=count)
    with pytest.raises(
        Failure, match=f"has {count} in .*, which is not a number of training steps"
    ):
        pytorch.from_torch(tensors, names, layers)


def test_aliases_of_a_tensor_must_be_equal(tensors: dict[str, np.ndarray]) -> None:
    different = tensors["layer4.0.weight"] + 1
    assert "fc1.weight and layer4.0.weight" in _refusal(tensors | {"layer4.0.weight": different})


def test_a_variant_with_other_layers_uses_our_layer_names(tensors: dict[str, np.ndarray]) -> None:
    network = make_network("residual_cnn", np.float32, width=2, first_block=False)
    names = pytorch.torch_layers(network, model_entry("residual_cnn").torch_names)
    assert list(names)[:4] == ["conv1", "bn2", "res2.conv", "bn3"]
    layers = pytorch.by_layer(nnx.state(network))
    theirs = pytorch.to_torch(layers, names, batches=5)
    assert theirs["res2.conv.weight"].shape == (2, 2, 3, 3)
    again = pytorch.from_torch(theirs, names, layers)
    np.testing.assert_array_equal(again["res2.conv"]["kernel"], layers["res2.conv"]["kernel"])
    with pytest.raises(Failure, match=r"lacks the tensor bn2\.bias"):
        pytorch.from_torch(tensors, names, layers)


def test_globally_pooled_activations_need_no_reordering() -> None:
    network = Network(
        conv=nnx.Conv(1, 4, (3, 3), rngs=nnx.Rngs(0)),
        pool=lambda x: x.mean((1, 2)),
        head=nnx.Sequential(nnx.Linear(4, 10, rngs=nnx.Rngs(0))),
    )
    assert set(pytorch.torch_layers(network, {})) == {"conv", "head.layers.0"}


def test_modules_in_plain_containers_are_refused_by_name() -> None:
    class Several(nnx.Module):
        def __init__(self) -> None:
            self.convs = nnx.data([nnx.Conv(1, 1, (3, 3), rngs=nnx.Rngs(0))])
            self.factors = nnx.data([nnx.Param(jnp.ones(()))])

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.convs[0](x) * self.factors[0]

    network = Network(several=Several())
    check_trainable(network)
    with pytest.raises(Failure, match=r"has several\.factors\.0 of"):
        pytorch.torch_layers(network, {})
