"""The drawing page's scripts in a real browser, against networks and framing in Python."""

import base64
import dataclasses
from pathlib import Path
from typing import Any

import drawn_digits
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mnist_jax import load_pretrained
from mnist_jax.data import Dataset, DatasetNotFound, load_dataset
from mnist_jax.data.images import frames_of
from mnist_jax.drawing import page as drawing
from mnist_jax.drawing.layers import network_json
from mnist_jax.inputs import evaluation_inputs
from mnist_jax.models import create_model, model_entry, model_names
from mnist_jax.models.layers import Network, in_evaluation
from mnist_jax.recipe import Recipe

# The side of the drawing pad, and the margin around it, in pixels.
PAD, MARGIN = 280, 50


@pytest.fixture(scope="module")
def scripts(browser: Any) -> Any:
    """An empty page with the scripts that the drawing page computes with."""
    page = browser.new_page()
    for name in ("network.js", "framing.js"):
        page.add_script_tag(path=Path(drawing.__file__).parent / name)
    return page


def trained(name: str, **arguments: Any) -> Network:
    """A network in evaluation mode, with BatchNorm arrays as if it had been trained."""
    network = create_model(name, rngs=nnx.Rngs(0), **arguments)
    rng = np.random.default_rng(0)
    for _, module in nnx.iter_modules(network):
        if isinstance(module, nnx.BatchNorm):
            variables: Any = (module.mean, module.var, module.scale, module.bias)
            for variable in variables:
                size = variable[...].shape
                variable[...] = jnp.asarray(rng.uniform(0.5, 2, size), jnp.float32)
    return in_evaluation(network)


COMPUTE = """([network, images]) => {
  decode(network);
  return images.map((text) => {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const layers = outputs(network, bytes);
    const logits = Array.from(layers.at(-1).values);
    return {
      logits,
      probability: probabilities(network, logits),
      sums: layers.map(({ values }) => values.reduce((a, b) => a + Math.abs(b), 0)),
      shapes: layers.map(({ shape }) => shape),
    };
  });
}"""


def check(scripts: Any, network: Network, recipe: Recipe, images: np.ndarray) -> None:
    """Asserts that the browser computes the same outputs of every layer."""
    texts = [base64.b64encode(image.tobytes()).decode() for image in images]
    sent = network_json(network, recipe)
    found = scripts.evaluate(COMPUTE, [sent, texts])
    graph, state = nnx.split(network)

    @jax.jit
    def expected(state: Any, images: jax.Array) -> list[jax.Array]:
        inputs = evaluation_inputs(recipe, images)
        return [values for _, values in nnx.merge(graph, state).layer_outputs(inputs)]

    layers = expected(state, jnp.asarray(images))
    logits = np.asarray(layers[-1], np.float64)
    shown = np.asarray([one["logits"] for one in found])
    np.testing.assert_allclose(shown, logits, rtol=1e-5, atol=1e-5)
    positive = np.exp(logits) if recipe.loss == "cross_entropy" else logits.clip(1e-6)
    probability = positive / positive.sum(-1, keepdims=True)
    np.testing.assert_allclose([one["probability"] for one in found], probability, atol=1e-6)
    # A block is listed after the layers in it.
    names = [layer["name"] for layer in sent["layers"]]
    for name, values in zip(network.layer_names, layers, strict=True):
        place = names.index(name)
        assert found[0]["shapes"][place] == list(values.shape[1:])
        sums = np.abs(np.asarray(values, np.float64)).reshape(len(images), -1).sum(1)
        np.testing.assert_allclose([one["sums"][place] for one in found], sums, rtol=1e-4)


# These have average and max-pooling, dropout, residual blocks and BatchNorm.
QUICK = {"lenet", "double_fc_dropout", "residual_cnn"}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in model_names()],
)
def test_browser_computes_every_network(scripts: Any, digits: Dataset, name: str) -> None:
    recipe = model_entry(name).recipe
    arguments = {key: value for key, value in recipe.model_args.items() if key != "init"}
    arguments |= {"width": 8} if name == "residual_cnn" else {}
    check(scripts, trained(name, **arguments), recipe, digits.test.images[:4])


@pytest.mark.parametrize(
    ("name", "arguments", "augmentation"),
    [
        ("double_fc_dropout", {"dropout": "classic"}, []),
        ("lenet", {"pooling": "max", "activation": "tanh", "kernel_size": 3}, []),
        ("shallow", {}, [{"name": "crop_resize"}, {"name": "standardize"}]),
        ("shallow", {}, [{"name": "crop_resize", "centre": "true", "window": 19}]),
        ("shallow", {}, [{"name": "crop_resize", "centre": "turned"}]),
    ],
)
def test_browser_computes_variants_and_transforms(
    scripts: Any, digits: Dataset, name: str, arguments: dict[str, Any], augmentation: Any
) -> None:
    recipe = dataclasses.replace(model_entry(name).recipe, augmentation=augmentation)
    check(scripts, trained(name, **arguments), recipe, digits.test.images[:4])


def test_browser_computes_the_logits_of_a_hundred_mnist_images(scripts: Any) -> None:
    try:
        images = load_dataset("mnist").test.images[:100]
    except DatasetNotFound as missing:
        pytest.skip(str(missing))
    run = load_pretrained("dbl_conv_relu")
    texts = [base64.b64encode(image.tobytes()).decode() for image in images]
    found = scripts.evaluate(COMPUTE, [network_json(run.network, run.recipe), texts])
    logits = jax.jit(lambda x: run.network(evaluation_inputs(run.recipe, x)))(jnp.asarray(images))
    np.testing.assert_allclose([one["logits"] for one in found], logits, atol=1e-4, rtol=0)
    probability = [one["probability"] for one in found]
    np.testing.assert_allclose(probability, run.probabilities(images), atol=1e-5)


FRAME = """([name, pictures]) => pictures.map((text) => {
  const pixels = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const frames = name === "digits" ? digitFrames : garmentFrames;
  const found = frames({ width: 380, height: 380, pixels });
  return found.map((digit) => digit.frames.map((frame) => Array.from(frame.pixels)));
})"""


def pictures(count: int) -> list[np.ndarray]:
    """Digits on the pad, thick and thin, large and small, rotated, and some side by side."""
    rng = np.random.default_rng(7)
    found = []
    for number in range(count):
        several = 1 + (number % 7 == 0)
        drawn = [
            drawn_digits.drawn(
                (number * place) % 10,
                rng,
                width=rng.uniform(4, 34 / several),
                degrees=rng.uniform(-25, 25),
                height=rng.uniform(30, 250) if several == 1 else rng.uniform(80, 130),
                shape=(PAD, PAD // several),
            )
            for place in range(1, several + 1)
        ]
        found.append(np.pad(np.rint(255 * np.hstack(drawn)).astype(np.uint8), MARGIN))
    return found


@pytest.mark.parametrize(("name", "dataset"), [("digits", "mnist"), ("garments", "fashion_mnist")])
def test_browser_frames_digits_and_garments_as_predict_does(
    scripts: Any, name: str, dataset: str
) -> None:
    shown = pictures(24)
    texts = [base64.b64encode(picture.tobytes()).decode() for picture in shown]
    several = rotated = compared = 0
    for picture, found in zip(shown, scripts.evaluate(FRAME, [name, texts]), strict=True):
        expected = frames_of(np.stack([255 - picture] * 3, -1), dataset)
        several += len(found) > 1
        for ours, theirs in zip(expected, found, strict=True):
            np.testing.assert_array_equal(np.asarray(theirs), ours.reshape(len(ours), -1))
            rotated += len(ours) - 1
            compared += 1
    assert compared >= len(shown)
    assert name == "garments" or (several and rotated)
