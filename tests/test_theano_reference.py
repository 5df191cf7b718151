"""The NumPy reimplementation of article A's program: gradients, and dropout as it documents it."""

import copy

import numpy as np
import pytest

from experiments.references import theano_numpy

NETWORKS = [
    "shallow",
    "basic_conv",
    "dbl_conv",
    "dbl_conv_relu",
    "expanded_double_fc",
    "double_fc_dropout",
]


@pytest.mark.parametrize(("name", "units"), [*((name, 12) for name in NETWORKS), ("basic_conv", 0)])
def test_updates_match_finite_differences_of_the_cost(name: str, units: int) -> None:
    rng = np.random.default_rng(0)
    network = theano_numpy.create(name, rng, units)
    network.layers[-1].w = rng.normal(0, 0.3, network.layers[-1].w.shape)
    images, labels = rng.uniform(size=(3, 1, 28, 28)), np.array([1, 5, 9])
    dense_layers = [
        layer for layer in network.layers if isinstance(layer, theano_numpy.FullyConnectedLayer)
    ]
    masks = [rng.integers(0, 2, (3, len(layer.w))) * 1.0 for layer in dense_layers if layer.p]

    def step(network: theano_numpy.Network3, eta: float) -> float:
        return network.step(images, labels, eta=eta, lmbda=0.1, batches=2, masks=masks)

    updated = copy.deepcopy(network)
    step(updated, 1.0)
    for layer, moved in zip(network.layers, updated.layers, strict=True):
        for attribute in ("w", "b"):
            array = getattr(layer, attribute)
            gradient = array - getattr(moved, attribute)
            index = np.unravel_index(np.abs(gradient).argmax(), array.shape)
            value, costs = array[index], []
            for change in (1e-6, -1e-6):
                array[index] = value + change
                costs.append(step(copy.deepcopy(network), 0.0))
            array[index] = value
            slope = (costs[0] - costs[1]) / 2e-6
            assert slope == pytest.approx(gradient[index], rel=1e-6, abs=1e-8)


def test_dropout_scales_inputs_outside_training() -> None:
    rng = np.random.default_rng(0)
    layer = theano_numpy.FullyConnectedLayer.initial(rng, 8, 4, theano_numpy.RELU, p=0.5)
    x = rng.uniform(size=(2, 8))
    assert np.allclose(layer.forward(x, None)[0], layer.forward(x / 2, np.ones((2, 8)))[0])
