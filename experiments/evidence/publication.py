"""Pretrained weights of recorded runs and votes: the file and its origin."""

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np

from experiments.evidence import analysis
from experiments.evidence.records import Record
from experiments.evidence.rows import Ensemble
from mnist_jax.errors import Failure
from mnist_jax.files import make_folder, write_output, write_text
from mnist_jax.interchange.pretrained import LARGEST_IN_PACKAGE, Origin, seed_prefix
from mnist_jax.interchange.tensor_files import to_bytes
from mnist_jax.interchange.weights import state_dict
from mnist_jax.runs.directory import RunDirectory
from mnist_jax.runs.network import load_run


def publish(
    row: str,
    runs: Sequence[tuple[Record, RunDirectory]],
    folder: Path,
    vote: Ensemble | None = None,
) -> Path:
    """Writes the weights of a recorded run, or of all members of a vote, with their origin.

    Args:
      row: the run's row, as `article/row`; for a vote, its own name in place of the row's.
      runs: the run's record and directory, or those of the members.
      folder: parent of the networks' folders.
      vote: the vote.

    Returns:
      The weights file. If too large for the package, it is named as a release file, which the
      package leaves out.

    Raises:
      Failure: a run is not the recorded one or was made by uncommitted code, its outputs can't be
        averaged by a vote, or a file can't be read or written.
    """
    tensors = {}
    for record, run in runs:
        _verify(record, run)
        if vote and (vote.vote != "mean" or record.recipe.loss != "cross_entropy"):
            raise Failure(f"{row} can't be published: it is not a vote by the mean of softmaxes.")
        prefix = seed_prefix(record.seed) if vote else ""
        own = state_dict(load_run(run.path))
        tensors.update({f"{prefix}{name}": tensor for name, tensor in own.items()})
    records = [record for record, _ in runs]
    correct = analysis.correct_votes(vote, records) if vote else records[0].correct
    content = to_bytes(tensors)
    origin = Origin(
        row=row,
        recipe=records[0].recipe,
        step=records[0].selected_step,
        correct=int(correct.sum()),
        images=len(correct),
        revisions={one.seed: one.environment["git"]["revision"] for one in records},
        sha256=sha256(content).hexdigest(),
        size=len(content),
    )
    name = "model.safetensors" if len(content) < LARGEST_IN_PACKAGE else origin.release
    target = folder / origin.name / name
    make_folder(target.parent)
    write_output(target, content, "folder")
    write_text(target.with_name("config.json"), origin.to_json())
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
