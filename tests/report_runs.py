"""Small runs of two seeds to report on, and checks of what a report shows.

Their networks are untrained and their metrics made up.
"""

import dataclasses
from itertools import pairwise
from pathlib import Path
from unittest.mock import patch

import numpy as np
from flax import nnx
from matplotlib.backend_bases import RendererBase
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from experiments.references.ours import initial_states
from mnist_jax.data import load_dataset
from mnist_jax.models import model_entry
from mnist_jax.reporting.page import Page, Picture
from mnist_jax.runs.checkpoints import Checkpoints
from mnist_jax.runs.directory import RunDirectory
from mnist_jax.runs.environment import describe_environment
from mnist_jax.runs.metrics import Evaluation

RECIPE = dataclasses.replace(
    model_entry("lenet").recipe,
    model_args={"activation": "relu"},
    dataset="digits",
    batch_size=150,
    epochs=2,
    eval_every=4,
)
# The least width of a picture in CSS pixels: on a phone 390 pixels wide, and on a desktop screen.
PHONE, SCREEN = 358, 928
# The steps of evaluations, with 10 steps per epoch.
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
            for start, step in pairwise((0, *STEPS)):
                row = _row(step, seed)
                # Steps whose means are those of the row.
                means = np.asarray([[row.train_loss, row.train_accuracy]])
                run.append_steps(means + np.linspace(-0.01, 0.01, step - start)[:, None])
                run.append_metrics(row)
            with Checkpoints(run.checkpoints) as checkpoints:
                params = nnx.as_pure(parameters)
                checkpoints.save(STEPS[-1], {"params": params, "batch_stats": {}})
            last = run.metrics()[-1]
            result = {"test_accuracy": last.test_accuracy, "seconds": last.seconds}
            run.write_result(result | {"selected_step": last.step, "epochs": recipe.epochs})


def pictures(page: Page) -> dict[str, Figure]:
    """The figures of a page by name."""
    blocks = [block for section in page.sections for block in section.blocks]
    return {block.name: block.figure for block in blocks if isinstance(block, Picture)}


def check_legible(figure: Figure, css_width: float) -> None:
    """Asserts that all texts of a figure are legible when it is shown this many CSS pixels wide.

    None may be smaller than 10.5 pixels, cut off, or overlap another.
    """
    texts: list[tuple[Text, Bbox]] = []

    def draw(text: Text, renderer: RendererBase) -> None:
        if text.get_visible() and text.get_text().strip():
            texts.append((text, text.get_window_extent(renderer)))

    with patch.object(Text, "draw", draw):
        figure.draw_without_rendering()
    assert texts
    width, height = figure.bbox.size
    for i, (text, box) in enumerate(texts):
        assert float(text.get_fontsize()) * figure.dpi / 72 * css_width / width >= 10.5, text
        assert min(box.x0, box.y0, width - box.x1, height - box.y1) >= -1, text
        for other, other_box in texts[:i]:
            common = Bbox.intersection(box, other_box)
            assert common is None or min(common.size) < 1, f"{text} overlaps {other}"


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
