"""The benchmark: its arithmetic, its competitors' networks, its workers and its pages."""

import json
import os
import re
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import commands
import jax
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from flax import nnx

from experiments import benchmark
from experiments.contenders import measurements, page, scaling
from experiments.contenders.exchanges import exchanges, statistics
from experiments.contenders.job import MATMUL, Job, whole_batches
from experiments.contenders.measurements import Entrant, Spread
from experiments.contenders.ours import augmented
from experiments.contenders.saving import saves
from experiments.contenders.scaling import Link
from experiments.contenders.stock_flax import stock
from experiments.contenders.worker import Contender, Reading
from experiments.evidence import sections
from experiments.references.ours import bare_recipe
from mnist_jax.data import load_dataset
from mnist_jax.errors import Failure, UsageError
from mnist_jax.models import abstract_model, model_entry, model_names
from mnist_jax.models.layers import (
    BatchNorm,
    Conv,
    Dropout,
    Linear,
    MaxPool,
    Network,
    Residual,
    avg_pool,
    flatten,
    relu,
)
from mnist_jax.transforms import Affine

RECIPE = replace(model_entry("dense").recipe, dataset="digits", batch_size=100)


def test_flops_of_dbl_conv_relu_by_hand() -> None:
    model = abstract_model("dbl_conv_relu")
    conv1 = 24 * 24 * (5 * 5 * 1) * 20
    conv2 = 8 * 8 * (5 * 5 * 20) * 40
    dense = 640 * 100 + 100 * 10
    # Two operations per multiplication, three products per layer, two for the first.
    assert measurements.training_flops(model) == 2 * (2 * conv1 + 3 * (conv2 + dense))


def test_ratios_are_taken_round_by_round() -> None:
    ours, other = [30.0, 10.0, 20.0], [10.0, 5.0, 5.0]
    assert Spread.of_ratios(ours, other) == (3.0, 2.0, 4.0)
    assert Spread.of(ours) == (20.0, 10.0, 30.0)


def test_results_compare_equal_numbers_of_seeds() -> None:
    rates = {
        Entrant(MATMUL, 1): [1e6, 2e6],
        Entrant("ours", 1): [30.0, 10.0],
        Entrant("torch-eager", 1): [10.0, 5.0],
        Entrant("torch-compile", 1): [9.0, 7.0],
        Entrant("ours", 2): [60.0, 120.0],
        Entrant("torch-eager", 2): [20.0, 30.0],
        Entrant("torch-compile", 3): [20.0, 30.0],
    }
    readings = {
        entrant: [Reading(rate, memory=i) for i, rate in enumerate(rounds)]
        for entrant, rounds in rates.items()
    }
    rows = json.loads(json.dumps(measurements.compared("train", RECIPE, readings, flops=1000)))
    by_entrant = {(row["variant"], row["seeds"]): row for row in rows}
    assert len(by_entrant) == len(rates) - 1
    eager = by_entrant["torch-eager", 1]
    assert {key: eager[key] for key in ("model", "batch_size", "task")} == {
        "model": "dense",
        "batch_size": 100,
        "task": "train",
    }
    assert eager["images_per_second"] == 7.5
    assert eager["images_per_second_range"] == [5.0, 10.0]
    assert (eager["ours_over_this"], eager["ours_over_this_range"]) == (2.5, [2.0, 3.0])
    assert eager["fraction_of_matmul_peak"] == pytest.approx((0.01 + 0.0025) / 2)
    assert eager["peak_memory_mib"] == 1
    assert by_entrant["torch-eager", 2]["ours_over_this"] == 3.5
    assert by_entrant["torch-compile", 3]["ours_over_this"] is None
    best = {entrant for entrant, row in by_entrant.items() if row["best_of_pytorch"]}
    assert best == {("torch-compile", 1), ("torch-eager", 2), ("torch-compile", 3)}
    head, _, one, two = page.table(rows).splitlines()
    assert head.split(" | ")[3:] == [
        *("ours, images/s", "of peak", "÷ best PyTorch", "÷ `torch.compile`"),
        "MiB: ours, PyTorch |",
    ]
    assert one == "| dense | 100 | 1 | 20 | 2% | 2.38 (1.43 to 3.33) | 2.38 (1.43 to 3.33) | 1, 1 |"
    assert two == "| dense | 100 | 2 | 90 | 6% | 3.50 (3.00 to 4.00) |  | 1, 1 |"


def test_pages_are_up_to_date_with_the_stored_measurements() -> None:
    pages = page.pages()
    for path, text in pages.items():
        assert text == path.read_text()
    kept = {f"benchmarks/{path.name}" for path in page.KEPT.glob("*.json")}
    assert {name for path in pages for name in sections.names(path)} == {*kept, "links"}


def _stored(**head: Any) -> dict[str, Any]:
    """A file of measurements as it is stored: of saving one network, at two batch sizes."""
    row = {"task": "save", "bytes": 1000, "seconds": 1e-3, "background_seconds": 1e-3}
    row |= {"seconds_range": [1e-3, 1e-3], "background_seconds_range": [1e-3, 1e-3]}
    rows = [row | {"model": "lenet", "batch_size": size} for size in (10, 100)]
    made = measurements.circumstances("experiments.benchmark")
    return made | {"git": {"revision": "a" * 40, "dirty": False}} | head | {"rows": rows}


def test_page_names_the_revision_of_rows_measured_later() -> None:
    kept = _stored()
    assert ": revision" not in page._part(kept)
    kept["rows"] = [row | {"revision": "a" * 40} for row in kept["rows"]]
    assert ": revision" not in page._part(kept)
    kept["rows"].append(kept["rows"][0] | {"model": "dense", "revision": "b" * 40})
    kept["rows"].append(kept["rows"][1] | {"model": "dense", "revision": "b" * 40})
    assert "start. `dense` at 10, 100: revision bbbbbbb.\n" in page._part(kept)


@pytest.mark.parametrize(("busy", "evidence"), [(None, True), (0.9, True), (1.0, False)])
def test_measurements_on_a_busy_machine_are_no_evidence(busy: float | None, evidence: bool) -> None:
    text = page.circumstances(_stored(busy_before=busy))
    assert ("no evidence of speed" not in text) == evidence
    assert ("load average" in text) == (busy is not None)


def test_every_row_records_its_revision(tmp_path: Path) -> None:
    arguments = ["--task=save", "--models=dense", "--rounds=1", f"--json={tmp_path}/kept.json"]
    done = commands.run(tmp_path, "experiments.benchmark", *arguments)
    assert done.returncode == 0, done.stderr
    kept = json.loads((tmp_path / "kept.json").read_text())
    assert kept["command"].split()[:3] == ["python", "-m", "experiments.benchmark"]
    assert [row["revision"] for row in kept["rows"]] == [kept["git"]["revision"]]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--models=dense,tpyo"], "There is no model 'tpyo'; the models are"),
        (["--models=dense", "--variants=flax-steps", "--seeds=2"], "Nothing to measure; give"),
        (["--models=dense", "--batch_sizes=70000"], "give smaller --batch_sizes."),
        (["--models=dense", "--json=."], "--json is ., no file in a folder"),
    ],
)
def test_misuse_is_reported_before_anything_is_measured(
    arguments: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.benchmark.Contender", None)
    with flagsaver.flagsaver():
        flags.FLAGS(["benchmark", *arguments])
        with pytest.raises(UsageError, match=re.escape(sentence)):
            benchmark.main([])


def test_readme_quotes_the_measured_ratios() -> None:
    def ratios(file: str, letters: str) -> str:
        found = []
        for row in json.loads((page.KEPT / file).read_text())["rows"]:
            entry = model_entry(row["model"])
            own = file == "evaluation.json" or row["batch_size"] == entry.recipe.batch_size
            convolutional = file == "training.json" or row["model"] not in ("dense", "shallow")
            if row["best_of_pytorch"] and own and convolutional and entry.article[0] in letters:
                found.append(row["ours_over_this"])
        return f"{min(found):.1f} to {max(found):.1f} times"

    words = " ".join((page.KEPT.parents[1] / "README.md").read_text().split())
    evaluated = json.loads((page.KEPT / "evaluation.json").read_text())["rows"]
    assert {model_entry(row["model"]).article[0] for row in evaluated} >= set("ABCDEF")
    assert "networks with convolutions are evaluated at" in words
    claims = (
        ("training.json", "AB"),
        ("training.json", "CDEF"),
        ("evaluation.json", "ABCDEF"),
        ("xeon.json", "ABCDEF"),
    )
    claimed = re.findall(r"[\d.]+ to [\d.]+ times", words.partition("**Fast.**")[2])[: len(claims)]
    assert claimed == [ratios(*claim) for claim in claims]


def test_stock_flax_computes_the_same_network() -> None:
    @nnx.jit  # One program compiles faster than many small ones.
    def make(key: jax.Array) -> Network:
        rngs = nnx.Rngs(key)
        return Network(
            conv1=Conv(1, 2, 5, padding=1, rngs=rngs),
            act1=relu,
            pool1=avg_pool,
            conv2=Conv(2, 3, 3, rngs=rngs),
            pool2=MaxPool(padding=1),
            bn2=BatchNorm(3, epsilon=0.1, rngs=rngs),
            conv3=Conv(3, 3, 5, strides=2, padding="SAME", rngs=rngs),
            res3=Residual(conv=Conv(3, 3, 3, padding=1, rngs=rngs), act=relu),
            pool3=MaxPool(padding="SAME"),
            flatten=flatten,
            dropout=Dropout(0.5),
            out=Linear(2 * 2 * 3, 10, rngs=rngs),
        )

    model = make(jax.random.key(0))
    other = stock(model)
    layers = model.named_layers().values()
    pairs: list[tuple[Any, Any]] = list(zip(layers, other.layers, strict=True))
    (residual,) = (pair for pair in pairs if isinstance(pair[0], Residual))
    pairs.append((residual[0].conv, residual[1].layers[0]))
    for ours, theirs in pairs:
        if isinstance(theirs, nnx.Conv | nnx.Linear | nnx.BatchNorm):
            assert type(theirs).__module__.startswith("flax.")
            nnx.update(theirs, nnx.state(ours))
    images = np.random.default_rng(1).normal(size=(2, 28, 28, 1)).astype(np.float32)
    evaluated = [nnx.view(m, deterministic=True, use_running_average=True) for m in (model, other)]
    ours, theirs = (nnx.jit(lambda m, x: m(x))(network, images) for network in evaluated)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", model_names())
def test_pytorch_network_has_parameters_of_the_same_sizes(name: str) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    from experiments.references.torch_runs import reference

    recipe = bare_recipe(name)
    network = reference(recipe, steps_per_epoch=100).network()
    ours = abstract_model(name, **recipe.model_args)
    theirs = sorted(p.numel() for p in network.parameters())
    assert sorted(leaf.size for leaf in jax.tree.leaves(nnx.state(ours, nnx.Param))) == theirs


def test_weight_decay_of_article_a_excludes_biases_in_pytorch() -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    from experiments.references.torch_runs import reference

    author = reference(model_entry("expanded_double_fc").recipe, steps_per_epoch=100)
    optimizer = author.optimizer(author.network().parameters())
    decays = {
        p.ndim > 1: group["weight_decay"]
        for group in optimizer.param_groups
        for p in group["params"]
    }
    assert decays == {True: pytest.approx(0.1 / 100), False: 0}


def test_augmented_training_uses_the_recipe_s_transforms_or_those_of_h() -> None:
    own = model_entry("residual_cnn").recipe.augmentation
    assert augmented(bare_recipe("residual_cnn")).augmentation == own
    assert augmented(RECIPE) == replace(RECIPE, augmentation=(Affine(),))


def test_incomplete_last_batches_are_dropped() -> None:
    dataset = load_dataset("digits")
    assert len(dataset.train) % 400
    assert len(whole_batches(dataset, 400).train) % 400 == 0
    with pytest.raises(UsageError, match="smaller --batch_sizes"):
        whole_batches(dataset, 100_000)


def test_worker_reports_its_rate_and_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", commands.environment(tmp_path)["XDG_CACHE_HOME"])
    contender = Contender(Job(variant="ours", task="train", recipe=RECIPE, seeds=1, threads=1))
    rate, memory = contender.measure(0.01)
    contender.close()
    assert rate > 0
    assert memory > 10


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
@pytest.mark.parametrize("variant", ["two-hosts", "all-reduce"])
def test_two_hosts_take_the_same_steps(
    variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", commands.environment(tmp_path)["XDG_CACHE_HOME"])
    with closing(benchmark._host(variant, RECIPE, 2)) as contender:
        assert contender.measure(0.01).rate > 0
        images = [turn.images for turn in contender._turns(7)]
    # Both hosts take part in an all-reduce, which counts once; each trains half of every batch.
    assert images == ([3.5, 3.5] if variant == "all-reduce" else [350, 350])


def test_ring_all_reduce_takes_the_time_computed_by_hand() -> None:
    link = Link("slow", latency=1e-3, bandwidth=1e6)
    # Between two hosts: two messages per exchange, and every byte is sent once.
    assert link.all_reduce(3, 500_000, 2) == pytest.approx(3 * 2e-3 + 0.5)
    assert link.all_reduce(3, 500_000, 5) == pytest.approx(3 * 8e-3 + 0.8)
    assert link.all_reduce(3, 500_000, 1) == 0
    # The computing time for which five hosts are as fast as one.
    computing = scaling.least_computing(0.8, 5)
    assert computing / 5 + 0.8 == pytest.approx(computing)


def test_measured_times_of_two_hosts_are_compared_with_the_model() -> None:
    milliseconds = {
        scaling.ALONE: [8.0, 10.0, 9.0],
        scaling.HALF: [4.0, 6.0, 5.0],
        scaling.ALL_REDUCE: [1.0, 1.0, 2.0],
        scaling.TWO: [6.0, 5.0, 7.0],
    }
    images = {scaling.HALF: 50, scaling.ALL_REDUCE: 1}
    readings = {
        what: [Reading(1000 * images.get(what, 100) / one, memory=1) for one in rounds]
        for what, rounds in milliseconds.items()
    }
    row = scaling.row(RECIPE, readings)
    # One exchange of the first layer's kernel, and one of all small arrays.
    assert (row["exchanges"], row["bytes"]) == (2, 4 * (784 * 100 + 100 + 1000 + 10))
    assert row["two_hosts"] == pytest.approx(6e-3)
    assert row["speedup"] == pytest.approx(8 / 6)
    assert row["speedup_range"] == pytest.approx([9 / 7, 2])
    assert row["modelled"] == pytest.approx(7e-3)
    assert row["measured_over_modelled"] == pytest.approx(1)
    assert row["measured_over_modelled_range"] == pytest.approx([5 / 7, 6 / 5])
    assert scaling.seconds_per_image(row) == pytest.approx(4e-3 / 50)
    (line,) = page.table([row]).splitlines()[2:]
    assert line == (
        "| dense | 100 | 318 | 9.00 | 5.00 | 1.00 | 6.00 | 1.00 (0.71 to 1.20) |"
        " 1.33 (1.29 to 2.00) |"
    )


def test_links_table_has_the_batch_sizes_from_which_hosts_are_faster() -> None:
    loopback = Link("loopback", 1e-3, 1.25e8)
    rows = [
        {
            "task": "hosts",
            "model": model,
            "batch_size": 100,
            "exchanges": exchanges,
            "bytes": size,
            "all_reduce": loopback.all_reduce(exchanges, size, 2),
            "one_host": 0.2,
            "half_batch": 0.1,
        }
        for model, exchanges, size in (("a", 1, 990_000), ("b", 4, 400_000), ("c", 2, 10_000))
    ]
    found = scaling.fitted(rows)
    assert (found.latency, found.bandwidth) == pytest.approx((1e-3, 1.25e8))
    text = page.links(rows)
    assert "loopback 1,000 µs and 0.125 GB/s; 10 GbE 1,030 µs and 1.25 GB/s" in text
    # Over loopback, twice 2 ms + 7.9 ms, at 2 ms per image: 10 images.
    assert "| a | 1 | 990 | 2,000 | 10 | 3, 10 | 12, 36 | 48, 60 |" in text
    with pytest.raises(Failure, match="measure more networks"):
        scaling.fitted(rows[:1])


def test_batch_norm_statistics_are_exchanged_too() -> None:
    recipe = bare_recipe("batchnorm_cnn")
    network = abstract_model("batchnorm_cnn")
    channels = statistics(network)
    layers = network.named_layers().values()
    assert len(channels) == 4 * sum(isinstance(layer, BatchNorm) for layer in layers) > 0
    parameters = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(network, nnx.Param)))
    assert exchanges(recipe) == (3 + len(channels), 4 * (parameters + sum(channels)))


def test_error_names_the_worker_that_exited() -> None:
    recipe = replace(RECIPE, batch_size=100_000)
    contender = Contender(Job(variant="ours", task="train", recipe=recipe, seeds=1, threads=1))
    with pytest.raises(Failure, match="ours on dense ended"):
        contender.measure(0.01)
    # A second request fails in the same way.
    with pytest.raises(Failure, match="ours on dense ended"):
        contender.measure(0.01)
    contender.close()
    assert [worker.returncode for worker in contender._workers] == [1]


def test_save_is_timed_in_foreground_and_background() -> None:
    size, found = saves(RECIPE, load_dataset("digits"), 2)
    assert size == 4 * (784 * 100 + 100 + 100 * 10 + 10)
    assert len(found) == 2
    assert all(0 < one.seconds < one.background for one in found)
