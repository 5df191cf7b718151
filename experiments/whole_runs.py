"""Verifies whole runs: the author's PyTorch network replays ours on the same batches, in float32.

`python -m experiments.whole_runs --row=ARTICLE/ROW [--num_seeds=N]` trains the missing seeds of a
row, which needs PyTorch, adds them to docs/whole_runs.jsonl and writes docs/whole_runs.md. Without
flags it only writes the page.
"""

import dataclasses
import datetime
import os
from collections.abc import Sequence
from importlib import metadata

from absl import flags
from rich.console import Console

from experiments.evidence import records, whole_run_page, whole_runs
from experiments.evidence.rows import find
from experiments.evidence.whole_runs import WholeRun
from experiments.references import require_torch
from mnist_jax import cli
from mnist_jax.cli import display
from mnist_jax.data import load_dataset
from mnist_jax.errors import Failure, UsageError
from mnist_jax.files import cache_folder, unwritable, write_text
from mnist_jax.recipe import Recipe
from mnist_jax.runs.environment import describe_environment
from mnist_jax.training import devices

_ROW = flags.DEFINE_string("row", None, "Row to run, as ARTICLE/ROW.")
_NUM_SEEDS = flags.DEFINE_integer("num_seeds", 1, "Number of seeds.", 1)
_FIRST_SEED = flags.DEFINE_integer("first_seed", 0, "First of these seeds.", 0)
_EPOCHS = flags.DEFINE_integer("epochs", None, "Number of its epochs to run; by default all.", 1)
_DATA_DIR = cli.define_path("data_dir", None, "Where to look for the dataset first.")
_RESULTS = cli.define_path(
    "results", whole_runs.FOLDER, "Directory of the stored file and the page, whole_runs.*."
)


def main(argv: Sequence[str]) -> None:
    """Runs the missing seeds and writes the page."""
    del argv
    out = display.console()
    if not (_RESULTS.value.is_dir() and os.access(_RESULTS.value, os.W_OK)):
        raise Failure(f"{_RESULTS.value} is no folder to be written to; give one to --results.")
    if _ROW.value is not None:
        _run_missing(out, _ROW.value)
    elif given := [f"--{flag.name}" for flag in (_NUM_SEEDS, _FIRST_SEED, _EPOCHS) if flag.present]:
        raise UsageError(f"{given[0]} is for a row; add --row=ARTICLE/ROW.")
    page = _RESULTS.value / "whole_runs.md"
    try:
        write_text(page, whole_run_page.page(whole_runs.load(_RESULTS.value), records.RESULTS))
    except OSError as error:
        raise unwritable(page, error, "--results") from error


def _run_missing(out: Console, row: str) -> None:
    recipe = find(row).recipe
    epochs = _EPOCHS.value or recipe.epochs
    if epochs > recipe.epochs:
        raise UsageError(f"{row} has {recipe.epochs} epochs; give no more of them to --epochs.")
    seeds = range(_FIRST_SEED.value, _FIRST_SEED.value + _NUM_SEEDS.value)
    kept = {run.recipe.seed: run for run in whole_runs.load(_RESULTS.value) if run.row == row}
    for seed in seeds:
        of_seed = dataclasses.replace(recipe, seed=seed)
        if (run := kept.get(seed)) and run.recipe != of_seed:
            raise Failure(
                f"The kept run of {row}, seed {seed} was made with another recipe than the row has"
                " now; remove its line and run it again."
            )
        if run and run.epochs >= epochs:
            out.print(f"{row} seed {seed}: {run.epochs} epochs are kept.")
            continue
        whole_runs.append(_run(out, row, of_seed, epochs), _RESULTS.value)


def _run(out: Console, row: str, recipe: Recipe, epochs: int) -> WholeRun:
    require_torch()
    import torch

    from experiments.references.torch_replay import replay

    # PyTorch's threads busy-wait and would starve JAX's.
    torch.set_num_threads(1)
    # oneDNN's gradient of a convolution's bias, a sum over all pixels of a batch, has many
    # times the error of PyTorch's own kernels (tests/test_whole_runs.py).
    torch.backends.mkldnn.set_flags(_enabled=False)
    devices.configure_process(cache_folder() / "compiled")
    out.print(f"{row} seed {recipe.seed}: {epochs} of {recipe.epochs} epochs")
    dataset = load_dataset(recipe.dataset, _DATA_DIR.value)
    environment = describe_environment(
        dataset, {"platform": "cpu", "processor": devices.processor()}
    )
    environment["packages"]["torch"] = metadata.version("torch")
    environment["onednn"] = False
    return WholeRun(
        row=row,
        recipe=recipe,
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        environment={k: v for k, v in environment.items() if k not in records.LOCAL},
        replay=replay(out, recipe, dataset, epochs),
    )


if __name__ == "__main__":
    cli.run(main)
