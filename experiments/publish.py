"""Publishes a recorded run as pretrained weights.

`python -m experiments.publish --experiment=nested_software/dbl_conv_relu --seed=5` takes the
weights from the run directory left by the row's own command and puts them into
`mnist_jax/pretrained/`. `python -m experiments.compare` then writes their card.
"""

from collections.abc import Sequence

from absl import flags

from experiments.evidence import records, training
from experiments.evidence.publication import publish
from experiments.evidence.rows import find
from mnist_jax import cli
from mnist_jax.cli import display
from mnist_jax.errors import UsageError
from mnist_jax.interchange.pretrained import FOLDER
from mnist_jax.runs.directory import RunDirectory

_EXPERIMENT = flags.DEFINE_string("experiment", None, "Row to publish, as ARTICLE/ROW.")
_SEED = flags.DEFINE_integer("seed", 0, "Its seed.", 0)
_WORKDIR = cli.define_path("workdir", training.WORKDIR, "Directory of the run directories.")


def main(argv: Sequence[str]) -> None:
    """Publishes the run selected by the flags."""
    del argv
    if _EXPERIMENT.value is None:
        raise UsageError("No row given; add --experiment=ARTICLE/ROW.")
    find(_EXPERIMENT.value)
    article, _, row = _EXPERIMENT.value.partition("/")
    run = RunDirectory(_WORKDIR.value / article / row / f"seed-{_SEED.value}")
    for record in records.load(article):
        if (record.row, record.framework, record.seed) == (row, "jax", _SEED.value):
            written = publish(_EXPERIMENT.value, record, run, FOLDER)
            display.console().print(f"{written} has the weights of {run.path}")
            return
    raise UsageError(f"Seed {_SEED.value} of {_EXPERIMENT.value} has no record; run it first.")


if __name__ == "__main__":
    cli.run(main)
