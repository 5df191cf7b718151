"""Whole runs replayed in PyTorch: agreement, sensitivity to differences, and the page."""

import dataclasses
import errno
import json
from pathlib import Path
from typing import Any

import commands
import numpy as np
import pytest

from experiments.evidence import whole_run_page, whole_runs
from experiments.evidence.records import Record, append
from experiments.evidence.rows import all_articles, find
from experiments.evidence.whole_runs import WholeRun
from experiments.references.replays import Distance, Replay, Side
from mnist_jax.data import Dataset
from mnist_jax.errors import Failure, UsageError
from mnist_jax.recipe import Recipe
from mnist_jax.runs.metrics import Evaluation
from mnist_jax.schedules import Exponential
from mnist_jax.training.schedule import Schedule
from mnist_jax.transforms import CropResize, MagnifyingRotation, Standardize

# The last of the digits' batches of 64 has 28 images.
DENSE = Recipe(
    model="dense",
    dataset="digits",
    batch_size=64,
    epochs=2,
    loss="mean_squared_error",
    learning_rate=3.0,
)
NIELSEN = Recipe(
    model="shallow",
    model_args={"init": "nielsen"},
    dataset="digits",
    validation=140,
    shuffle="never",
    batch_size=10,
    epochs=2,
    learning_rate=0.1,
    weight_decay=5.0,
    weight_decay_sense="nielsen",
    selection="best_validation",
)
# Augmentation, Keras's ε, and a learning rate that decays within epochs.
AUGMENTED = dataclasses.replace(
    DENSE,
    optimizer="adam",
    learning_rate=0.01,
    eps=1e-3,
    eps_sense="keras",
    augmentation=(CropResize(), MagnifyingRotation(), Standardize()),
    learning_rate_schedule=(Exponential(epochs=2, factor=0.1, over=2),),
)
SHIFTED = dataclasses.replace(DENSE, one_pixel_shifts=True, epochs=1)
# With SGD, since Adam would take full steps along gradients that are only rounding errors.
DROPOUT = Recipe(
    model="double_fc_dropout", dataset="digits", batch_size=250, epochs=1, learning_rate=0.1
)
NORMALIZED = Recipe(
    model="batchnorm_cnn",
    dataset="digits",
    mean=0.5,
    std=0.5,
    batch_size=250,
    epochs=1,
    learning_rate=0.01,
)
ROW = "lenet_fashion_mnist/lenet"


def _replay(recipe: Recipe, dataset: Dataset, theirs: Recipe | None = None) -> Any:
    """Trains a recipe with both programs; PyTorch's may be given another recipe, `theirs`."""
    from rich.console import Console

    from experiments.references import torch_replay, torch_runs

    author = None
    if theirs:
        schedule = Schedule.of(recipe, len(dataset.train) - recipe.validation)
        author = torch_runs.reference(theirs, schedule.steps_per_epoch)
    return torch_replay.replay(Console(quiet=True), recipe, dataset, recipe.epochs, author)


@pytest.mark.usefixtures("one_torch_thread")
@pytest.mark.parametrize(
    ("recipe", "others", "tolerance"),
    [
        pytest.param(DENSE, 0, 1e-5, id="short last batch"),
        pytest.param(NIELSEN, 0, 1e-5, id="Nielsen's decay"),
        pytest.param(SHIFTED, 0, 1e-5, id="shifts"),
        pytest.param(AUGMENTED, 0, 1e-5, id="augmentation and schedule"),
        # After few steps, their outputs are so close that rounding may decide a prediction.
        pytest.param(DROPOUT, 2, 1e-3, id="dropout", marks=pytest.mark.slow),
        pytest.param(NORMALIZED, 2, 1e-3, id="BatchNorm", marks=pytest.mark.slow),
    ],
)
def test_pytorch_agrees(recipe: Recipe, others: int, tolerance: float, digits: Dataset) -> None:
    made = _replay(recipe, digits)
    assert max(made.distance.predictions) <= others
    assert made.first_step is None or others
    assert made.losses < tolerance
    assert max(made.distance.values) < tolerance
    ends = [one.values[-1] for one in made.perturbed]
    assert 0 < min(ends) <= max(ends) < tolerance
    accuracy = others / len(digits.test) + 1e-6
    for column, ours, theirs in zip(made.ours._fields, made.ours, made.theirs, strict=True):
        apart = accuracy if column.endswith("accuracy") else tolerance
        assert ours == pytest.approx(theirs, rel=0, abs=apart), column
    examples = (5 if recipe.one_pixel_shifts else 1) * (len(digits.train) - recipe.validation)
    assert made.steps == recipe.epochs * -(-examples // recipe.batch_size)


def test_perturbed_runs_start_one_rounding_away(digits: Dataset) -> None:
    pytest.importorskip("torch")
    import jax

    from experiments.references.torch_replay import perturb_others
    from mnist_jax.training.trainer import Trainer

    trainer = Trainer(DENSE, digits, seeds=[0] * 3)
    perturb_others(trainer)
    for array in jax.tree.leaves(trainer.states.params):
        ours, *others = np.asarray(array)
        up, down = (np.nextafter(ours, ours.dtype.type(end)) for end in (np.inf, -np.inf))
        for other in others:
            assert np.all((other == up) | (other == down))
            assert 0.2 < np.mean(other == up) < 0.8
        assert 0.2 < np.mean(others[0] == others[1]) < 0.8


@pytest.mark.slow  # It depends on the processor, for which oneDNN chooses its kernels.
@pytest.mark.usefixtures("one_torch_thread")
def test_onednn_sums_bias_gradients_less_accurately_than_pytorch_itself() -> None:
    import torch

    generator = torch.Generator().manual_seed(0)
    # As large as those of `lenet`'s first convolution, and all of one sign.
    weights = torch.rand((256, 6, 28, 28), generator=generator)

    def gradient(dtype: torch.dtype, *, onednn: bool = False) -> torch.Tensor:
        before = torch.backends.mkldnn.set_flags(_enabled=onednn)[0]
        conv = torch.nn.Conv2d(1, 6, 5, padding=2, dtype=dtype)
        (conv(torch.zeros((256, 1, 28, 28), dtype=dtype)) * weights.to(dtype)).sum().backward()
        torch.backends.mkldnn.set_flags(_enabled=before)
        assert conv.bias is not None
        assert conv.bias.grad is not None
        return conv.bias.grad.double()

    exact = gradient(torch.float64)
    own, onednn = (
        float((gradient(torch.float32, onednn=on) - exact).abs().max()) for on in (False, True)
    )
    assert onednn > 3 * own


@pytest.mark.usefixtures("one_torch_thread")
@pytest.mark.parametrize(
    ("recipe", "changes"),
    [
        (DENSE, {"learning_rate": 2.9}),
        (NIELSEN, {"weight_decay": 4.0}),
        (NIELSEN, {"weight_decay": 5 / 136, "weight_decay_sense": "torch"}),
        (AUGMENTED, {"learning_rate_schedule": ()}),
        pytest.param(DROPOUT, {"momentum": 0.1}, marks=pytest.mark.slow),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_different_protocol_is_detected(
    recipe: Recipe, changes: dict[str, Any], digits: Dataset
) -> None:
    made = _replay(recipe, digits, dataclasses.replace(recipe, **changes))
    assert made.distance.values[-1] > 10 * max(max(one.values) for one in made.perturbed)
    assert made.distance.values[-1] > 1e-4
    assert made.ours.test_loss != pytest.approx(made.theirs.test_loss, rel=1e-5)


def test_first_step_with_different_numbers_of_correct_predictions_is_found() -> None:
    pytest.importorskip("torch")
    from experiments.references.torch_replay import divergence

    # Loss and number of correct predictions of five steps.
    ours = np.array([[2.0, 1], [1.5, 3], [1.0, 5], [0.5, 7], [0.2, 9]])
    theirs = ours + np.array([[0.1, 0], [-0.2, 0], [0.9, 1], [0, 0], [0, 2]])
    assert divergence(np.stack([ours, theirs])) == (3, pytest.approx(0.2))
    assert divergence(np.stack([ours, ours])) == (None, 0.0)


@pytest.mark.usefixtures("one_torch_thread")
def test_runs_that_cannot_be_replayed_are_refused(digits: Dataset) -> None:
    with pytest.raises(UsageError, match="training mode"):
        _replay(dataclasses.replace(NORMALIZED, evaluation="training_mode"), digits)
    with pytest.raises(UsageError, match="no PyTorch reference of expanded_double_fc"):
        _replay(
            dataclasses.replace(NIELSEN, model="expanded_double_fc", model_args={"hidden": 20}),
            digits,
        )
    with pytest.raises(Failure, match=r"diverged in epoch 1: a loss is not a finite number\.$"):
        _replay(
            dataclasses.replace(NIELSEN, learning_rate=1e30, weight_decay=0.0, epochs=1), digits
        )


def _run(seed: int = 0, epochs: int = 2) -> WholeRun:
    columns = ([2.0, 1.0], [0.1, 0.25])
    side = Side(*columns, [1.75, 0.5], [0.5, 0.7136])
    other = Side(*columns, [1.75, 0.500125], [0.5012, 0.7133])
    replay = Replay(
        ours=Side(*(column[:epochs] for column in side)),
        theirs=Side(*(column[:epochs] for column in other)),
        distance=Distance([0, 12][:epochs], [1e-7, 2e-5][:epochs]),
        perturbed=[
            Distance([1, 15][:epochs], [3e-7, 4e-5][:epochs]),
            Distance([1, 9][:epochs], [1e-7, 1e-5][:epochs]),
        ],
        first_step=300 if epochs > 1 else None,
        losses=2e-6,
        steps=235 * epochs,
    )
    return WholeRun(
        row=ROW,
        recipe=dataclasses.replace(find(ROW).recipe, seed=seed),
        date="2026-01-31",
        environment={
            "python": "3.11.0",
            "packages": {"jax": "0.1", "torch": "0.2"},
            "machine": "Linux x86_64",
            "git": {"revision": "1234567890abcdef", "dirty": False},
        },
        replay=replay,
    )


def test_page_is_up_to_date_with_the_stored_runs() -> None:
    runs = whole_runs.load()
    assert (whole_runs.FOLDER / "whole_runs.md").read_text() == whole_run_page.page(runs)
    for run in runs:
        assert run.recipe == dataclasses.replace(find(run.row).recipe, seed=run.recipe.seed)
        assert run.environment["git"]["dirty"] is False


def test_every_article_has_a_run_that_was_replayed_to_its_end() -> None:
    # README.md says so.
    replayed = {
        run.row.partition("/")[0] for run in whole_runs.load() if run.epochs == run.recipe.epochs
    }
    assert replayed >= {article.name for article in all_articles() if article.letter in "ABCDEF"}


def test_page_shows_the_results_and_the_record(tmp_path: Path) -> None:
    run = _run(seed=3)
    text = whole_run_page.page([run], tmp_path)
    assert (
        "| D | `lenet` | 3 | 2 of 5 | 470 | 71.36 | 71.33 |  | 0.12 | 12, 9 to 15 | 300 | 2e-06"
        " | 2e-05, 1e-05 to 4e-05 | 2 |\n" in text
    )
    assert "| 1 | 50.00 | 50.12 |  | 1.750000 | 1.750000 | 0, 1 |\n" in text
    assert "torch 0.2 with oneDNN, Linux x86_64" in text
    assert "revision 1234567890ab: `lenet_fashion_mnist/lenet` 3." in text
    now = dataclasses.replace(run, environment={**run.environment, "onednn": False})
    assert "torch 0.2 without oneDNN, Linux x86_64" in whole_run_page.page([now], tmp_path)
    rows = [
        Evaluation(
            epoch=epoch,
            step=235 * epoch,
            train_loss=1.0,
            train_accuracy=0.5,
            test_loss=1.0,
            test_accuracy=0.1 * epoch,
            images_per_second=1.0,
            seconds=1.0,
        )
        for epoch in range(1, 6)
    ]
    labels = np.arange(10)
    made = Record.of_run(
        run.recipe,
        rows,
        5 * 235,
        np.where(labels < 5, labels, 0),
        labels,
        {
            **{"git": None, "seeds_together": 1},
            "device": {"platform": "cpu", "kind": "cpu", "mesh": {"data": 1}},
        },
        article="lenet_fashion_mnist",
        row="lenet",
        framework="jax",
        seconds=1.0,
    )
    append(made, tmp_path)
    with_record = whole_run_page.page([run], tmp_path)
    assert "| 470 | 71.36 | 71.33 | 20.00 | 0.12 |" in with_record
    assert "| 1 | 50.00 | 50.12 | 10.00 |" in with_record


def test_page_names_runs_that_rounding_does_not_explain(tmp_path: Path) -> None:
    run = _run()
    assert "That is not so" not in whole_run_page.page([run], tmp_path)
    far = run.replay._replace(distance=Distance([0, 12], [1e-7, 9e-4]))
    text = whole_run_page.page([run, dataclasses.replace(run, replay=far)], tmp_path)
    words = " ".join(text.split())
    # PyTorch differs by 9e-4, the farthest perturbed run by 4e-5.
    assert f"is not so for `{ROW}` seed 0 (22 times, 12 different predictions)." in words


def test_longest_run_of_a_seed_is_kept(tmp_path: Path) -> None:
    for run in (_run(), _run(seed=1, epochs=1), _run(epochs=1), _run(seed=1)):
        whole_runs.append(run, tmp_path)
    assert whole_runs.load(tmp_path) == [_run(), _run(seed=1)]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"epochs": 3}, "seed or epochs"),
        ({"perturbed": [{"predictions": [0], "values": [0.0, 0.0]}]}, "different lengths"),
        ({"perturbed": []}, "no perturbed run"),
        ({"recipe_sha256": "0"}, "recipe_sha256"),
        ({"more": 1}, "other fields"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_damaged_line_is_an_error(change: dict[str, Any], reason: str, tmp_path: Path) -> None:
    whole_runs.append(_run(), tmp_path)
    with (tmp_path / "whole_runs.jsonl").open("a") as file:
        file.write(json.dumps(json.loads(_run().to_json()) | change) + "\n")
    with pytest.raises(Failure, match=rf"^Line 2 of .*whole_runs\.jsonl is damaged: .*{reason}"):
        whole_runs.load(tmp_path)


def test_run_is_added_to_a_file_without_a_final_newline(tmp_path: Path) -> None:
    (tmp_path / "whole_runs.jsonl").write_text(_run().to_json())
    whole_runs.append(_run(seed=1), tmp_path)
    assert whole_runs.load(tmp_path) == [_run(), _run(seed=1)]
    (tmp_path / "whole_runs.jsonl").write_bytes(b"\xff")
    with pytest.raises(Failure, match=r"^Line 1 of .* is damaged: 'utf-8' codec"):
        whole_runs.load(tmp_path)


def test_run_of_an_unknown_article_is_an_error() -> None:
    unknown = dataclasses.replace(_run(), row="renamed/lenet")
    with pytest.raises(UsageError, match="run of renamed/lenet, seed 0 is of no article; remove"):
        whole_run_page.page([unknown])


def test_failed_write_keeps_the_stored_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole_runs.append(_run(), tmp_path)

    def full(path: Path, content: bytes) -> None:
        with path.open("wb") as file:
            file.write(content[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(Failure, match="No space left on device"):
        whole_runs.append(_run(), tmp_path)
    assert whole_runs.load(tmp_path) == [_run()]
    assert [path.name for path in tmp_path.iterdir()] == ["whole_runs.jsonl"]


def test_command_does_not_repeat_stored_runs(tmp_path: Path) -> None:
    whole_runs.append(_run(), tmp_path)
    results = f"--results={tmp_path}"
    # There is no dataset, so it can't have trained.
    done = commands.run(tmp_path, "experiments.whole_runs", results, f"--row={ROW}", "--epochs=2")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{ROW} seed 0: 2 epochs are kept.\n"
    assert (tmp_path / "whole_runs.md").read_text() == whole_run_page.page([_run()])
    for arguments, sentence, code in (
        ([f"--row={ROW}", "--epochs=6"], f"{ROW} has 5 epochs; give no more of them", 2),
        (["--row=nothing/row"], "There is no article 'nothing'", 2),
        (["--epochs=1"], "--epochs is for a row; add --row=ARTICLE/ROW.", 2),
        (
            [f"--results={tmp_path}/nowhere"],
            "is no folder to be written to; give one to --results.",
            1,
        ),
    ):
        refused = commands.run(tmp_path, "experiments.whole_runs", results, *arguments)
        assert refused.returncode == code
        assert sentence in refused.stderr
        assert refused.stderr.count("\n") == 1
