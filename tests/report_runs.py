"""Small runs to report on, of two seeds: fresh networks, and metrics made up.

And what a report of them shows.
"""

import dataclasses
from pathlib import Path

from flax import nnx
from matplotlib.figure import Figure

from experiments.references.ours import initial_states
from mnist_jax.data import load_dataset
from mnist_jax.models import model_entry
from mnist_jax.reporting.page import Page, Picture
from mnist_jax.runs.checkpoints import Checkpoints
from mnist_jax.runs.directory import RunDirectory, describe_environment
from mnist_jax.runs.metrics import Evaluation

RECIPE = dataclasses.replace(
    model_entry("lenet").recipe,
    model_args={"activation": "relu"},
    dataset="digits",
    batch_size=150,
    epochs=2,
    eval_every=4,
)
# 10 steps an epoch.
STEPS = (4, 8, 10, 14, 18, 20)


def write_runs(parent: Path) -> None:
    """Writes seeds 0 and 1 to `seed-0` and `seed-1`, as training would."""
    dataset = load_dataset("digits")
    initial = initial_states(RECIPE.model, 2, **RECIPE.model_args)
    for seed, parameters in enumerate(initial):
        run = RunDirectory(parent / f"seed-{seed}")
        recipe = dataclasses.replace(RECIPE, seed=seed)
        environment = describe_environment(dataset, {"platform": "test"})
        with run.locked():
            run.create(recipe, environment | {"command": ["/x/mnist_jax/train.py", "--seed=<0>"]})
            for step in STEPS:
                run.append_metrics(_row(step, seed))
            with Checkpoints(run.checkpoints) as checkpoints:
                params = nnx.as_pure(parameters)
                checkpoints.save(STEPS[-1], {"params": params, "batch_stats": {}})
            last = run.metrics()[-1]
            result = {"test_accuracy": last.test_accuracy, "seconds": last.seconds}
            run.write_result(result | {"selected_step": last.step, "epochs": recipe.epochs})


def pictures(shown: Page) -> dict[str, Figure]:
    blocks = [block for section in shown.sections for block in section.blocks]
    return {block.name: block.figure for block in blocks if isinstance(block, Picture)}


def _row(step: int, seed: int) -> Evaluation:
    return Evaluation(
        epoch=step / 10,
        step=step,
        train_loss=2.0 / step + seed,
        train_accuracy=1 - 1 / step - seed / 50,
        test_loss=3.0 / step + seed,
        test_accuracy=1 - 2 / step - seed / 100,
        images_per_second=100.0,
        seconds=6.0 * step,
    )
