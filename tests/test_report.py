"""The runs that a report is about, and errors."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import run

from mnist_jax.data import Dataset
from mnist_jax.errors import Failure, UsageError
from mnist_jax.reporting import contents
from mnist_jax.reporting.history import History, read_histories


def test_runs_are_sorted_by_seed(runs_folder: Path) -> None:
    found = read_histories([runs_folder / "seed-1", runs_folder / "seed-0"])
    assert [run.recipe.seed for run in found] == [0, 1]


def test_folder_without_a_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="has neither a run nor seed-N folders with runs"):
        read_histories([tmp_path])


def test_run_without_an_evaluation_is_an_error(runs_folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "environment.json"):
        shutil.copy(runs_folder / "seed-0" / name, tmp_path / name)
    with pytest.raises(Failure, match="has no evaluation and no checkpoint yet"):
        read_histories([tmp_path])


def test_runs_of_different_recipes_are_refused(runs_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(runs_folder / "seed-1", tmp_path / "run")
    config = json.loads((tmp_path / "run/config.json").read_text()) | {"learning_rate": 0.5}
    (tmp_path / "run/config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match=r"have learning_rate 0\.9 and 0\.5; give runs"):
        read_histories([runs_folder, tmp_path / "run"])


def test_run_given_twice_counts_once_but_a_copy_is_refused(
    runs_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(runs_folder / "seed-0")
    found = read_histories([runs_folder, runs_folder / "seed-1", tmp_path / "link"])
    assert [run.directory.path for run in found] == [runs_folder / f"seed-{i}" for i in (0, 1)]
    shutil.copytree(runs_folder / "seed-1", tmp_path / "again")
    with pytest.raises(UsageError, match=r"both have seed 1; give runs that differ"):
        read_histories([runs_folder, tmp_path / "again"])


def test_damaged_checkpoint_is_an_error(runs_folder: Path, digits: Dataset, tmp_path: Path) -> None:
    shutil.copytree(runs_folder / "seed-0", tmp_path / "run")
    largest = max((tmp_path / "run/checkpoints").rglob("d/*"), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    with pytest.raises(Failure, match="is damaged"):
        contents.report(read_histories([tmp_path / "run"]), digits, [0])


def test_unfinished_checkpoint_counts_as_none(
    runs_folder: Path, digits: Dataset, tmp_path: Path
) -> None:
    shutil.copytree(runs_folder / "seed-0", tmp_path / "run")
    (tmp_path / "run/result.json").unlink()
    for manifest in (tmp_path / "run/checkpoints").rglob("SHA256SUMS"):
        manifest.unlink()
    (history,) = read_histories([tmp_path / "run"])
    assert not history.has_network
    assert contents.report([history], digits, []).sections


def test_training_means_count_images(runs_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(runs_folder / "seed-0", tmp_path / "run")
    environment = json.loads((tmp_path / "run/environment.json").read_text())
    assert environment["train_images"] == 1500
    means = {}
    for images in (1500, 1365, None):  # The last of ten batches of 150 has 15; or is full.
        changed = environment | {"train_images": images}
        (tmp_path / "run/environment.json").write_text(json.dumps(changed))
        (history,) = read_histories([tmp_path / "run"])
        means[images] = history.by_epoch("train_loss").y[0]
    rows = [row.train_loss for row in history.rows[:3]]  # After 4, 8 and 10 steps.
    assert means[1500] == means[None] == pytest.approx(np.average(rows, weights=[4, 4, 2]))
    assert means[1365] == pytest.approx(np.average(rows, weights=[4, 4, 1.1]))


def test_unknown_image_is_an_error(histories: list[History], digits: Dataset) -> None:
    with pytest.raises(UsageError, match="There is no test image 297; give indices from 0 to 296"):
        contents.report(histories, digits, [3, 297])


def test_an_image_named_twice_is_shown_once(histories: list[History], digits: Dataset) -> None:
    once, twice = (
        [block for section in made.sections for block in section.blocks if hasattr(block, "name")]
        for made in (contents.report(histories, digits, images) for images in ([3], [3, 3]))
    )
    assert [block.name for block in twice] == [block.name for block in once]


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["--workdir=.", "--images=first"], 1, "neither a run"),
        (["--workdir={}", "--images=first"], 2, "--images is 'first'; give indices of test images"),
    ],
)
def test_misuse_is_one_sentence(
    runs_folder: Path, tmp_path: Path, arguments: list[str], code: int, sentence: str
) -> None:
    arguments = [argument.format(runs_folder) for argument in arguments]
    done = run(tmp_path, "mnist_jax.report", *arguments)
    assert done.returncode == code
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
