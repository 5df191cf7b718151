"""The rules of Nielsen's `network3.py` (article A) in plain, slow float64 NumPy.

Images are [N, C, H, W]; dense weights are [in, out]. These rules differ from the PyTorch
articles': the filters are flipped (a true convolution), pooling comes before bias and
activation, the penalty is on weights only and divided by the number of batches, dropout drops a
layer's inputs in training and scales them by 1 − p otherwise, and batches come in file order.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np

Array = np.ndarray
Backward = Callable[[Array], tuple[Array, Array, Array]]


@dataclasses.dataclass(frozen=True)
class Activation:
    """A function of the weighted input z and its derivative at z."""

    value: Callable[[Array], Array]
    slope: Callable[[Array], Array]


def _sigmoid(z: Array) -> Array:
    return 1 / (1 + np.exp(-z))


SIGMOID = Activation(_sigmoid, lambda z: _sigmoid(z) * (1 - _sigmoid(z)))
RELU = Activation(lambda z: np.maximum(0.0, z), lambda z: (z > 0).astype(z.dtype))


@dataclasses.dataclass
class ConvPoolLayer:
    """A 5×5 convolution, 2×2 max-pool, bias, activation: w is [filters, channels, 5, 5].

    Theano passes the gradient of a maximum to every element that attains it (`all_maxima`), other
    frameworks to the first.
    """

    w: Array
    b: Array
    activation: Activation
    all_maxima: bool = False

    @classmethod
    def initial(
        cls, rng: np.random.Generator, channels: int, filters: int, activation: Activation
    ) -> "ConvPoolLayer":
        """Weights of variance 1/(filters·25/4) and biases of variance 1."""
        deviation = np.sqrt(1 / (filters * 5 * 5 / (2 * 2)))
        w = rng.normal(0, deviation, (filters, channels, 5, 5))
        return cls(w, rng.normal(0, 1, filters), activation)

    def forward(self, x: Array) -> tuple[Array, Backward]:
        """[N, C, H, W] to [N, filters, (H−4)/2, (W−4)/2], and the backward function.

        The latter maps the gradient of the output to those of input, weights and biases.
        """
        n, _, height, width = x.shape
        rows, columns = height - 4, width - 4
        taps = [(i, j) for i in range(5) for j in range(5)]

        def window(images: Array, i: int, j: int) -> Array:
            """The pixels under filter entry (i, j); filters are flipped, so entry 0 is last."""
            return images[:, :, 4 - i : 4 - i + rows, 4 - j : 4 - j + columns]

        convolved = np.zeros((n, len(self.w), rows, columns))
        for i, j in taps:
            convolved += np.einsum("nchw,fc->nfhw", window(x, i, j), self.w[:, :, i, j])
        blocks = convolved.reshape(n, -1, rows // 2, 2, columns // 2, 2)
        windows = blocks.transpose(0, 1, 2, 4, 3, 5).reshape(n, -1, rows // 2, columns // 2, 4)
        pooled = windows.max(-1)
        chosen = windows == pooled[..., None]
        if not self.all_maxima:
            chosen &= chosen.cumsum(-1) == 1
        z = pooled + self.b[:, None, None]

        def backward(grad: Array) -> tuple[Array, Array, Array]:
            grad = grad.reshape(z.shape) * self.activation.slope(z)
            by_window = (grad[..., None] * chosen).reshape(*grad.shape, 2, 2)
            spread = by_window.transpose(0, 1, 2, 4, 3, 5).reshape(convolved.shape)
            x_grad, w_grad = np.zeros_like(x), np.zeros_like(self.w)
            for i, j in taps:
                w_grad[:, :, i, j] = np.einsum("nfhw,nchw->fc", spread, window(x, i, j))
                window(x_grad, i, j)[...] += np.einsum("nfhw,fc->nchw", spread, self.w[:, :, i, j])
            return x_grad, w_grad, grad.sum((0, 2, 3))

        return self.activation.value(z), backward


@dataclasses.dataclass
class FullyConnectedLayer:
    """A dense layer with dropout p on its inputs; without an activation, the softmax layer."""

    w: Array
    b: Array
    activation: Activation | None
    p: float = 0.0

    @classmethod
    def initial(
        cls,
        rng: np.random.Generator,
        n_in: int,
        n_out: int,
        activation: Activation | None,
        p: float = 0.0,
    ) -> "FullyConnectedLayer":
        """Weights of variance 1/n_out and biases of variance 1; the softmax layer starts at 0."""
        if activation is None:
            return cls(np.zeros((n_in, n_out)), np.zeros(n_out), None, p)
        w = rng.normal(0, np.sqrt(1 / n_out), (n_in, n_out))
        return cls(w, rng.normal(0, 1, n_out), activation, p)

    def forward(self, x: Array, keep: Array | None) -> tuple[Array, Backward]:
        """[N, ...] to [N, out], and the backward function, as `ConvPoolLayer.forward`.

        Args:
          x: the inputs, flattened here in the order channel, row, column.
          keep: [N, in] of 0 and 1 in training with dropout; None otherwise.
        """
        factor = keep if keep is not None else 1 - self.p
        inputs = x.reshape(len(x), -1) * factor
        z = inputs @ self.w + self.b

        def backward(grad: Array) -> tuple[Array, Array, Array]:
            if self.activation is not None:
                grad = grad * self.activation.slope(z)
            return grad @ self.w.T * factor, inputs.T @ grad, grad.sum(0)

        return (z if self.activation is None else self.activation.value(z)), backward


@dataclasses.dataclass
class Network3:
    """network3's network: convolutional layers, then dense ones, the last the softmax layer."""

    layers: list[ConvPoolLayer | FullyConnectedLayer]

    def _forward(
        self, images: Array, masks: Iterator[Array] | None
    ) -> tuple[Array, list[Backward]]:
        x, backwards = images, list[Backward]()
        for layer in self.layers:
            if isinstance(layer, ConvPoolLayer):
                x, backward = layer.forward(x)
            else:
                x, backward = layer.forward(x, next(masks) if masks and layer.p else None)
            backwards.append(backward)
        return x, backwards

    def logits(self, images: Array) -> Array:
        """Evaluation: [N, 1, 28, 28] to [N, 10], inputs scaled by 1 − p where dropout acts."""
        return self._forward(images, None)[0]

    def penalty(self, lmbda: float, batches: int) -> float:
        """The penalty on the weights: 0.5·lmbda·Σw²/batches."""
        return 0.5 * lmbda * sum((layer.w**2).sum() for layer in self.layers) / batches

    def step(
        self,
        images: Array,
        labels: Array,
        *,
        eta: float,
        lmbda: float = 0.0,
        batches: int = 1,
        masks: Sequence[Array] = (),
    ) -> float:
        """Updates the layers in place with one batch.

        Args:
          images: [N, 1, 28, 28].
          labels: [N], integers.
          eta: learning rate.
          lmbda: strength of the penalty on the weights.
          batches: batches in an epoch.
          masks: one [N, in] array of 0 and 1 for each layer with dropout, in order.

        Returns:
          The cost before the update, penalty included, as network3 computes it.
        """
        logits, backwards = self._forward(images, iter(masks))
        shifted = logits - logits.max(1, keepdims=True)
        softmax = np.exp(shifted) / np.exp(shifted).sum(1, keepdims=True)
        chosen = np.arange(len(labels)), labels
        cost = -np.log(softmax[chosen]).mean()
        cost += self.penalty(lmbda, batches)
        grad = softmax.copy()
        grad[chosen] -= 1
        grad /= len(labels)
        for layer, backward in zip(reversed(self.layers), reversed(backwards), strict=True):
            grad, w_grad, b_grad = backward(grad)
            layer.w = layer.w - eta * (w_grad + lmbda / batches * layer.w)
            layer.b = layer.b - eta * b_grad
        return float(cost)


def create(name: str, rng: np.random.Generator, units: int = 100) -> Network3:
    """A network of article A's table with its initial distributions.

    Args:
      name: `shallow`, `basic_conv`, `dbl_conv`, `dbl_conv_relu` (also with expanded data),
        `expanded_double_fc` or `double_fc_dropout`.
      rng: where the initial values come from.
      units: units of each dense layer: 100, 300 or 1000; 0 leaves them out, as `omit_FC` does.

    Raises:
      KeyError: the table has no such network.
    """
    filters, dense_layers, activation, p = {
        "shallow": ((), 1, SIGMOID, 0.0),
        "basic_conv": ((20,), 1, SIGMOID, 0.0),
        "dbl_conv": ((20, 40), 1, SIGMOID, 0.0),
        "dbl_conv_relu": ((20, 40), 1, RELU, 0.0),
        "expanded_double_fc": ((20, 40), 2, RELU, 0.0),
        "double_fc_dropout": ((20, 40), 2, RELU, 0.5),
    }[name]
    layers: list[ConvPoolLayer | FullyConnectedLayer] = []
    channels, size = 1, 28
    for count in filters:
        layers.append(ConvPoolLayer.initial(rng, channels, count, activation))
        channels, size = count, (size - 4) // 2
    n_in = channels * size * size
    for _ in range(dense_layers if units else 0):
        layers.append(FullyConnectedLayer.initial(rng, n_in, units, activation, p))
        n_in = units
    layers.append(FullyConnectedLayer.initial(rng, n_in, 10, None, p))
    return Network3(layers)
