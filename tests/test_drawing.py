"""The drawing page as a file: contents, unsupported layers, and the command that writes it."""

import base64
import dataclasses
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import commands
import jax
import numpy as np
import pytest
from flax import nnx

from mnist_jax.data import Dataset
from mnist_jax.drawing import page
from mnist_jax.drawing.layers import network_json
from mnist_jax.errors import Failure
from mnist_jax.models import model_entry
from mnist_jax.models.ensemble import Ensemble
from mnist_jax.models.layers import (
    Conv,
    Dropout,
    Linear,
    Network,
    Residual,
    flatten,
    max_pool,
    relu,
)
from mnist_jax.runs.network import load_run

RECIPE = model_entry("dbl_conv_relu").recipe


@pytest.fixture(scope="module")
def html(runs_folder: Path, digits: Dataset) -> str:
    return page.html(load_run(runs_folder / "seed-0"), digits)


def element(html: str, tag: str) -> str:
    (found,) = re.findall(rf"<{tag}>(.*?)</{tag.split()[0]}>", html, re.DOTALL)
    return str(found)


@pytest.mark.parametrize("tag", ["script", "style"])
def test_security_policy_allows_the_page_s_own_code_only(html: str, tag: str) -> None:
    digest = hashlib.sha256(element(html, tag).encode()).digest()
    (policy,) = re.findall(r'Content-Security-Policy" content="(.*?)"', html)
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert f"{tag}-src 'sha256-{base64.b64encode(digest).decode()}'" in policy
    assert not re.search(r"https?:|\bfetch\(|XMLHttp|@import|url\(|\bimport\b", html)


def test_page_has_weights_and_test_images(html: str, runs_folder: Path, digits: Dataset) -> None:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html)
    data = json.loads(text)
    run = load_run(runs_folder / "seed-0")
    kernel = data["layers"][0]["kernel"]
    values = np.frombuffer(base64.b64decode(kernel["values"]), "<f4").reshape(kernel["shape"])
    network: Any = run.network
    np.testing.assert_array_equal(values, network.conv1.kernel[...])
    shown = data["examples"]["shown"]
    numbers = [one["number"] for one in shown]
    images = np.frombuffer(base64.b64decode(data["examples"]["images"]), np.uint8)
    np.testing.assert_array_equal(images, digits.test.images[numbers].ravel())
    read = run.probabilities(digits.test.images[numbers]).argmax(-1)
    np.testing.assert_array_equal([one["read"] for one in shown], read)
    np.testing.assert_array_equal([one["label"] for one in shown], digits.test.labels[numbers])
    right = [one["read"] for one in shown if one["read"] == one["label"]]
    assert right == sorted(set(right))
    assert sum(one["read"] != one["label"] for one in shown) == 10
    accuracy = np.mean(run.probabilities(digits.test.images).argmax(-1) == digits.test.labels)
    assert f"{accuracy:.2%} of 297 test images right" in html


def test_page_without_test_images(runs_folder: Path) -> None:
    html = page.html(load_run(runs_folder / "seed-0"), None)
    assert '"examples": {"images": "", "shown": []}' in html
    assert "test images right" not in html


def test_layer_names_cannot_end_the_script_element(runs_folder: Path) -> None:
    run = load_run(runs_folder / "seed-0")
    layers: dict[str, Any] = {"</script>": flatten, "out": Linear(784, 10, rngs=nnx.Rngs(0))}
    network = Network(**layers)
    html = page.html(dataclasses.replace(run, network=network), None)
    assert html.count("</script>") == 2
    assert "\\u003c/script>" in html


class Scaled(Conv):
    def __call__(self, inputs: jax.Array) -> jax.Array:  # type: ignore[override]
        return 2 * super().__call__(inputs)


class Doubled(Residual):
    def __call__(self, images: jax.Array, *, keys: jax.Array | None = None) -> jax.Array:
        return 2 * super().__call__(images, keys=keys)


def test_nested_networks_are_flattened_and_unknown_layers_refused() -> None:
    rngs = nnx.Rngs(0)
    block: dict[str, Any] = {
        "conv": Conv(1, 2, 3, padding=1, rngs=rngs),
        "act": relu,
        "drop": Dropout(0.5),
    }
    whole = Network(pool=max_pool, block=Residual(inner=Network(**block)))
    found = network_json(whole, RECIPE)["layers"]
    assert [(layer["name"], layer["op"]) for layer in found] == [
        ("pool", "max_pool"),
        ("block.inner.conv", "conv"),
        ("block.inner.act", "relu"),
        ("block.inner.drop", "dropout"),
        ("block", "add"),
    ]
    assert found[-1]["from"] == 1
    refused: list[tuple[Any, str]] = [
        (nnx.LayerNorm(2, rngs=rngs), "compute the layer inner.more, of type LayerNorm; give"),
        (nnx.silu, "of type silu;"),
        (Scaled(1, 1, 3, rngs=rngs), "of type Scaled;"),
        (Doubled(**block), "of type Doubled;"),
        (Ensemble([whole]), "of type Ensemble;"),
    ]
    for layer, words in refused:
        with pytest.raises(Failure, match=words):
            network_json(Network(inner=Network(more=layer)), RECIPE)


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--to=x.html"], 2, "Give either --workdir=DIR, a run, or --model=NAME"),
        (["--workdir={run}"], 2, "No file to write given; add --to=demo.html."),
        (["--workdir={run}", "--to=/nowhere/x.html"], 1, "/nowhere/x.html can't be written"),
        (["--workdir=/nowhere", "--to=x.html"], 1, "/nowhere/config.json can't be read"),
    ],
)
def test_misuse_is_one_sentence(
    runs_folder: Path, tmp_path: Path, flags: list[str], code: int, words: str
) -> None:
    flags = [flag.format(run=runs_folder / "seed-0") for flag in flags]
    done = commands.run(tmp_path, "mnist_jax.demo", *flags, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.glob("*.html")) == []


def test_command_writes_the_page(runs_folder: Path, tmp_path: Path, html: str) -> None:
    flags = [f"--workdir={runs_folder / 'seed-0'}", "--to=page.html"]
    done = commands.run(tmp_path, "mnist_jax.demo", *flags, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "page.html is the page; open it in a browser.\n"
    assert (tmp_path / "page.html").read_text("utf-8") == html


def test_page_has_the_transforms_that_evaluation_needs() -> None:
    names: Any = [{"name": name} for name in ("crop_resize", "affine", "standardize")]
    recipe = dataclasses.replace(RECIPE, augmentation=names)
    found = network_json(Network(flatten=flatten), recipe)["transforms"]
    assert [one["op"] for one in found] == ["resize", "standardize"]
