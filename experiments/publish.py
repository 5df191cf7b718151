"""Makes pretrained weights of a recorded run.

`python -m experiments.publish --experiment=nested_software/dbl_conv_relu --seed=5` takes them from
the run directory that the row's own command has left, and puts them into `mnist_jax/pretrained/`.
`python -m experiments.compare` then writes their card.
"""

import shutil
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
from absl import flags

from experiments.evidence import records
from experiments.evidence.rows import find
from mnist_jax import cli
from mnist_jax.cli import display
from mnist_jax.errors import Failure, UsageError
from mnist_jax.files import make_folder, write_text
from mnist_jax.interchange.pretrained import FOLDER, LARGEST_IN_PACKAGE, Origin
from mnist_jax.interchange.weights import export_weights
from mnist_jax.runs.directory import RunDirectory

_EXPERIMENT = flags.DEFINE_string("experiment", None, "Which row, as ARTICLE/ROW.")
_SEED = flags.DEFINE_integer("seed", 0, "Which of its seeds.", 0)
_WORKDIR = cli.define_path("workdir", Path("runs/experiments"), "Where the run directories live.")


def publish(row: str, record: records.Record, run: RunDirectory, folder: Path) -> Path:
    """Writes a recorded run's weights and where they come from into its network's folder.

    Args:
      row: of the run, as `article/row`.
      record: of the run.
      run: its directory.
      folder: has a folder for each network.

    Returns:
      The file of weights: in that folder, or, where it is too large for the package, in the run
      directory, for a release.

    Raises:
      Failure: the run is not the recorded one or of uncommitted code, or a file can't be read or
        written.
    """
    result = run.result() or {}
    same = (
        run.recipe() == record.recipe
        and result.get("selected_step") == record.selected_step
        and np.array_equal(run.predictions(), record.predictions)
    )
    if not same or not record.committed:
        what = "was made by uncommitted code" if same else "is not the recorded one"
        raise Failure(f"The run in {run.path} {what}; train it again, or give another --workdir.")
    target = folder / record.recipe.model / "model.safetensors"
    make_folder(target.parent)
    export_weights(run, target)
    content = target.read_bytes()
    origin = Origin(
        row=row,
        recipe=record.recipe,
        step=record.selected_step,
        correct=int(record.correct.sum()),
        images=len(record.correct),
        revision=record.environment["git"]["revision"],
        sha256=sha256(content).hexdigest(),
        size=len(content),
    )
    write_text(target.with_name("config.json"), origin.to_json())
    if len(content) < LARGEST_IN_PACKAGE:
        return target
    return Path(shutil.move(target, run.path / origin.release))


def main(argv: Sequence[str]) -> None:
    """Publishes what the flags say."""
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
