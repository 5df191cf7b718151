"""Measures the difference of every network from its article's program, for `docs/identity.md`."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from experiments.references import compare_theano, compare_torch
from experiments.references.ours import training_images
from experiments.references.torch_networks import REFERENCES, VARIANTS, Original
from mnist_jax.models import model_entry


def differences() -> dict[str, Any]:
    """The differences, by network of `REFERENCES` and `VARIANTS`, and by Theano's `CASES`."""
    # PyTorch's threads busy-wait and would starve JAX's.
    torch.set_num_threads(1)
    names = "logits", "statistics"
    moved = compare_torch.training_mode_evaluation(REFERENCES["batchnorm_cnn"])
    return {
        "torch": {name: _torch(name, own) for name, own in {**REFERENCES, **VARIANTS}.items()},
        "training_mode": dict(zip(names, moved, strict=True)),
        "theano": [_theano(case) for case in compare_theano.CASES],
    }


def _torch(name: str, reference: Original) -> Mapping[str, Any]:
    """Differences under the names of `limits.TORCH`, and both sides' correct images of 1,000."""
    images, labels = training_images(model_entry(reference.model).recipe, 8)
    found: dict[str, Any] = {
        "logits, float32": compare_torch.logits(reference, images, np.float32),
        "logits": compare_torch.logits(reference, images),
        "gradients": compare_torch.gradients(reference, images, labels, dropout=False),
    }
    if name not in REFERENCES:
        return found
    if any(isinstance(layer, torch.nn.Dropout) for layer in reference.network().modules()):
        found["same masks"] = compare_torch.gradients(reference, images, labels, dropout=True)
    size = compare_torch.WIDE.get(name, reference.batch_size)
    training = compare_torch.training(dataclasses.replace(reference, batch_size=size))
    found |= {"losses": training.losses, "values": training.values}
    if training.moments:
        found["moments"] = training.moments
    (our_loss, our_accuracy), (their_loss, their_accuracy) = compare_torch.evaluation(reference)
    found["right"] = [round(1000 * our_accuracy), round(1000 * their_accuracy)]
    return found | {"loss, float32": abs(our_loss / their_loss - 1)}


def _theano(case: compare_theano.Case) -> Mapping[str, Any]:
    """The case, and its differences under the names of `limits.THEANO`."""
    training = compare_theano.training(case)
    return {
        "network": case.model,
        "dense units": case.units,
        "λ": case.lmbda,
        "losses": training.losses,
        "weights": training.values,
        "logits": training.logits,
        "by Theano's rule": compare_theano.training(case, all_maxima=True).values,
    }
