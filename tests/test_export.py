"""Exported networks compute what they compute here."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_runs
from commands import run as run_command
from flax import nnx

from experiments.references.ours import make_network
from mnist_jax.data import DatasetNotFound, load_dataset
from mnist_jax.errors import Failure
from mnist_jax.inputs import evaluation_inputs
from mnist_jax.interchange.onnx_files import to_onnx
from mnist_jax.interchange.pretrained import load_pretrained, pretrained_names
from mnist_jax.interchange.stablehlo import to_stablehlo
from mnist_jax.models import model_entry, model_names
from mnist_jax.models.ensemble import Ensemble
from mnist_jax.models.layers import (
    BatchNorm,
    ClassicDropout,
    Conv,
    Dropout,
    Linear,
    Network,
    flatten,
    in_evaluation,
    relu,
)
from mnist_jax.recipe import Recipe
from mnist_jax.transforms import Affine, CropResize, HorizontalFlip, Standardize, Transform

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 28, 28), np.uint8)


def _recipe(name: str, **changes: Any) -> Recipe:
    # An unusual mean and standard deviation, so that omitting them would show.
    values: dict[str, Any] = {"mean": 0.25, "std": 0.5, "augmentation": ()}
    return dataclasses.replace(model_entry(name).recipe, **(values | changes))


def _network(name: str) -> Network:
    return in_evaluation(make_network(name, np.float32, **model_entry(name).recipe.model_args))


def _ours(network: Network, recipe: Recipe, images: np.ndarray) -> np.ndarray:
    return np.asarray(jax.jit(lambda x: network(evaluation_inputs(recipe, x)))(images))


def _onnx(network: Network, recipe: Recipe, images: np.ndarray) -> np.ndarray:
    """The logits from ONNX Runtime, for images as pixels or normalised."""
    runtime = pytest.importorskip("onnxruntime", reason="`make onnx` installs it")
    pixels = images.dtype == np.uint8
    model = to_onnx(network, recipe, pixels=pixels, metadata={})
    session = runtime.InferenceSession(model.SerializeToString())
    (logits,) = session.run(["logits"], {"images": images})
    return np.asarray(logits)


def _stablehlo(network: Network, recipe: Recipe, images: np.ndarray) -> np.ndarray:
    """The logits from the network that `jax.export` wrote."""
    written = to_stablehlo(network, recipe, pixels=images.dtype == np.uint8)
    return np.asarray(jax.export.deserialize(bytearray(written)).call(images))


@pytest.mark.parametrize("name", model_names())
def test_every_network_has_the_same_logits_in_onnx(name: str) -> None:
    network, recipe = _network(name), _recipe(name)
    ours = _ours(network, recipe, PIXELS)
    assert np.ptp(ours, axis=1).min() > 0.01
    # Above 10, the rounding of a logit exceeds 1e-5.
    limit = 1e-5 + 1e-6 * np.abs(ours).max()
    np.testing.assert_allclose(_onnx(network, recipe, PIXELS), ours, rtol=0, atol=limit)
    # Another number of images, normalised with NumPy.
    normalized = (PIXELS[:2].astype(np.float32) / 255 - np.float32(0.25)) / np.float32(0.5)
    np.testing.assert_allclose(_onnx(network, recipe, normalized), ours[:2], rtol=0, atol=limit)


# These two have convolutions with padding, both kinds of pooling, BatchNorm and dropout.
@pytest.mark.parametrize("name", ["batchnorm_cnn", "lenet"])
def test_networks_have_the_same_logits_in_stablehlo(name: str) -> None:
    network, recipe = _network(name), _recipe(name)
    ours = _ours(network, recipe, PIXELS)
    written = to_stablehlo(network, recipe, pixels=True)
    exported = jax.export.deserialize(bytearray(written))
    assert set(exported.platforms) == {"cpu", "cuda", "rocm", "tpu"}
    np.testing.assert_allclose(exported.call(PIXELS), ours, rtol=0, atol=1e-5)
    np.testing.assert_allclose(exported.call(PIXELS[:2]), ours[:2], rtol=0, atol=1e-5)


@pytest.mark.parametrize("exported", [_onnx, _stablehlo])
def test_an_ensemble_has_the_mean_of_its_members_probabilities(exported: Any) -> None:
    members = []
    for seed in (0, 1, 2):
        rngs = nnx.Rngs(seed)
        out = Linear(784, 10, rngs=rngs)
        # So that some probabilities are below the smallest float32.
        out.kernel[...] *= 300
        norm = BatchNorm(1, rngs=rngs)
        members.append(Network(norm=norm, flatten=flatten, drop=Dropout(0.5), out=out))
    recipe = _recipe("shallow")
    probabilities = [
        jax.nn.log_softmax(_ours(in_evaluation(member), recipe, PIXELS)) for member in members
    ]
    assert np.max(probabilities, axis=0).min() < -120
    assert np.ptp(np.exp(probabilities), axis=0).max() > 0.5
    network = in_evaluation(Network(ensemble=Ensemble(members)))
    expected = np.logaddexp.reduce(probabilities) - np.log(3)
    np.testing.assert_allclose(_ours(network, recipe, PIXELS), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(exported(network, recipe, PIXELS), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(model_names()) - {"batchnorm_cnn", "lenet"}))
def test_every_network_has_the_same_logits_in_stablehlo(name: str) -> None:
    network, recipe = _network(name), _recipe(name)
    normalized = (PIXELS.astype(np.float32) / 255 - np.float32(0.25)) / np.float32(0.5)
    ours = _ours(network, recipe, PIXELS)
    limit = 1e-5 + 1e-6 * np.abs(ours).max()
    for images in (PIXELS, normalized):
        found = _stablehlo(network, recipe, images)
        np.testing.assert_allclose(found, ours, rtol=0, atol=limit)


def test_classic_dropout_and_nested_networks_have_the_same_logits_in_onnx() -> None:
    inner = Network(act=relu, drop=ClassicDropout(0.75))
    out = Linear(784, 10, rngs=nnx.Rngs(0))
    network = in_evaluation(Network(inner=inner, flatten=flatten, out=out))
    images = np.random.default_rng(0).uniform(-1, 1, (3, 28, 28)).astype(np.float32)
    kept = 0.25 * np.maximum(images, 0).reshape(3, 784)
    expected = kept @ np.asarray(out.kernel[...]) + np.asarray(out.bias[...])
    np.testing.assert_allclose(_onnx(network, _recipe("lenet"), images), expected, atol=1e-6)


class _Residual(Network):
    def __call__(self, images: jax.Array, *, keys: jax.Array | None = None) -> jax.Array:
        return images + super().__call__(images, keys=keys)


class _Inverted(HorizontalFlip):
    def evaluation(self, image: jax.Array) -> jax.Array:
        return 1 - image


class _Scaled(Conv):
    def __call__(self, inputs: jax.Array) -> jax.Array:  # type: ignore[override]
        return 2 * super().__call__(inputs)


@pytest.mark.parametrize(
    ("layers", "sentence"),
    [
        (
            {"block": _Residual(act=relu)},
            "The layer block, of type _Residual, can't be expressed",
        ),
        ({"wave": jnp.sin}, "The layer wave, of type sin,"),
        ({"conv": _Scaled(1, 1, 3, rngs=nnx.Rngs(0))}, "The layer conv, of type _Scaled,"),
    ],
)
def test_a_layer_without_an_onnx_form_is_refused_by_name(
    layers: dict[str, Any], sentence: str
) -> None:
    pytest.importorskip("onnx", reason="`make onnx` installs it")
    with pytest.raises(Failure, match=sentence):
        to_onnx(in_evaluation(Network(**layers)), _recipe("lenet"), pixels=False, metadata={})


@pytest.mark.parametrize(
    "augmentation",
    [
        (Affine(rotation=5),),
        (CropResize(), Standardize()),
        (CropResize(centre="true"),),
        (CropResize(centre="turned"),),
    ],
    ids=["left out", "as published", "true centre", "turned"],
)
def test_transforms_of_evaluation_images_are_exported_to_onnx(
    augmentation: tuple[Transform, ...],
) -> None:
    network = _network("dense")
    recipe = _recipe("dense", augmentation=augmentation, mean=0.0, std=1.0)
    # Constant images have a standard deviation of 0, however their mean is rounded.
    flat = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None], (256, 28, 28))
    images = np.concatenate([PIXELS, flat])
    ours = _ours(network, recipe, images)
    np.testing.assert_allclose(_onnx(network, recipe, images), ours, rtol=0, atol=1e-5)


def test_a_transform_without_an_onnx_form_is_refused_by_name() -> None:
    pytest.importorskip("onnx", reason="`make onnx` installs it")
    network = _network("dense")
    inverted = _recipe("dense", augmentation=(_Inverted(),))
    with pytest.raises(Failure, match=r"The recipe's transform horizontal_flip .* --input=norm"):
        to_onnx(network, inverted, pixels=True, metadata={})
    to_onnx(network, inverted, pixels=False, metadata={})


@pytest.mark.parametrize(("flags", "kind"), [((), "uint8"), (("--input=normalized",), "float32")])
def test_the_command_exports_a_network_with_metadata(
    flags: tuple[str, ...], kind: str, tmp_path: Path
) -> None:
    onnx = pytest.importorskip("onnx", reason="`make onnx` installs it")
    target = tmp_path / "lenet.onnx"
    done = run_command(tmp_path, "mnist_jax.export", "--model=lenet", f"--to={target}", *flags)
    assert (done.returncode, done.stderr) == (0, "")
    model = onnx.load(target)
    given = model.graph.input[0].type.tensor_type.elem_type
    assert onnx.helper.tensor_dtype_to_np_dtype(given) == kind
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(metadata["classes"])[9] == "Ankle boot"
    assert metadata["source"] == "pretrained lenet"
    assert metadata["normalization"] == "(pixel / 255 - 0.0) / 1.0"
    assert json.loads(metadata["recipe"])["model"] == "lenet"
    assert metadata["step"] == "1175"
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"


def test_the_metadata_of_a_run_describe_its_normalization(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="`make onnx` installs it")
    changed = dataclasses.replace(small_runs.RECIPE, augmentation=(CropResize(),), std=0.5)
    small_runs.train_small([tmp_path / "run"], changed)
    target = tmp_path / "run.onnx"
    done = run_command(tmp_path, "mnist_jax.export", f"--workdir={tmp_path}/run", f"--to={target}")
    assert (done.returncode, done.stderr) == (0, "")
    metadata = {entry.key: entry.value for entry in onnx.load(target).metadata_props}
    assert metadata["normalization"] == "(crop_resize(pixel / 255) - 0.0) / 0.5"


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["--model=lenet"], 2, "Give the file to write"),
        (["--model=lenet", "--to=net.pb"], 2, "Give the file to write"),
        (["--to=net.onnx"], 2, "Give either --workdir=DIR"),
        (["--model=lenet", "--workdir=w", "--to=net.onnx"], 2, "Give either --workdir=DIR"),
        (["--model=lenet", "--step=3", "--to=net.onnx"], 2, "--step needs --workdir"),
        (["--model=lenett", "--to=net.onnx"], 2, "did you mean 'lenet'"),
        (["--model=lenet", "--to=none/net.stablehlo"], 1, "none/net.stablehlo can't be written"),
    ],
)
def test_misuse_is_refused_in_one_sentence(
    arguments: list[str], code: int, sentence: str, tmp_path: Path
) -> None:
    done = run_command(tmp_path, "mnist_jax.export", *arguments, cwd=tmp_path)
    assert done.returncode == code
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", pretrained_names())
def test_pretrained_networks_predict_the_same_in_onnx_on_the_test_set(name: str) -> None:
    run = load_pretrained(name)
    try:
        images = load_dataset(run.recipe.dataset).test.images
    except DatasetNotFound as error:
        pytest.skip(str(error))
    ours, theirs = (of(run.network, run.recipe, images) for of in (_ours, _onnx))
    # Above 10, the rounding of a logit exceeds 1e-6.
    largest = np.abs(ours[:1000]).max(1, keepdims=True)
    differences = np.abs(theirs[:1000] - ours[:1000])
    # Seven consecutive normalisations, and that of the image, amplify rounding errors.
    limit = 5e-5 if run.recipe.model == "residual_cnn" else 1e-5 + 1e-6 * largest
    assert (differences <= limit).all(), differences.max()
    # Predictions may differ only where the two most probable classes are tied up to rounding.
    first, second = np.sort(ours, axis=1)[:, :-3:-1].T
    tied = first - second < 2e-5
    assert (ours.argmax(1) == theirs.argmax(1))[~tied].all()
    assert tied.sum() <= 2
