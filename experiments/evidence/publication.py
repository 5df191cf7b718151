"""Pretrained weights of recorded runs: the file and its origin."""

from hashlib import sha256
from pathlib import Path

import numpy as np

from experiments.evidence.records import Record
from mnist_jax.errors import Failure
from mnist_jax.files import make_folder, write_text
from mnist_jax.interchange.pretrained import LARGEST_IN_PACKAGE, Origin
from mnist_jax.interchange.weights import export_weights
from mnist_jax.runs.directory import RunDirectory


def publish(row: str, record: Record, run: RunDirectory, folder: Path) -> Path:
    """Writes a recorded run's weights and their origin into its network's folder.

    Args:
      row: the run's row, as `article/row`.
      record: the run's record.
      run: the run's directory.
      folder: parent of the networks' folders.

    Returns:
      The weights file. If too large for the package, it is named as a release file, which the
      package leaves out.

    Raises:
      Failure: the run is not the recorded one or was made by uncommitted code, or a file can't be
        read or written.
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
    if len(content) >= LARGEST_IN_PACKAGE:
        target = target.rename(target.with_name(origin.release))
    for former in target.parent.glob("*.safetensors"):
        if former != target:
            former.unlink()
    return target
