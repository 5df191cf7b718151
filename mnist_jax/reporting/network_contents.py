"""A report's sections on a network and its dataset: examples, errors, scores and activations."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mnist_jax import measures
from mnist_jax.data import CLASS_NAMES, Dataset
from mnist_jax.errors import UsageError
from mnist_jax.models.layers import Network
from mnist_jax.models.summary import summarize
from mnist_jax.recipe import Recipe
from mnist_jax.reporting import images, inspection, scores
from mnist_jax.reporting.history import History
from mnist_jax.reporting.page import Picture, Section, Table, Text
from mnist_jax.reporting.style import COLORS, WIDE
from mnist_jax.runs.network import load_run

# Classes whose activations are shown: pullover and coat as in article D's exercise; 4 and 9, which
# look alike.
_COMPARED = {"mnist": (4, 9), "fashion_mnist": (2, 4), "digits": (4, 9)}
_FIRST, _SAMPLE, _ERROR_ROWS = 40, 12, 6
# The training images that are shown.
_SHOWN = slice(1, 1 + _FIRST)


@dataclass(frozen=True, eq=False)
class _Tested:
    """A network and its predictions for the test images.

    Attributes:
      history: the history of its run.
      step: the step of its checkpoint.
      network: the network in evaluation mode.
      dataset: the dataset of the test images.
      probability: [N, classes].
    """

    history: History
    step: int
    network: Network
    dataset: Dataset
    probability: np.ndarray

    @property
    def names(self) -> Sequence[str]:
        return CLASS_NAMES[self.dataset.name]

    @property
    def labels(self) -> np.ndarray:
        return self.dataset.test.labels

    @property
    def predicted(self) -> np.ndarray:
        return np.asarray(self.probability.argmax(axis=1))


def default_images(dataset: Dataset) -> list[int]:
    """The first test images of two classes that are worth comparing."""
    labels = dataset.test.labels
    return [int(np.argmax(labels == label)) for label in _COMPARED[dataset.name]]


def check_images(chosen: Sequence[int], dataset: Dataset) -> None:
    """Checks that the dataset has these test images.

    Raises:
      UsageError: it lacks one.
    """
    if bad := [number for number in chosen if not 0 <= number < len(dataset.test)]:
        raise UsageError(
            f"There is no test image {bad[0]}; give indices from 0 to {len(dataset.test) - 1}."
        )


def training_images(dataset: Dataset, recipe: Recipe) -> Iterator[Picture]:
    """Training images, as article E shows them: its loop begins with the second one.

    If the recipe augments them, the augmented images are shown, too.
    """
    shown = dataset.train.images[_SHOWN]
    yield _first_images(
        "training-images",
        dataset,
        shown,
        f"Training images 1 to {_FIRST}, counted from 0, with their labels.",
    )
    if recipe.augmentation:
        yield _first_images(
            "augmented-images",
            dataset,
            inspection.augmented(recipe, shown),
            f"The same {_FIRST} images with random augmentation, before normalisation. The"
            " augmentation is different in every epoch.",
        )


def _first_images(name: str, dataset: Dataset, shown: np.ndarray, caption: str) -> Picture:
    names = CLASS_NAMES[dataset.name]
    titles = [names[label] for label in dataset.train.labels[_SHOWN]]
    columns, of_wide = (4, 10) if _words(names) else (8, 20)
    return Picture(
        name,
        images.image_grid(shown, titles, columns),
        f"{_FIRST} small images, each with its label.",
        caption,
        wide=images.image_grid(shown, titles, of_wide, width=WIDE),
    )


def sections(history: History, dataset: Dataset, chosen: Sequence[int]) -> list[Section]:
    """The sections on the network of a run that has a checkpoint.

    Raises:
      Failure: the checkpoint is damaged.
    """
    run = load_run(history.directory.path)
    probability = run.probabilities(dataset.test.images)
    tested = _Tested(history, run.step, run.network, dataset, probability)
    return [
        Section("On the test images", list(_scores(tested))),
        Section("Inside the network", list(_insides(tested, chosen))),
        Section("Layers", list(_layers(run.network))),
    ]


def errors(
    pictures: np.ndarray,
    labels: np.ndarray,
    predicted: np.ndarray,
    notes: Sequence[str],
    *,
    dataset: str,
    noted: str,
    name: str = "misclassified",
) -> Picture:
    """The first misclassified images, as Nielsen shows those of his ensemble.

    Args:
      pictures: uint8 [N, 28, 28].
      labels: [N], true labels.
      predicted: [N], predicted labels.
      notes: N texts, the confidence of each prediction.
      dataset: one of `mnist_jax.data.DATASETS`.
      noted: a description of the notes.
      name: the picture's, which no other on the page may have.
    """
    names = CLASS_NAMES[dataset]
    columns = 4 if _words(names) else 6
    between = "\n→ " if _words(names) else " → "
    titles = [
        f"{names[label]}{between}{names[guess]}\n{note}"
        for label, guess, note in zip(labels, predicted, notes, strict=True)
    ][: _ERROR_ROWS * columns]
    return Picture(
        name,
        images.image_grid(pictures[: len(titles)], titles, columns),
        f"{len(titles)} small images, each with its true and its predicted label.",
        f"Misclassified test images, most confident first: {len(titles)} of {len(labels):,}. Above"
        f" each are its true label → the predicted one, and {noted}.",
    )


def _scores(tested: _Tested) -> Iterator[Text | Picture]:
    names, labels, predicted = tested.names, tested.labels, tested.predicted
    correct = predicted == labels
    yield Text(
        f"The network of seed {tested.history.recipe.seed} after step {tested.step:,}, in"
        f" evaluation mode: {correct.mean():.2%} of {len(labels):,} images correct,"
        f" {np.sum(~correct):,} misclassified."
    )
    if tested.history.recipe.evaluation == "training_mode":
        yield Text("During its run it was evaluated in training mode, as in the article's program.")
    yield _sample(tested)
    counts = measures.confusion(labels, predicted, len(names))
    yield Picture(
        "confusion-matrix",
        scores.confusion_matrix(counts, names),
        "A table of the number of images by true class and predicted class.",
        "Confusion matrix: test images by true and predicted class; errors are coloured.",
    )
    if len(wrong := measures.misclassified(tested.probability, labels)):
        yield errors(
            tested.dataset.test.images[wrong],
            labels[wrong],
            predicted[wrong],
            [f"{value:.1%}" for value in tested.probability[wrong].max(axis=1)],
            dataset=tested.dataset.name,
            noted="that one's probability",
        )
    rates = measures.rates(counts.diagonal(), counts.sum(axis=1))
    yield Picture(
        "accuracy-by-class",
        scores.class_accuracy(rates, float(correct.mean()), names),
        "A dot for each class's accuracy, with its interval.",
        "Accuracy on each class. The lines are Wilson 95% intervals for its number of images.",
    )
    calibration = measures.calibration(tested.probability, labels)
    yield Picture(
        "reliability",
        scores.reliability(calibration),
        "Accuracy against confidence beside the diagonal, above the number of images.",
        "Reliability diagram: where dots lie below the dashed line, the network is overconfident."
        f" The expected calibration error is {calibration.error:.2%} over"
        f" {len(calibration.count)} bins; lines are Wilson 95% intervals.",
    )


def _sample(tested: _Tested) -> Picture:
    names = tested.names
    pairs = list(zip(tested.predicted[:_SAMPLE], tested.labels[:_SAMPLE], strict=True))
    titles = [
        names[guess] if guess == label else f"{names[guess]},\nnot {names[label]}"
        for guess, label in pairs
    ]
    colors = ["black" if guess == label else COLORS["wrong"] for guess, label in pairs]
    columns = 3 if _words(names) else 6
    return Picture(
        "test-sample",
        images.image_grid(tested.dataset.test.images[:_SAMPLE], titles, columns, colors),
        f"{_SAMPLE} small images, each with its predicted label.",
        f"The first {_SAMPLE} test images with their predicted labels.",
    )


def _insides(tested: _Tested, chosen: Sequence[int]) -> Iterator[Text | Picture]:
    yield Text(
        "Blue is below zero, and red above. Activations are shown for every layer, up to the number"
        " after ±, on the same scale for all images; layers that do not change the values, such as"
        " flatten, are omitted."
    )
    for name, kernel in inspection.kernels(tested.network).items():
        height, width, inputs, outputs = kernel.shape
        most_in, most_out = images.MOST_FILTERS
        rest = f", the first {most_in} → {most_out} of them"
        yield Picture(
            f"filters-{name}",
            images.filters(kernel),
            f"The weights of the convolution {name} as small images.",
            f"Learned filters of {name}: {inputs} → {outputs} channels of {height}×{width}"
            f"{rest if inputs > most_in or outputs > most_out else ''}.",
        )
    test, names = tested.dataset.test, tested.names
    seen = inspection.activations(tested.network, tested.history.recipe, test.images[list(chosen)])
    for number, layers in zip(chosen, seen, strict=True):
        probability, label = tested.probability[number], test.labels[number]
        guess = int(probability.argmax())
        heading = (
            f"test image {number}\ntrue: {names[label]}\npredicted: {names[guess]},"
            f" {probability[guess]:.1%}"
        )
        yield Picture(
            f"activations-{number}",
            images.activations(test.images[number], heading, layers, probability, names),
            f"Test image {number} and below it the output of every layer.",
            f"Activations for test image {number}: {names[label]}.",
        )


def _layers(network: Network) -> Iterator[Text | Table]:
    layers = summarize(network)
    rows = [
        [
            layer.name,
            " ".join(filter(None, (layer.kind, layer.settings))),
            "×".join(map(str, layer.output_shape)),
            f"{layer.parameters:,}",
            f"{2 * layer.multiply_adds:,}",
        ]
        for layer in layers
    ]
    parameters = sum(layer.parameters for layer in layers)
    operations = 2 * sum(layer.multiply_adds for layer in layers)
    rows.append(["total", "", "", f"{parameters:,}", f"{operations:,}"])
    yield Table(("layer", "kind", "output shape", "parameters", "FLOPs"), rows, numbers=(3, 4))
    yield Text(
        "Output shapes and FLOPs are for one image; FLOPs are the multiplications and additions of"
        " weights in the forward pass."
    )


def _words(names: Sequence[str]) -> bool:
    """Whether class names are words, which need more room than digits."""
    return max(map(len, names)) > 2
