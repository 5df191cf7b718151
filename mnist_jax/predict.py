"""Classifies image files with a run: `python -m mnist_jax.predict --workdir=DIR IMAGE...`.

PNG, JPEG, GIF, WebP or BMP of any size, folders of them, or `-` for standard input; dark on light
or light on dark. Every image is brought into the frame of the run's dataset first: one digit, or
one garment, on an even page.
"""

import io
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags

from mnist_jax import cli
from mnist_jax.data import CLASS_NAMES
from mnist_jax.data.images import FORMATS, frame_image, image_files, read_image
from mnist_jax.errors import Failure, UsageError
from mnist_jax.files import cache_folder
from mnist_jax.runs.network import load_run
from mnist_jax.training import devices

_WORKDIR = cli.define_path("workdir", None, "The run directory.")
_STEP = flags.DEFINE_integer(
    "step", None, "Which checkpoint; by default the run's selected one, or else its latest."
)
_JSON = flags.DEFINE_bool("json", False, "Print one JSON object per image, each on its line.")
_SHOW = cli.define_path(
    "show", None, "A folder for pictures: each image, and beside it what the network saw."
)

# Sides of the pictures that --show saves: ten pixels for one of the network's.
_SHOWN = 280
_STDIN = Path("-")


def main(argv: Sequence[str]) -> None:
    """Classifies what the arguments name; what can't be read is told of at the end."""
    if _WORKDIR.value is None:
        raise UsageError("No run given; add --workdir=DIR.")
    if len(argv) < 2:
        raise UsageError(f"No image given; add {FORMATS} files, folders of them, or - for stdin.")
    devices.configure_process(cache_folder() / "compiled")
    run = load_run(_WORKDIR.value, _STEP.value)
    names = CLASS_NAMES[run.recipe.dataset]
    paths = list[Path]()
    failures = []
    for operand in map(Path, argv[1:]):
        try:
            paths += image_files(operand) if operand.is_dir() else [operand]
        except Failure as failure:
            failures.append(str(failure))
    for number, path in enumerate(paths, 1):
        try:
            image = read_image(io.BytesIO(sys.stdin.buffer.read()) if path == _STDIN else path)
            seen = frame_image(image, run.recipe.dataset)
            if not seen.any():
                raise Failure(f"{path} is an empty page: nothing stands out from its border.")
        except Failure as failure:
            failures.append(str(failure))
            continue
        # One by one: a single shape to compile for, and each result as soon as it is there.
        (probabilities,) = run.probabilities(seen[None])
        sys.stdout.write(_line(path, probabilities, names) + "\n")
        if _SHOW.value is not None:
            name = "stdin" if path == _STDIN else path.stem
            _save(_SHOW.value / f"{number}-{name}.png", image, seen)
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
