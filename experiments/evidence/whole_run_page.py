"""The page of the whole runs that the author's PyTorch followed, from the kept file."""

import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

from experiments.evidence import records, tables
from experiments.evidence.records import Record
from experiments.evidence.rows import all_articles
from experiments.evidence.whole_runs import WholeRun

_TEXT = """# Whole runs, followed by PyTorch

Written by `python -m experiments.whole_runs` from `whole_runs.jsonl`; do not edit.

[identity.md](identity.md) compares single steps and fifty of them in float64. Here the author's
network, plain PyTorch (`experiments/references/torch_networks.py`) with the author's optimiser,
follows runs of ours over their whole length, or the epochs in the table, in float32 as they are.
Both sides begin with our initial values and take our batches in our order; images are shifted,
warped and turned as ours are, dropout drops the units that ours drops, and a learning rate that
changes takes our course. All else is each side's own: normalisation, convolutions, pooling,
BatchNorm, gradients, weight decay, optimiser and evaluation.

    python -m experiments.whole_runs --row=lenet_fashion_mnist/lenet --num_seeds=5

The two round differently, as other orders of addition do, and training can amplify that: a
rounding may decide which of two nearly equal values is the largest of a pooling window, or on
which side of 0 a ReLU's input lies, and Adam makes whole steps of the smallest gradients. How far
that goes is measured beside it: a second run of ours, *nudged*, begins with every parameter moved
by one unit in its last place and is the same otherwise. Where PyTorch's values are at most {far}
times as far from our run as that one's, rounding is enough to explain the distance.{farther}

- *epochs*: that were run, of those that the recipe has.
- *ours*, *PyTorch*: the test accuracy after the last of them, and beside it that of our recorded
  run of this row and seed (`experiments/results/`) after the same epoch. Records were made by
  other revisions of this code, some of which round convolutions otherwise.
- *apart*: the largest difference of the two test accuracies after any epoch, in points.
- *predictions*: of how many of the {images} test images PyTorch's labels differ from ours after
  the last epoch; then those of the nudged run.
- *other count*: the first step of whose batch the two had another number of images right. Two
  equal numbers may be of different images, so predictions may differ before it.
- *losses*: the largest difference of the loss of a step before that.
- *values*: the largest difference of a parameter or BatchNorm statistic after the last epoch, from
  PyTorch; then from the nudged run.

{table}

## Epoch by epoch

Test accuracy in percent, the loss over all test images, and how many of them PyTorch and the nudged
run predict otherwise than ours. *record* is the recorded run's accuracy.
{curves}
## What ran

{machines}
"""
_IMAGES = 10_000
# Lines of a table of epochs.
_MOST = 15
# What is this many times as far as a rounding is not explained by one.
_FAR = 3


def page(runs: Sequence[WholeRun], results: Path = records.RESULTS) -> str:
    """The page of these runs, beside the records of a folder."""
    letters = {article.name: article.letter for article in all_articles()}
    runs = sorted(runs, key=lambda run: (letters[_article(run)], run.row, run.recipe.seed))
    recorded = _recorded(runs, results)
    table = [
        [
            *("article", "row", "seed", "epochs", "steps", "ours", "PyTorch", "record", "apart"),
            *("predictions", "other count", "losses", "values"),
        ]
    ]
    for run in runs:
        article, row = run.row.split("/")
        record = recorded.get((run.row, run.recipe.seed))
        table.append(
            [
                letters[article],
                f"`{row}`",
                str(run.recipe.seed),
                f"{run.epochs} of {run.recipe.epochs}",
                f"{run.followed.steps:,}",
                *_accuracies(run, record, run.epochs),
                f"{_apart(run):.2f}",
                _both(run, "predictions", "d"),
                f"{run.followed.first_step:,}" if run.followed.first_step else "none",
                f"{run.followed.losses:.0e}",
                _both(run, "values", ".0e"),
            ]
        )
    # One of each row; the others are in the table above.
    shown = {run.row: run for run in reversed(runs)}
    curves = [_curve(run, recorded.get((run.row, run.recipe.seed))) for run in shown.values()]
    return _TEXT.format(
        far=_FAR,
        farther=_farther(runs),
        images=f"{_IMAGES:,}",
        table=tables.markdown(table),
        curves="\n" + "\n".join(reversed(curves)),
        machines=_machines(runs),
    )


def _article(run: WholeRun) -> str:
    return run.row.partition("/")[0]


def _recorded(runs: Iterable[WholeRun], results: Path) -> dict[tuple[str, int], Record]:
    """Our records of the same rows and seeds, with the recipe that was run."""
    wanted = {(run.row, run.recipe.seed): run.recipe for run in runs}
    found = {}
    for article in {_article(run) for run in runs}:
        for record in records.load(article, results):
            name = f"{article}/{record.row}", record.seed
            if record.framework == "jax" and wanted.get(name) == record.recipe:
                found[name] = record
    return found


def _accuracies(run: WholeRun, record: Record | None, epoch: int) -> list[str]:
    """The test accuracy after an epoch in percent: ours, PyTorch's, the record's."""
    both = [100 * side.test_accuracy[epoch - 1] for side in run.followed.sides]
    texts = [f"{accuracy:.2f}" for accuracy in both]
    return [*texts, f"{record.accuracy_at(epoch):.2f}" if record else ""]


def _apart(run: WholeRun) -> float:
    pairs = zip(run.followed.ours.test_accuracy, run.followed.theirs.test_accuracy, strict=True)
    return max(100 * abs(ours - theirs) for ours, theirs in pairs)


def _farther(runs: Iterable[WholeRun]) -> str:
    """What is to be said of the runs that PyTorch is too far from for one rounding."""
    found = []
    for run in runs:
        theirs, nudged = (one.values[-1] for one in run.followed.distances)
        if theirs > _FAR * nudged:
            other = run.followed.apart.predictions[-1]
            found.append(
                f"`{run.row}` seed {run.recipe.seed} ({theirs / nudged:.0f} times, {other} other"
                f" prediction{'s' * (other != 1)})"
            )
    if not found:
        return ""
    sentence = (
        f" That fails for {', '.join(found)}: there PyTorch is farther than the nudge explains. The"
        " nudged run is moved once, before the first step, while PyTorch rounds otherwise at every"
        " step, which may be why; it has not been measured."
    )
    return "\n" + textwrap.fill(sentence.strip(), 100)


def _both(run: WholeRun, column: str, style: str) -> str:
    """What is last in a column of PyTorch's distances and in one of the nudged run's."""
    return ", ".join(format(getattr(one, column)[-1], style) for one in run.followed.distances)


def _curve(run: WholeRun, record: Record | None) -> str:
    every = -(-run.epochs // _MOST)
    shown = sorted({1, run.epochs, *range(every, run.epochs, every)})
    rows = [["epoch", "ours", "PyTorch", "record", "loss: ours", "PyTorch", "other", "nudged"]]
    for epoch in shown:
        losses = [f"{side.test_loss[epoch - 1]:.6f}" for side in run.followed.sides]
        others = [str(one.predictions[epoch - 1]) for one in run.followed.distances]
        rows.append([str(epoch), *_accuracies(run, record, epoch), *losses, *others])
    return "\n".join([f"### `{run.row}`, seed {run.recipe.seed}", "", tables.markdown(rows), ""])


def _machines(runs: Iterable[WholeRun]) -> str:
    """Each set of versions with the rows that ran on it."""
    rows: dict[str, list[str]] = {}
    for run in runs:
        of_run = run.environment
        versions = ", ".join(f"{name} {version}" for name, version in of_run["packages"].items())
        git = of_run["git"] or {"revision": "no checkout", "dirty": False}
        revision = f"revision {git['revision'][:12]}{' with changes' if git['dirty'] else ''}"
        text = (
            f"Python {of_run['python']}, {versions}, {of_run['machine']}, CPU, {run.date},"
            f" {revision}"
        )
        rows.setdefault(text, []).append(f"`{run.row}` {run.recipe.seed}")
    return "\n".join(f"- {text}: {', '.join(names)}." for text, names in rows.items())
