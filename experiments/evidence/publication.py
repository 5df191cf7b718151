"""Pretrained weights of recorded runs: the file and its origin."""

import dataclasses
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np

from experiments.evidence.records import Record
from mnist_jax.errors import Failure
from mnist_jax.files import make_folder, write_text
from mnist_jax.interchange.pretrained import LARGEST_IN_PACKAGE, Origin, seed_prefix
from mnist_jax.interchange.tensor_files import write_tensors
from mnist_jax.interchange.weights import state_dict
from mnist_jax.runs.directory import RunDirectory
from mnist_jax.runs.network import load_run


def publish(
    row: str, runs: Sequence[tuple[Record, RunDirectory]], correct: int, folder: Path
) -> Path:
    """Writes a recorded run's weights and their origin into its network's folder.

    Args:
      row: the run's row, as `article/row`; for an ensemble, that of its vote.
      runs: the run's record and directory, or those of an ensemble's members.
      correct: number of test images classified correctly, by the vote of an ensemble.
      folder: parent of the networks' folders.

    Returns:
      The weights file. If too large for the package, it is named as a release file, which the
      package leaves out.

    Raises:
      Failure: a run is not the recorded one or was made by uncommitted code, or a file can't be
        read or written.
    """
    tensors = {}
    for record, run in runs:
        _verify(record, run)
        prefix = seed_prefix(record.seed) if len(runs) > 1 else ""
        own = state_dict(load_run(run.path))
        tensors.update({f"{prefix}{name}": tensor for name, tensor in own.items()})
    record, _ = runs[0]
    origin = Origin(
        row=row,
        recipe=record.recipe,
        step=record.selected_step,
        correct=correct,
        images=len(record.correct),
        revisions={one.seed: one.environment["git"]["revision"] for one, _ in runs},
        sha256="",
        size=0,
    )
    target = folder / origin.name / "model.safetensors"
    make_folder(target.parent)
    write_tensors(tensors, target)
    content = target.read_bytes()
    origin = dataclasses.replace(origin, sha256=sha256(content).hexdigest(), size=len(content))
    write_text(target.with_name("config.json"), origin.to_json())
    if len(content) >= LARGEST_IN_PACKAGE:
        target = target.rename(target.with_name(origin.release))
    for former in target.parent.glob("*.safetensors"):
        if former != target:
            former.unlink()
    return target


def _verify(record: Record, run: RunDirectory) -> None:
    """Raises Failure unless the run is the recorded one, made by committed code."""
    result = run.result() or {}
    same = (
        run.recipe() == record.recipe
        and result.get("selected_step") == record.selected_step
        and np.array_equal(run.predictions(), record.predictions)
    )
    if not same or not record.committed:
        what = "was made by uncommitted code" if same else "is not the recorded one"
        raise Failure(f"The run in {run.path} {what}; train it again, or give another --workdir.")
