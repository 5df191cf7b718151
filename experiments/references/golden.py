"""Golden results of the PyTorch programs, for tests without PyTorch.

`python -m experiments.references.golden` regenerates `tests/golden_torch.npz`, which needs PyTorch.
A record holds logits, losses and two numbers per larger tensor, all float64.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
import optax

from experiments.references import require_torch
from experiments.references.ours import bare_recipe, make_network, predict, without_dropout
from mnist_jax import cli
from mnist_jax.interchange import pytorch
from mnist_jax.models import model_entry
from mnist_jax.training.optimizers import make_optimizer
from mnist_jax.training.step import LOSSES, TrainState, train_step

PATH = Path(__file__).parents[2] / "tests" / "golden_torch.npz"
_STEPS = 3


def images_and_labels() -> tuple[np.ndarray, np.ndarray]:
    """A batch without a dataset: uniform noise [8, 28, 28, 1] and labels [8]."""
    rng = np.random.RandomState(1)
    return rng.uniform(size=(8, 28, 28, 1)), rng.randint(0, 10, 8)


def fingerprints(prefix: str, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """For each tensor, its norm and its product with a fixed unit vector: [2]."""
    prints = {}
    for name, tensor in tensors.items():
        direction = np.random.RandomState(2).uniform(-1, 1, tensor.size)
        product = tensor.ravel() @ direction / np.linalg.norm(direction)
        prints[f"{prefix}/{name}"] = np.array([np.linalg.norm(tensor), product])
    return prints


def our_record(name: str) -> dict[str, np.ndarray]:
    """Our network's results, without dropout.

    Returns:
      `logits`, the `losses` of some steps of training by the recipe, and the fingerprints of the
      first step's gradients and of the values after the last, by PyTorch's names.
    """
    images, labels = images_and_labels()
    entry = model_entry(name)
    with jax.enable_x64(True):
        network = without_dropout(make_network(name, **entry.recipe.model_args))
        prefixes = pytorch.torch_layers(network, entry.torch_names)
        # The trace's moment is the last gradient, which it passes on.
        optimizer = optax.chain(optax.trace(0.0), make_optimizer(bare_recipe(name), 1))
        loss = LOSSES[entry.recipe.loss]
        state = TrainState.create(network, optimizer, loss, key=jax.random.key(0))
        record = {"logits": np.asarray(predict(state, images))}
        step = jax.jit(train_step)
        losses = []
        for _ in range(_STEPS):
            state, metrics = step(state, images, labels)
            losses.append(float(metrics.loss))
            if len(losses) == 1:
                gradient = pytorch.to_torch(pytorch.by_layer(state.opt_state[0].trace), prefixes)
                record |= fingerprints("gradient", gradient)
        values = pytorch.by_layer(state.params, state.batch_stats)
        record |= fingerprints("value", pytorch.to_torch(values, prefixes, batches=_STEPS))
        return record | {"losses": np.array(losses)}


def main(argv: Sequence[str]) -> None:
    """Writes the golden results of all networks."""
    del argv
    require_torch()
    import torch

    from experiments.references.compare_torch import Pair, gradients_of, to_torch, values_of
    from experiments.references.torch_networks import REFERENCES

    images, labels = images_and_labels()
    records: dict[str, np.ndarray] = {}
    for name, reference in REFERENCES.items():
        with jax.enable_x64(True):
            pair = Pair(reference).without_dropout()
        record = {"logits": pair.theirs.eval()(to_torch(images)).detach().numpy()}
        optimizer = reference.optimizer(pair.theirs.train().parameters())
        losses = []
        for _ in range(_STEPS):
            batch = to_torch(images), torch.tensor(labels)
            losses.append(float(reference.step(pair.theirs, optimizer, *batch)))
            if len(losses) == 1:
                record |= fingerprints("gradient", gradients_of(pair.theirs))
        record |= fingerprints("value", values_of(pair.theirs))
        record["losses"] = np.array(losses)
        records |= {f"{name}/{key}": value for key, value in record.items()}
    np.savez(PATH, allow_pickle=False, **records)


if __name__ == "__main__":
    cli.run(main)
