"""Publication of recorded runs, and of votes, as pretrained weights."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import run as run_command
from small_runs import DATASET, train_small

from experiments.evidence import publication
from experiments.evidence.publication import publish
from experiments.evidence.records import Record
from experiments.evidence.rows import Ensemble
from mnist_jax import load_pretrained
from mnist_jax.errors import Failure, UsageError
from mnist_jax.interchange import pretrained
from mnist_jax.interchange.pretrained import Origin
from mnist_jax.runs.directory import RunDirectory
from mnist_jax.runs.network import load_run

IMAGES = DATASET.test.images


@pytest.fixture(scope="module")
def recorded(
    tmp_path_factory: pytest.TempPathFactory,
) -> list[tuple[Record, RunDirectory]]:
    """Two runs with their records."""
    folder = tmp_path_factory.mktemp("recorded")
    runs = [RunDirectory(folder / name) for name in ("first", "second")]
    train_small([run.path for run in runs])
    return [(_record(run, str(seed + 1) * 40), run) for seed, run in enumerate(runs)]


def _record(run: RunDirectory, revision: str) -> Record:
    result = run.result()
    assert result is not None
    return Record.of_run(
        run.recipe(),
        run.metrics(),
        result["selected_step"],
        run.predictions(),
        DATASET.test.labels,
        run.environment() | {"git": {"revision": revision, "dirty": False}},
        article="toy",
        row="plain",
        framework="jax",
        seconds=1.0,
        probabilities=load_run(run.path).probabilities(IMAGES),
    )


def test_published_weights_are_those_of_the_run(
    recorded: list[tuple[Record, RunDirectory]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = recorded[:1]
    ((record, run),) = runs
    folder = tmp_path / "folder"
    monkeypatch.setattr(pretrained, "FOLDER", folder)
    assert publish("toy/plain", runs, folder) == folder / "shallow/model.safetensors"
    origin = Origin.load(folder / "shallow")
    assert origin.correct == (run.predictions() == DATASET.test.labels).sum()
    assert (origin.recipe, origin.revisions) == (run.recipe(), {0: "1" * 40})
    ours, theirs = load_pretrained("shallow"), load_run(run.path)
    assert ours.step == theirs.step == record.selected_step
    np.testing.assert_array_equal(ours.probabilities(IMAGES), theirs.probabilities(IMAGES))
    monkeypatch.setattr(publication, "LARGEST_IN_PACKAGE", origin.size)
    large = folder / "shallow" / origin.release
    assert publish("toy/plain", runs, folder) == large
    assert sorted((folder / "shallow").iterdir()) == sorted([folder / "shallow/config.json", large])
    again = load_pretrained("shallow")
    np.testing.assert_array_equal(again.probabilities(IMAGES), ours.probabilities(IMAGES))
    monkeypatch.undo()
    publish("toy/plain", runs, folder)
    files = sorted(path.name for path in (folder / "shallow").iterdir())
    assert files == ["config.json", "model.safetensors"]


_VOTE = Ensemble(id="committee", members="plain", size=2, figures=(), vote="mean")


def test_published_ensemble_votes_by_mean_probability(
    recorded: list[tuple[Record, RunDirectory]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    written = publish("toy/committee", recorded, tmp_path, _VOTE)
    assert written == tmp_path / "toy_committee/model.safetensors"
    origin = Origin.load(tmp_path / "toy_committee")
    assert origin.revisions == {0: "1" * 40, 1: "2" * 40}
    first, second = (load_run(one.path).probabilities(IMAGES) for _, one in recorded)
    assert np.abs(first - second).max() > 0.03
    run = load_pretrained("toy_committee")
    assert (run.voters, run.recipe) == (2, recorded[0][1].recipe())
    np.testing.assert_allclose(run.probabilities(IMAGES), (first + second) / 2, rtol=1e-5)
    assert origin.correct == ((first + second).argmax(-1) == DATASET.test.labels).sum()
    with pytest.raises(UsageError, match=r"did you mean 'toy_committee'\? The .*, toy_committee\."):
        load_pretrained("toy_comittee")


@pytest.mark.parametrize("what", ["vote", "loss"])
def test_only_means_of_softmaxes_are_published(
    what: str,
    recorded: list[tuple[Record, RunDirectory]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vote = dataclasses.replace(_VOTE, vote="majority" if what == "vote" else "mean")
    if what == "loss":
        squared = dataclasses.replace(recorded[0][0].recipe, loss="mean_squared_error")
        recorded = [(dataclasses.replace(recorded[0][0], recipe=squared), recorded[0][1])]
        monkeypatch.setattr(RunDirectory, "recipe", lambda _: squared)
    with pytest.raises(Failure, match="not a vote by the mean of softmaxes"):
        publish("toy/committee", recorded, tmp_path, vote)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("what", ["predictions", "recipe", "code"])
def test_only_the_recorded_run_is_published(
    what: str, recorded: list[tuple[Record, RunDirectory]], tmp_path: Path
) -> None:
    (record, run), second = recorded
    changes: dict[str, dict[str, Any]] = {
        "predictions": {"predictions": (record.predictions + 1) % 10},
        "recipe": {"recipe": dataclasses.replace(record.recipe, seed=7)},
        "code": {"environment": {"git": {"revision": "1" * 40, "dirty": True}}},
    }
    other = dataclasses.replace(record, **changes[what])
    sentence = "uncommitted" if what == "code" else "not the recorded one"
    for runs, vote in (([(other, run)], None), ([second, (other, run)], _VOTE)):
        with pytest.raises(Failure, match=sentence):
            publish("toy/plain", runs, tmp_path / "folder", vote)
        assert not (tmp_path / "folder").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "No row given; add --experiment=ARTICLE/ROW."),
        (["--experiment=nielsen/none"], "nielsen has no row 'none'"),
        (["--experiment=nielsen/shallow", "--seed=999"], "Seed 999 of nielsen/shallow has no"),
        (["--experiment=frontier/committee", "--seed=0"], "several seeds; leave out --seed."),
        (["--experiment=ttdoucet/committee"], "A member of ttdoucet/committee has no record;"),
    ],
)
def test_misuse_of_publish_is_refused_in_one_sentence(
    arguments: list[str], sentence: str, tmp_path: Path
) -> None:
    done = run_command(tmp_path, "experiments.publish", *arguments)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1
