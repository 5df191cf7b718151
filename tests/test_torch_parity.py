"""Every network and its training against the article's PyTorch program."""

import dataclasses
from collections.abc import Container, Iterable

import numpy as np
import pytest

pytest.importorskip(
    "torch",
    reason="PyTorch is not installed (make torch): no comparisons with it of logits, gradients,"
    " training, dropout, initial values and evaluation",
)

from experiments.references import compare_torch, limits
from experiments.references.distributions import standard_errors_apart
from experiments.references.ours import training_images
from experiments.references.torch_networks import REFERENCES, VARIANTS, Original
from mnist_jax.models import model_entry

pytestmark = pytest.mark.usefixtures("one_torch_thread")

EVERY = {**REFERENCES, **VARIANTS}
# Both losses, both optimisers, weight decay, and both kinds of pooling.
TRAINED = {"dense", "dbl_conv_relu", "lenet"}


def references(names: Iterable[str], quick: Container[str]) -> pytest.MarkDecorator:
    values = [
        pytest.param(EVERY[name], id=name, marks=[pytest.mark.slow] * (name not in quick))
        for name in names
    ]
    return pytest.mark.parametrize("reference", values)


article = references(REFERENCES, TRAINED)
# The variant with a quarter of the width has all of their layers.
WIDE = {"residual_cnn", "residual_cnn of half the width"}


def _batch(reference: Original) -> tuple[np.ndarray, np.ndarray]:
    return training_images(model_entry(reference.model).recipe, 8)


@references(EVERY, EVERY.keys() - WIDE)
def test_logits_agree(reference: Original) -> None:
    images, _ = _batch(reference)
    assert compare_torch.logits(reference, images) < limits.TORCH["logits"]
    found = compare_torch.logits(reference, images, np.float32)
    assert found < limits.TORCH["logits, float32"]


# Networks whose training is compared have the same gradients; strides are also compared with XLA,
# and the network without its first block has no other layers than the whole one.
@references(
    EVERY,
    EVERY.keys() - TRAINED - WIDE - {"strided_cnn", "residual_cnn without its first block"},
)
def test_gradients_agree(reference: Original) -> None:
    limit = limits.of_torch("gradients", reference.model)
    assert compare_torch.gradients(reference, *_batch(reference), dropout=False) < limit


@references(
    ["double_fc_dropout", "batchnorm_cnn", "dropout_cnn", "strided_cnn"], ["double_fc_dropout"]
)
def test_gradients_agree_when_the_same_units_are_dropped(reference: Original) -> None:
    limit = limits.of_torch("same masks", reference.model)
    assert compare_torch.gradients(reference, *_batch(reference), dropout=True) < limit


@article
def test_fifty_training_steps_agree(reference: Original) -> None:
    # Larger batches take longer and show nothing more.
    size = min(reference.batch_size, compare_torch.WIDE.get(reference.model, 20))
    small = dataclasses.replace(reference, batch_size=size)
    differences = compare_torch.training(small, steps=50)
    assert differences.losses < limits.TORCH["losses"]
    assert differences.values < limits.TORCH["values"]
    assert differences.moments < limits.TORCH["moments"]


@article
def test_initial_values_have_the_same_distribution(reference: Original) -> None:
    ours, theirs = compare_torch.initial_values(reference, seeds=20)
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        expected = theirs[name]
        assert standard_errors_apart(values, expected) < 5, name
        # The largest of n uniform values falls short of the bound by bound/n on average.
        bound, expected_bound = np.abs(values).max(), np.abs(expected).max()
        assert bound == pytest.approx(expected_bound, rel=20 / len(expected)), name


@pytest.mark.parametrize("name", ["dense", "batchnorm_cnn"])
def test_evaluation_agrees(name: str) -> None:
    (our_loss, our_accuracy), (their_loss, their_accuracy) = compare_torch.evaluation(
        REFERENCES[name]
    )
    assert our_accuracy == their_accuracy
    assert our_loss == pytest.approx(their_loss, rel=limits.TORCH["loss, float32"])


def test_evaluation_in_training_mode_agrees() -> None:
    """As article E evaluates: with dropout and batch statistics, and updating the running ones."""
    logits, statistics = compare_torch.training_mode_evaluation(REFERENCES["batchnorm_cnn"])
    assert logits < 1e-12
    assert statistics < 1e-12
