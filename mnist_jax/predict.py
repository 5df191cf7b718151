"""Classifies image files with a run: `python -m mnist_jax.predict --workdir=DIR IMAGE...`.

PNG or JPEG of any size, dark on light or light on dark. Every image is brought into the frame of
the run's dataset first: one digit, or one garment, on an even page.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags

from mnist_jax import cli
from mnist_jax.data import CLASS_NAMES
from mnist_jax.data.images import frame_image, read_image
from mnist_jax.errors import Failure, UsageError
from mnist_jax.files import cache_folder
from mnist_jax.runs.directory import RunDirectory
from mnist_jax.runs.network import classifier, load_network
from mnist_jax.training import devices

_WORKDIR = cli.define_path("workdir", None, "The run directory.")
_JSON = flags.DEFINE_bool("json", False, "Print one JSON object per image, each on its line.")
_SHOW = cli.define_path(
    "show", None, "A folder for pictures: each image, and beside it what the network saw."
)

# Sides of the pictures that --show saves: ten pixels for one of the network's.
_SHOWN = 280


def main(argv: Sequence[str]) -> None:
    """Classifies what the arguments name; what can't be read is told of at the end."""
    if _WORKDIR.value is None:
        raise UsageError("No run given; add --workdir=DIR.")
    paths = [Path(argument) for argument in argv[1:]]
    if not paths:
        raise UsageError("No image given; add the names of PNG or JPEG files.")
    devices.configure_process(cache_folder() / "compiled")
    run = RunDirectory(_WORKDIR.value)
    recipe = run.recipe()
    _, network = load_network(run)
    classify = classifier(network, recipe)
    names = CLASS_NAMES[recipe.dataset]
    failures = []
    for number, path in enumerate(paths, 1):
        try:
            image = read_image(path)
            seen = frame_image(image, recipe.dataset)
            if not seen.any():
                raise Failure(f"{path} is an empty page: nothing stands out from its border.")
        except Failure as failure:
            failures.append(str(failure))
            continue
        # One by one: a single shape to compile for, and each result as soon as it is there.
        (probabilities,) = classify(seen[None])
        sys.stdout.write(_line(path, probabilities, names) + "\n")
        if _SHOW.value is not None:
            _save(_SHOW.value / f"{number}-{path.stem}.png", image, seen)
    if failures:
        raise Failure("\n".join(failures))


def _line(path: Path, probabilities: np.ndarray, names: Sequence[str]) -> str:
    label = int(probabilities.argmax())
    name = os.fsencode(path).decode(errors="backslashreplace")
    if _JSON.value:
        values = {"image": name, "label": label, "class": names[label]}
        return json.dumps(values | {"probabilities": probabilities.tolist()})
    first, *others = (
        f"{names[i]} {probabilities[i]:.2%}"
        for i in np.argsort(-probabilities)
        if i == label or probabilities[i] >= 0.00005  # 0.01%, rounded.
    )
    return f"{name}: {first}" + (f" ({', '.join(others)})" if others else "")


def _save(target: Path, image: np.ndarray, seen: np.ndarray) -> None:
    """Saves a picture of 560×280 pixels: the image, and what the network saw of it."""
    from PIL import Image, ImageOps

    picture = Image.new("RGB", (2 * _SHOWN, _SHOWN), "gray")
    original = ImageOps.contain(Image.fromarray(image), (_SHOWN, _SHOWN))
    picture.paste(original, ((_SHOWN - original.width) // 2, (_SHOWN - original.height) // 2))
    enlarged = Image.fromarray(seen).resize((_SHOWN, _SHOWN), Image.Resampling.NEAREST)
    picture.paste(enlarged, (_SHOWN, 0))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        picture.save(target)
    except OSError as error:
        raise Failure(
            f"{target} can't be written ({error.strerror}); give another --show."
        ) from error


if __name__ == "__main__":
    cli.run(main, operands=True)
