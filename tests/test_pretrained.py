"""Pretrained weights: shipped and downloaded."""

import dataclasses
import hashlib
import os
import re
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import yaml
from commands import run as run_command
from flax import nnx
from small_runs import DATASET

from experiments.evidence import analysis, cards, rendering
from experiments.evidence.records import RESULTS, Record
from experiments.evidence.results import Results
from experiments.evidence.rows import Ensemble, all_articles
from experiments.references.ours import ARRAYS, make_network
from mnist_jax import load_pretrained
from mnist_jax.data import DatasetNotFound, download, load_dataset
from mnist_jax.errors import Failure, UsageError
from mnist_jax.interchange import pretrained, pytorch
from mnist_jax.interchange.pretrained import FOLDER, LARGEST_IN_PACKAGE, Origin, pretrained_names
from mnist_jax.interchange.tensor_files import write_tensors
from mnist_jax.models import model_entry, model_names

IMAGES = DATASET.test.images
# Trained while gradients of biases were wrong (CHANGELOG.md): their rows are to be run again.
TO_BE_TRAINED_AGAIN = ("frontier_committee", "strided_cnn")


@pytest.fixture(scope="module")
def results() -> Results:
    return Results.load(all_articles(), RESULTS)


def test_pages_can_be_made_while_a_record_is_missing(tmp_path: Path) -> None:
    """To repeat a recorded run, `experiments/README.md` says to remove its line."""
    origin = Origin.load(FOLDER / "batchnorm_cnn")
    removed = ('"seed": 0,', f'"row": "{origin.row.partition("/")[2]}",')
    for path in RESULTS.glob("*.jsonl"):
        lines = path.read_text().splitlines(keepends=True)
        kept = [line for line in lines if not any(part in line for part in removed)]
        (tmp_path / path.name).write_text("".join(kept))
    without = Results.load(all_articles(), tmp_path)
    assert not without.by_seed(origin.row)
    assert f"the row `{origin.row}`" not in cards.card(origin, without)
    best = rendering.best(without)
    assert "the best mean on MNIST so far is that of" in best
    assert "vote" not in best
    assert rendering.best(Results.load([], tmp_path)) == ""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.xfail(strict=True)] * (name in TO_BE_TRAINED_AGAIN))
        for name in pretrained_names()
    ],
)
def test_shipped_weights_are_those_of_a_record_as_their_card_says(
    name: str, results: Results
) -> None:
    origin = Origin.load(FOLDER / name)
    of_row, records, correct = _recorded(origin, results)
    assert origin.name == name
    assert origin.revisions == {one.seed: one.environment["git"]["revision"] for one in records}
    assert origin.recipe == records[0].recipe
    assert {origin.step} == {record.selected_step for record in records}
    assert {origin.images} == {len(record.correct) for record in records}
    assert origin.correct == correct
    text = (FOLDER / name / "README.md").read_text()
    assert text == cards.card(origin, results)
    _, metadata, page = text.split("---\n", 2)
    card = yaml.safe_load(metadata)
    (result,) = card["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "accuracy", "value": origin.correct / origin.images}]
    assert card["license"] == "mit"
    assert card["datasets"] == [result["dataset"]["type"]]
    assert f"{origin.correct:,} of {origin.images:,}" in page
    assert f"(n = {len(of_row)})" in page
    assert origin.sha256 in page
    earlier = set()
    for record in records:
        began = {one["git"]["revision"] for one in record.environment.get("before", [])}
        earlier |= began - {origin.revisions[record.seed]}
    assert all(f"`{revision[:7]}`" in page for revision in earlier)
    assert ("reproduced up to rounding" in page) == bool(earlier)
    assert ("identical bit for bit" in page) == (not earlier)
    small = origin.size < LARGEST_IN_PACKAGE
    (weights,) = (FOLDER / name).glob("*.safetensors")
    assert weights.name == ("model.safetensors" if small else origin.release)
    assert weights.stat().st_size == origin.size
    assert load_pretrained(name).recipe == origin.recipe


def test_card_without_its_record_makes_no_claim_of_identity(results: Results) -> None:
    origin = Origin.load(FOLDER / "dense")
    (seed,) = origin.revisions
    runs = {
        key: [run for run in of_row if run.seed != seed] for key, of_row in results.runs.items()
    }
    page = cards.card(origin, dataclasses.replace(results, runs=runs))
    assert f"the record of seed {seed} was removed" in page
    assert "identical bit for bit" not in page


def test_card_of_an_ensemble_retrains_each_member_at_its_revision(results: Results) -> None:
    row = results.by_seed("nielsen/double_fc_dropout")
    origin = Origin(
        row="nielsen/ensemble",
        recipe=row[0].recipe,
        step=1,
        correct=9973,
        images=10_000,
        revisions={0: "a" * 40, 1: "a" * 40, 2: "b" * 40},
        sha256="0" * 64,
        size=1,
    )
    page = cards.card(origin, results)
    assert "\n# nielsen_ensemble\n\nAn ensemble of 3 networks `double_fc_dropout`, which" in page
    assert "| this file, the vote of seeds 0 to 2 | 99.73%: 9,973 of 10,000 |" in page
    assert re.search(
        rf"\| the row `nielsen/double_fc_dropout` \| \S+ ± \S+% \(n = {len(row)}\) \|", page
    )
    train = "python -m experiments.nielsen --experiment=double_fc_dropout"
    where = "--results=again --workdir=again"
    assert (
        f"""
git checkout {"a" * 40}
{train} --num_seeds=2 --first_seed=0 \\
  {where}
git checkout {"b" * 40}
{train} --num_seeds=1 --first_seed=2 \\
  {where}
```

retrain them from their seeds."""
        in page
    )
    assert "stated in their records" in page


def _recorded(origin: Origin, results: Results) -> tuple[dict[int, Record], list[Record], int]:
    """The records of a file's row, those of its networks, and how many images these get right."""
    article, _, _ = origin.row.partition("/")
    match results.entry(origin.row):
        case Ensemble() as vote:
            records = results.by_seed(f"{article}/{vote.members}")
            voters = [records[seed] for seed in range(vote.size)]
            return records, voters, int(analysis.correct_votes(vote, voters).sum())
    records = results.by_seed(origin.row)
    record = records[origin.recipe.seed]
    return records, [record], int(record.correct.sum())


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name not in model_names()))
        for name in pretrained_names()
    ],
)
def test_shipped_weights_reproduce_the_accuracy_of_card_and_record(
    name: str, results: Results
) -> None:
    origin = Origin.load(FOLDER / name)
    try:
        run, test = load_pretrained(name), load_dataset(origin.recipe.dataset).test
    except DatasetNotFound as error:
        pytest.skip(str(error))
    correct = int((run.probabilities(test.images).argmax(-1) == test.labels).sum())
    (stated,) = re.findall(r"%: ([\d,]+) of 10,000", (FOLDER / name / "README.md").read_text())
    assert correct == int(stated.replace(",", ""))
    if name not in TO_BE_TRAINED_AGAIN:
        assert correct == _recorded(origin, results)[-1]


@pytest.mark.skipif("MNIST_JAX_DATA_DIR" not in os.environ, reason="needs a folder with MNIST")
def test_evaluate_uses_pretrained_weights(tmp_path: Path) -> None:
    flags = ("--model=dense", f"--data_dir={os.environ['MNIST_JAX_DATA_DIR']}")
    done = run_command(tmp_path, "mnist_jax.evaluate", *flags)
    assert done.returncode == 0, done.stderr
    (stated,) = re.findall(
        r"(\d+\.\d+%): [\d,]+ of 10,000", (FOLDER / "dense" / "README.md").read_text()
    )
    assert f"test accuracy {stated} of 10,000 images" in done.stdout


def test_unknown_network_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'shallow'"):
        load_pretrained("shalow")


def test_network_without_pretrained_weights_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    with pytest.raises(Failure, match=r"no pretrained weights of lenet \(available: none\);"):
        load_pretrained("lenet")


class _Server(ThreadingHTTPServer):
    requests = 0

    def finish_request(self, *arguments: object) -> None:
        self.requests += 1
        super().finish_request(*arguments)  # type: ignore[arg-type]


class _Handler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Keeps the server silent."""


@pytest.fixture
def releases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Server]:
    """A server of the files in the folder `releases`."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(download, "PATIENCE_SECONDS", 1.0)
    folder = tmp_path / "releases"
    folder.mkdir()
    with _Server(("127.0.0.1", 0), partial(_Handler, directory=folder)) as server:
        monkeypatch.setenv("MNIST_JAX_RELEASES", f"http://127.0.0.1:{server.server_port}/")
        thread = Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Origin:
    """A network whose weights are a release file; the file is at `theirs.safetensors`."""
    network, theirs = make_network("dense", np.float32), tmp_path / "theirs.safetensors"
    layers = pytorch.by_layer(nnx.state(network, ARRAYS))
    write_tensors(pytorch.to_torch(layers, pytorch.torch_layers(network, {})), theirs)
    content, recipe = theirs.read_bytes(), model_entry("dense").recipe
    origin = Origin(
        row="nested_software/dense",
        recipe=recipe,
        step=1,
        correct=1,
        images=10_000,
        revisions={recipe.seed: "0" * 40},
        sha256=hashlib.sha256(content).hexdigest(),
        size=len(content),
    )
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path / "folder")
    (tmp_path / "folder" / "dense").mkdir(parents=True)
    (tmp_path / "folder" / "dense" / "config.json").write_text(origin.to_json())
    return origin


def test_release_file_is_downloaded_once(releases: _Server, large: Origin, tmp_path: Path) -> None:
    theirs = (tmp_path / "theirs.safetensors").read_bytes()
    (tmp_path / "releases" / large.release).write_bytes(theirs)
    first = load_pretrained("dense")
    again = load_pretrained("dense")
    assert releases.requests == 1
    assert (tmp_path / "cache/mnist_jax/pretrained" / large.release).read_bytes() == theirs
    np.testing.assert_array_equal(first.probabilities(IMAGES), again.probabilities(IMAGES))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "got HTTP status 404."),
        (b"another", "has another SHA-256."),
        (10**6 * b"0", "sent more than {size:,} bytes."),
    ],
)
def test_wrong_release_file_is_refused_and_leaves_nothing(
    content: bytes | None, sentence: str, releases: _Server, large: Origin, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "releases" / large.release).write_bytes(content)
    with pytest.raises(Failure) as caught:
        load_pretrained("dense")
    assert str(caught.value).startswith(
        "The weights of dense (0.3 MB) can't be downloaded: http://127"
    )
    assert str(caught.value).endswith(f"{large.release} {sentence.format(size=large.size)}")
    assert releases.requests == 1
    assert not (tmp_path / "cache").exists()


def test_release_folder_may_be_a_path(
    large: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("MNIST_JAX_RELEASES", str(tmp_path / "releases"))
    with pytest.raises(Failure, match=r"can't be reached .*No such file"):
        load_pretrained("dense")
    (tmp_path / "releases").mkdir()
    (tmp_path / "theirs.safetensors").rename(tmp_path / "releases" / large.release)
    assert load_pretrained("dense").step == 1


def test_error_without_an_address_says_where_to_put_the_file(
    large: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("MNIST_JAX_RELEASES", raising=False)
    with pytest.raises(Failure) as caught:
        load_pretrained("dense")
    place = tmp_path / "cache/mnist_jax/pretrained"
    assert f"put {large.release} into {place}, or set $MNIST_JAX_RELEASES" in str(caught.value)
    place.mkdir(parents=True)
    (tmp_path / "theirs.safetensors").rename(place / large.release)
    assert load_pretrained("dense").step == 1


def test_damaged_files_are_refused(large: Origin, tmp_path: Path) -> None:
    content = bytearray((tmp_path / "theirs.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "folder/dense/model.safetensors").write_bytes(content)
    sentence = f"instead of {large.sha256[:12]}….; restore it from the repository or install again"
    with pytest.raises(Failure, match=sentence):
        load_pretrained("dense")
    wrong: list[dict[str, Any]] = [{"revisions": {}}, {"row": 7}, {"step": "x"}, {"sha256": 5}]
    for text in ("{}", *(dataclasses.replace(large, **one).to_json() for one in wrong)):
        (tmp_path / "folder/dense/config.json").write_text(text)
        with pytest.raises(Failure, match=r"config\.json is damaged or of another version"):
            load_pretrained("dense")


def test_unwritable_cache_is_an_error(releases: _Server, large: Origin, tmp_path: Path) -> None:
    (tmp_path / "theirs.safetensors").rename(tmp_path / "releases" / large.release)
    (tmp_path / "cache").touch()
    with pytest.raises(Failure, match=r"can't be written .*give another XDG_CACHE_HOME"):
        load_pretrained("dense")
    assert releases.requests == 1
