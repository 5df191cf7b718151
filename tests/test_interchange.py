"""Arrays under PyTorch's names and back, for every network, and what is refused."""

import numpy as np
import pytest
from flax import nnx

from experiments.references.ours import ARRAYS, make_network
from mnist_jax.errors import Failure
from mnist_jax.interchange import pytorch
from mnist_jax.models import model_entry, model_names
from mnist_jax.models.layers import Network

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
}


def _network(name: str) -> tuple[dict[str, str], pytorch.Layers]:
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


def test_every_network_has_its_author_s_names() -> None:
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
    assert pytorch.batches_seen(tensors) == (7 if name == "batchnorm_cnn" else 0)


def test_flattened_inputs_are_reordered() -> None:
    """PyTorch's first dense layer reads channel by channel, ours place by place."""
    network = Network(
        conv=nnx.Conv(1, 2, (1, 1), rngs=nnx.Rngs(0)), fc=nnx.Linear(8, 1, rngs=nnx.Rngs(0))
    )
    layers = pytorch.by_layer(nnx.state(network, ARRAYS))
    layers["fc"]["kernel"] = np.arange(8.0).reshape(8, 1)
    tensors = pytorch.to_torch(layers, pytorch.torch_layers(network, {}))
    assert tensors["fc.weight"].tolist() == [[0, 2, 4, 6, 1, 3, 5, 7]]


def test_missing_and_unknown_tensors(tensors: dict[str, np.ndarray]) -> None:
    fewer = {name: value for name, value in tensors.items() if not name.startswith("layer3")}
    assert _refusal(fewer) == "lacks the tensor layer3.0.bias and 1 more"
    assert "extra" in _refusal(tensors | {"extra": np.zeros(1, np.float32)})


def test_another_network_s_file(tensors: dict[str, np.ndarray]) -> None:
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
def test_bad_tensors(tensors: dict[str, np.ndarray], value: np.ndarray, part: str) -> None:
    assert part in _refusal(tensors | {"fc2.weight": value})


def test_one_tensor_under_two_names_must_be_one(tensors: dict[str, np.ndarray]) -> None:
    different = tensors["layer4.0.weight"] + 1
    assert "fc1.weight and layer4.0.weight" in _refusal(tensors | {"layer4.0.weight": different})


def test_a_network_with_other_layers_than_its_author_s() -> None:
    network = make_network("lenet", np.float32, hidden=(120,))
    with pytest.raises(Failure, match="other layers"):
        pytorch.torch_layers(network, model_entry("lenet").torch_names)
