"""Writes `docs/identity.md`: `python -m experiments.references.identity` (needs PyTorch)."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from experiments.references import compare_theano, compare_torch
from experiments.references.ours import training_images
from experiments.references.torch_networks import REFERENCES, VARIANTS, Original
from mnist_jax.models import model_entry

PATH = Path(__file__).parents[2] / "docs" / "identity.md"

_TEXT = """# Each network is its article's network

Written by `python -m experiments.references.identity` on {images}; do not edit.

The numbers are the largest differences found between this project and an independent program for
the same network, starting from the same values; float64 unless the column says float32. The tests
hold them below the limit in each heading. The programs are plain PyTorch as the articles wrote
it (`experiments/references/torch_networks.py`) and, for article A, the rules of Nielsen's
`network3.py` in NumPy (`experiments/references/theano_numpy.py`). Training is compared over 50
steps without dropout, and over 20 of article A's. Whole runs in float32, on both sides of which
the same units are dropped, are followed by another command: [whole_runs.md](whole_runs.md) has
those that there are.

## Against PyTorch

- *logits*: outputs of 8 images in evaluation mode, relative to the largest.
- *gradients*: of the article's loss, for every parameter, relative to the tensor's largest value.
- *same masks*: the gradients when both sides drop the same units.
- *50 steps*: two short epochs with the article's optimiser, weight decay and batch size, the last
  batch half as long, dropout off: the largest difference of a loss, of a parameter or BatchNorm
  statistic at the end, and of the optimiser's moments (relative). Where an article can be read in
  two ways, only the network differs, and its training is not repeated.
- *right*: how many of the same 1,000 test images the untrained network gets right here and there,
  and the difference of the mean losses, relative and in float32.

{torch}

Article E's evaluation as published (training mode, with the same units dropped) differs by
{published} in its logits and by {moved} in the running statistics that it moves.

## Against network3.py

20 steps of 10 images in file order; the largest difference of a loss, of a weight or bias at the
end, and of the logits in evaluation, which with dropout are scaled. Equal values in a pooling
window, which occur in saturated strokes, pass the gradient to the first of them here and in
PyTorch, but to all of them in Theano; the last column has the largest difference of a weight or
bias after the same 20 steps by Theano's rule: up to {ties}. A run of a network with max-pooling is
`network3.py`'s but for such ties, and not Theano's to the digit.
Without its dense layer (0 units, article A's `omit_FC`) basic_conv is trained at a tenth of its
learning rate: at its own the losses of these first steps reach 40, and rounding grows with them.

{theano}
"""


def main() -> None:
    """Measures everything and writes the file."""
    # PyTorch's threads wait busily and would starve JAX's.
    torch.set_num_threads(1)
    references = {**REFERENCES, **VARIANTS}
    published, moved = compare_torch.training_mode_evaluation(REFERENCES["batchnorm_cnn"])
    theano = [_theano_row(case) for case in compare_theano.CASES]
    source = "MNIST and Fashion-MNIST" if "MNIST_JAX_DATA_DIR" in os.environ else "the digits"
    text = _TEXT.format(
        images=source,
        torch=_table(
            [
                "network",
                "logits, float32 (1e-5)",
                "logits (1e-12)",
                "gradients (1e-12)",
                "same masks (1e-12)",
                "50 steps: losses (1e-10)",
                "values (1e-10)",
                "moments (1e-10)",
                "right (=)",
                "loss, float32 (1e-6)",
            ],
            (_torch_row(name, reference) for name, reference in references.items()),
        ),
        published=_number(published),
        moved=_number(moved),
        ties=_number(max(float(row[-1]) for row in theano)),
        theano=_table(
            [
                "network",
                "dense units",
                "λ",
                "losses (1e-12)",
                "weights (1e-12)",
                "logits (1e-12)",
                "weights by Theano's rule",
            ],
            theano,
        ),
    )
    PATH.parent.mkdir(exist_ok=True)
    PATH.write_text(text)


def _torch_row(name: str, reference: Original) -> list[str]:
    images, labels = training_images(model_entry(reference.model).recipe, 8)
    drops = any(isinstance(layer, torch.nn.Dropout) for layer in reference.network().modules())
    drops = drops and name in REFERENCES
    row = [
        name,
        _number(compare_torch.logits(reference, images, np.float32)),
        _number(compare_torch.logits(reference, images)),
        _number(compare_torch.gradients(reference, images, labels, dropout=False)),
        _number(compare_torch.gradients(reference, images, labels, dropout=True)) if drops else "",
    ]
    if name not in REFERENCES:
        return [*row, "", "", "", "", ""]
    training = compare_torch.training(reference)
    moments = _number(training.moments) if training.moments else ""
    (our_loss, our_accuracy), (their_loss, their_accuracy) = compare_torch.evaluation(reference)
    return [
        *row,
        _number(training.losses),
        _number(training.values),
        moments,
        f"{1000 * our_accuracy:.0f} = {1000 * their_accuracy:.0f}",
        _number(abs(our_loss / their_loss - 1)),
    ]


def _theano_row(case: compare_theano.Case) -> list[str]:
    training = compare_theano.training(case)
    theano = compare_theano.training(case, all_maxima=True)
    measured = (training.losses, training.values, training.logits, theano.values)
    return [case.model, str(case.units), f"{case.lmbda:g}", *map(_number, measured)]


def _number(value: float) -> str:
    return f"{value:.0e}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
