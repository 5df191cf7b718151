"""The PyTorch articles' networks and how their authors train them, as plain PyTorch.

Attribute names are the authors', so `state_dict` has their keys. Inputs are [N, 1, 28, 28],
outputs [N, 10]. The hyperparameters are repeated here on purpose: they come from the articles, and
the tests compare `mnist_jax` with them.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.nn import functional as F


class TorchDense(nn.Module):
    """Article B's dense network: a sigmoid on both layers, so the outputs lie in (0, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden_layer = nn.Linear(784, 100)
        self.output_layer = nn.Linear(100, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.sigmoid(self.hidden_layer(x.flatten(1)))
        return torch.sigmoid(self.output_layer(x))


class TorchShallow(nn.Module):
    """Article A's dense network with article B's names; it outputs logits."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(784, 100)
        self.out = nn.Linear(100, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.sigmoid(self.fc1(x.flatten(1))))


class TorchBasicConv(nn.Module):
    """Article B's ConvNetSimple: one convolution, activation, then pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.fc1 = nn.Linear(12 * 12 * 20, 100)
        self.out = nn.Linear(100, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(torch.sigmoid(self.conv1(x)), 2)
        return self.out(torch.sigmoid(self.fc1(x.flatten(1))))


class TorchOmitFc(nn.Module):
    """Article A's omit_FC with article B's names: ConvNetSimple without its dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.out = nn.Linear(12 * 12 * 20, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.max_pool2d(torch.sigmoid(self.conv1(x)), 2).flatten(1))


class TorchDblConv(nn.Module):
    """Article B's ConvNetTwoConvLayers, with the sigmoid or with ReLU."""

    def __init__(self, activation: Callable[[Tensor], Tensor] = torch.sigmoid) -> None:
        super().__init__()
        self.activation = activation
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 40, 5)
        self.fc1 = nn.Linear(4 * 4 * 40, 100)
        self.out = nn.Linear(100, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.activation(self.conv1(x)), 2)
        x = F.max_pool2d(self.activation(self.conv2(x)), 2)
        return self.out(self.activation(self.fc1(x.flatten(1))))


class TorchDoubleFc(nn.Module):
    """Article B's last network: dropout before each of two dense layers and the output.

    Without dropout it is article A's network with two dense layers.
    """

    def __init__(self, units: int = 1000, dropout: float = 0.5) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 40, 5)
        self.dropout1 = nn.Dropout(dropout)
        self.fc1 = nn.Linear(4 * 4 * 40, units)
        self.dropout2 = nn.Dropout(dropout)
        self.fc2 = nn.Linear(units, units)
        self.dropout3 = nn.Dropout(dropout)
        self.out = nn.Linear(units, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(torch.relu(self.conv1(x)), 2)
        x = F.max_pool2d(torch.relu(self.conv2(x)), 2)
        x = torch.relu(self.fc1(self.dropout1(x.flatten(1))))
        x = torch.relu(self.fc2(self.dropout2(x)))
        return self.out(self.dropout3(x))


class TorchCmuCnn(nn.Module):
    """Article C's network; its program has a ReLU after the convolutions, its text does not."""

    def __init__(self, conv_activation: Callable[[Tensor], Tensor] = torch.relu) -> None:
        super().__init__()
        self.conv_activation = conv_activation
        self.conv1 = nn.Conv2d(1, 24, 5)
        self.conv2 = nn.Conv2d(24, 64, 5)
        self.fc1 = nn.Linear(4 * 4 * 64, 240)
        self.fc2 = nn.Linear(240, 168)
        self.fc3 = nn.Linear(168, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.conv_activation(self.conv1(x)), 2)
        x = F.max_pool2d(self.conv_activation(self.conv2(x)), 2)
        x = torch.relu(self.fc1(x.flatten(1)))
        x = torch.relu(self.fc2(x))
        return self.fc3(x)


class Reshape(nn.Module):
    """The first layer of article D's Sequential."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape of N·784 values to [N, 1, 28, 28]."""
        return x.view(-1, 1, 28, 28)


def lenet(
    pool: type[nn.Module] = nn.AvgPool2d, activation: type[nn.Module] = nn.Sigmoid
) -> nn.Sequential:
    """Article D's LeNet, with the layers that its output lists and Xavier-uniform weights.

    The article's first exercise replaces `pool`, its second `activation`.
    """
    network = nn.Sequential(
        Reshape(),
        nn.Conv2d(1, 6, 5, padding=2),
        activation(),
        pool(2, stride=2),
        nn.Conv2d(6, 16, 5),
        activation(),
        pool(2, stride=2),
        nn.Flatten(),
        nn.Linear(16 * 5 * 5, 120),
        activation(),
        nn.Linear(120, 84),
        activation(),
        nn.Linear(84, 10),
    )
    for layer in network:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
    return network


class TorchBatchNormCnn(nn.Module):
    """Article E's network: BatchNorm after ReLU, and after the pool where there is one."""

    def __init__(self, dropout: float = 0.5) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 5, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(5, 10, 3, padding=1),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.BatchNorm2d(10),
            nn.Conv2d(10, 20, 3, padding=1),
            nn.ReLU(),
            nn.BatchNorm2d(20),
            nn.Conv2d(20, 40, 3, padding=1),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.BatchNorm2d(40),
        )
        self.classifier = nn.Sequential(
            nn.Linear(7 * 7 * 40, 200),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(200, 500),
            nn.ReLU(),
            nn.Linear(500, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))


class TorchDropoutCnn(nn.Module):
    """Article F's network, with its text's forward pass or its notebook's.

    `layer4` contains `fc1` itself, so the tensor has two names in `state_dict`. The notebook's
    forward pass bypasses `layer4`: no ReLU and no dropout between the two dense layers.
    """

    def __init__(self, dropout: float = 0.3, notebook: bool = False) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(dropout)
        )
        self.layer2 = nn.Sequential(
            nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(dropout)
        )
        self.layer3 = nn.Sequential(
            nn.Conv2d(64, 128, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2, padding=1),
            nn.Dropout(dropout),
        )
        self.fc1 = nn.Linear(4 * 4 * 128, 625)
        self.layer4 = nn.Sequential(self.fc1, nn.ReLU(), nn.Dropout(dropout))
        self.fc2 = nn.Linear(625, 10)
        nn.init.xavier_uniform_(self.fc1.weight)
        nn.init.xavier_uniform_(self.fc2.weight)
        self.notebook = notebook

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(x))).flatten(1)
        x = self.fc1(x) if self.notebook else self.layer4(x)
        return self.fc2(x)


class TorchSimpleCnn(nn.Module):
    """The network of article F's sibling notebook."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.layer2 = nn.Sequential(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.fc = nn.Linear(7 * 7 * 64, 10)
        nn.init.xavier_uniform_(self.fc.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layer2(self.layer1(x)).flatten(1))


class TorchResidual(nn.Module):
    """Source G's residual block: the skip connection starts after the normalisation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)
        self.conv3x3 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(x)
        return x + torch.relu(self.conv3x3(x))


def residual_cnn(width: int = 128, *, first_block: bool = True) -> nn.Sequential:
    """Source G's network; other widths and the variant without the first block are ours."""
    return nn.Sequential(
        nn.Conv2d(1, width, 5, padding=2),
        nn.ReLU(),
        TorchResidual(width) if first_block else nn.Identity(),
        nn.MaxPool2d(2),
        TorchResidual(width),
        nn.BatchNorm2d(width),
        nn.Conv2d(width, 2 * width, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        TorchResidual(2 * width),
        nn.BatchNorm2d(2 * width),
        nn.Conv2d(2 * width, 4 * width, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2, ceil_mode=True),
        TorchResidual(4 * width),
        nn.BatchNorm2d(4 * width),
        nn.AvgPool2d(4),
        nn.Flatten(),
        nn.Linear(4 * width, 10),
    )


class TorchStridedCnn(nn.Module):
    """Source H's Keras network with Keras' initialisation and this project's names.

    "Same" padding at stride 2 is one row and column of zeros before the image and two after it.
    Keras' momentum weights the old running value, PyTorch's the new one.
    """

    def __init__(self, dropout: float = 0.4) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3)
        self.conv2 = nn.Conv2d(32, 32, 3)
        self.conv3 = nn.Conv2d(32, 32, 5, stride=2)
        self.conv4 = nn.Conv2d(32, 64, 3)
        self.conv5 = nn.Conv2d(64, 64, 3)
        self.conv6 = nn.Conv2d(64, 64, 5, stride=2)
        self.conv7 = nn.Conv2d(64, 128, 4)
        self.bn1 = nn.BatchNorm2d(32, eps=1e-3, momentum=0.01)
        self.bn2 = nn.BatchNorm2d(32, eps=1e-3, momentum=0.01)
        self.bn3 = nn.BatchNorm2d(32, eps=1e-3, momentum=0.01)
        self.bn4 = nn.BatchNorm2d(64, eps=1e-3, momentum=0.01)
        self.bn5 = nn.BatchNorm2d(64, eps=1e-3, momentum=0.01)
        self.bn6 = nn.BatchNorm2d(64, eps=1e-3, momentum=0.01)
        self.bn7 = nn.BatchNorm2d(128, eps=1e-3, momentum=0.01)
        self.dropout3 = nn.Dropout(dropout)
        self.dropout6 = nn.Dropout(dropout)
        self.dropout7 = nn.Dropout(dropout)
        self.out = nn.Linear(128, 10)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(torch.relu(self.conv1(x)))
        x = self.bn2(torch.relu(self.conv2(x)))
        x = self.bn3(torch.relu(self.conv3(F.pad(x, (1, 2, 1, 2)))))
        x = self.dropout3(x)
        x = self.bn4(torch.relu(self.conv4(x)))
        x = self.bn5(torch.relu(self.conv5(x)))
        x = self.bn6(torch.relu(self.conv6(F.pad(x, (1, 2, 1, 2)))))
        x = self.dropout6(x)
        x = self.bn7(torch.relu(self.conv7(x)))
        return self.out(self.dropout7(x.flatten(1)))


class KerasAdam(optim.Adam):
    """Adam that adds ε to the root of the second moment before bias correction."""

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Takes a step: lr · √(1 - β₂ᵗ)/(1 - β₁ᵗ) · m/(√v + ε)."""
        for group in self.param_groups:
            b1, b2 = group["betas"]
            for p in (p for p in group["params"] if p.grad is not None):
                state = self.state[p]
                if not state:
                    state |= {"step": 0, "exp_avg": torch.zeros_like(p)}
                    state["exp_avg_sq"] = torch.zeros_like(p)
                state["step"] += 1
                grad = p.grad + group["weight_decay"] * p
                m = state["exp_avg"].mul_(b1).add_(grad, alpha=1 - b1)
                v = state["exp_avg_sq"].mul_(b2).addcmul_(grad, grad, value=1 - b2)
                rate = group["lr"] * (1 - b2 ** state["step"]) ** 0.5 / (1 - b1 ** state["step"])
                p.addcdiv_(m, v.sqrt() + group["eps"], value=-rate)


def one_hot_mse(outputs: Tensor, labels: Tensor) -> Tensor:
    """Article B's loss for its dense network: the mean over all N·10 squared differences."""
    return F.mse_loss(outputs, F.one_hot(labels, 10).to(outputs.dtype))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Original:
    """An article's network, with its author's optimiser, loss and batch size.

    Attributes:
      model: the network's name in `mnist_jax.models`.
      model_args: its arguments there.
      network: makes the network, with the author's initialisation.
      optimizer: makes the optimiser from the network's parameters.
      batch_size: images in a batch; the last one of an epoch may be shorter.
      loss: the mean over the batch, from outputs [N, 10] and labels [N].
    """

    model: str
    model_args: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    network: Callable[[], nn.Module]
    optimizer: Callable[..., optim.Optimizer]
    batch_size: int
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy

    def step(
        self, network: nn.Module, optimizer: optim.Optimizer, images: Tensor, labels: Tensor
    ) -> Tensor:
        """Updates the network in place with one batch; returns the loss before the update."""
        loss, _ = self.update(network, optimizer, images, labels)
        return loss

    def update(
        self, network: nn.Module, optimizer: optim.Optimizer, images: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As `step`; returns loss and outputs [N, 10] before the update."""
        optimizer.zero_grad()
        outputs = network(images)
        loss = self.loss(outputs, labels)
        loss.backward()
        optimizer.step()
        return loss.detach(), outputs.detach()


def _sgd(lr: float, weight_decay: float = 0.0) -> Callable[..., optim.Optimizer]:
    return partial(optim.SGD, lr=lr, weight_decay=weight_decay)


def _adam(lr: float, weight_decay: float = 0.0) -> Callable[..., optim.Optimizer]:
    return partial(optim.Adam, lr=lr, weight_decay=weight_decay)


_ARTICLES = [
    Original(
        model="dense", network=TorchDense, optimizer=_sgd(3.0), batch_size=10, loss=one_hot_mse
    ),
    Original(model="basic_conv", network=TorchBasicConv, optimizer=_sgd(0.1), batch_size=10),
    Original(model="dbl_conv", network=TorchDblConv, optimizer=_sgd(0.1), batch_size=10),
    Original(
        model="dbl_conv_relu",
        network=partial(TorchDblConv, torch.relu),
        optimizer=_sgd(0.03, 5e-5),
        batch_size=10,
    ),
    Original(
        model="double_fc_dropout", network=TorchDoubleFc, optimizer=_sgd(0.005), batch_size=10
    ),
    Original(model="cmu_cnn", network=TorchCmuCnn, optimizer=_adam(1e-3), batch_size=100),
    Original(model="lenet", network=lenet, optimizer=_sgd(0.9), batch_size=256),
    Original(
        model="batchnorm_cnn",
        network=TorchBatchNormCnn,
        optimizer=_adam(3e-4, 1e-3),
        batch_size=100,
    ),
    Original(model="dropout_cnn", network=TorchDropoutCnn, optimizer=_adam(1e-3), batch_size=32),
    Original(model="simple_cnn", network=TorchSimpleCnn, optimizer=_adam(1e-3), batch_size=100),
    Original(
        model="residual_cnn",
        network=residual_cnn,
        optimizer=partial(optim.Adam, lr=4e-4, betas=(0.9, 0.99)),
        batch_size=100,
    ),
    Original(
        model="strided_cnn",
        network=TorchStridedCnn,
        optimizer=partial(KerasAdam, lr=1e-3, eps=1e-7),
        batch_size=64,
    ),
]
REFERENCES = {reference.model: reference for reference in _ARTICLES}

# Alternative readings of an article, and changes of the network that it suggests.
VARIANTS = {
    "basic_conv, as omit_FC has it": dataclasses.replace(
        REFERENCES["basic_conv"], model_args={"fully_connected": False}, network=TorchOmitFc
    ),
    "cmu_cnn, as its text reads": dataclasses.replace(
        REFERENCES["cmu_cnn"],
        model_args={"conv_relu": False},
        network=partial(TorchCmuCnn, nn.Identity()),
    ),
    "lenet with max-pooling": dataclasses.replace(
        REFERENCES["lenet"], model_args={"pooling": "max"}, network=partial(lenet, nn.MaxPool2d)
    ),
    "lenet with ReLU": dataclasses.replace(
        REFERENCES["lenet"],
        model_args={"activation": "relu"},
        network=partial(lenet, activation=nn.ReLU),
    ),
    "dropout_cnn, as its notebook computes": dataclasses.replace(
        REFERENCES["dropout_cnn"],
        model_args={"forward": "notebook"},
        network=partial(TorchDropoutCnn, dropout=0.0, notebook=True),
    ),
    "residual_cnn of half the width": dataclasses.replace(
        REFERENCES["residual_cnn"],
        model_args={"width": 64},
        network=partial(residual_cnn, 64),
    ),
    "residual_cnn of a quarter of the width": dataclasses.replace(
        REFERENCES["residual_cnn"],
        model_args={"width": 32},
        network=partial(residual_cnn, 32),
    ),
    "residual_cnn without its first block": dataclasses.replace(
        REFERENCES["residual_cnn"],
        model_args={"width": 32, "first_block": False},
        network=partial(residual_cnn, 32, first_block=False),
    ),
}

# Article A's networks that article B leaves out, under article B's names.
THEANO_NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "shallow": TorchShallow,
    "expanded_double_fc": partial(TorchDoubleFc, units=100, dropout=0.0),
}
