"""Classifies image files: `python -m mnist_jax.predict --workdir=DIR IMAGE...`.

With the network of a run, or with a pretrained one: `--model=NAME`.

Images are PNG, JPEG, GIF, WebP or BMP of any size, folders of them, or `-` for standard input;
dark on light or light on dark. Each is first scaled and centred like the images of the network's
dataset; it shows one digit, several side by side with `--digits=many`, or one garment.
"""

import io
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from absl import flags, logging

from mnist_jax import cli
from mnist_jax.cli import networks, streams
from mnist_jax.data import CLASS_NAMES
from mnist_jax.data.images import FORMATS, frames_of, image_files, read_image
from mnist_jax.data.typical import unusual
from mnist_jax.errors import Failure, UsageError
from mnist_jax.files import cache_folder, unwritable
from mnist_jax.training import devices

_LOAD = networks.define()
_DIGITS = flags.DEFINE_enum(
    "digits", "one", ["one", "many"], "Digits in an image; many are read from left to right."
)
_JSON = flags.DEFINE_bool("json", False, "Print one JSON object per image, one per line.")
_SHOW = cli.define_path(
    "show", None, "Folder to save each image in, beside the network's view of it."
)

# Side of the pictures that --show saves: ten times that of the network's input.
_SHOWN = 280
_STDIN = Path("-")


def main(argv: Sequence[str]) -> None:
    """Classifies the images that the arguments name; reports unreadable ones at the end."""
    if len(argv) < 2:
        raise UsageError(f"No image given; add {FORMATS} files, folders of them, or - for stdin.")
    devices.configure_process(cache_folder() / "compiled")
    run = _LOAD()
    dataset = run.recipe.dataset
    many = _DIGITS.value == "many"
    if many and dataset == "fashion_mnist":
        raise UsageError(f"--digits=many is for digits, but {run.source} classifies garments.")
    files: list[Path] = []
    failures = []
    for operand in map(Path, argv[1:]):
        try:
            files += image_files(operand) if operand.is_dir() else [operand]
        except Failure as failure:
            failures.append(str(failure))
    for number, file in enumerate(files, 1):
        try:
            image, digits = _read(file, dataset, many)
        except Failure as failure:
            failures.append(str(failure))
            continue
        believed = [_believed(ways, run.probabilities) for ways in digits]
        frames, probabilities = map(np.stack, zip(*believed, strict=True))
        notes = [unusual(frame, dataset) for frame in frames]
        sys.stdout.write(_line(file, probabilities, notes, CLASS_NAMES[dataset]) + "\n")
        streams.delivered()
        if any(notes):
            logging.warning(
                "%s: the network's view of it is unlike the images it was trained on: %s.",
                file,
                "; ".join(", ".join(note) for note in notes if note),
            )
        if _SHOW.value is not None:
            name = "stdin" if file == _STDIN else file.stem
            try:
                _save(_SHOW.value / f"{number}-{name}.png", image, frames)
            except Failure as failure:
                failures.append(str(failure))
    if failures:
        raise Failure("\n".join(failures))


def _read(file: Path, dataset: str, many: bool) -> tuple[np.ndarray, Sequence[np.ndarray]]:
    """Reads an image, and the candidate frames of each digit in it.

    Raises:
      Failure: it can't be read, or shows no digit, or too many.
    """
    image = read_image(_standard_input() if file == _STDIN else file)
    try:
        digits = frames_of(image, dataset)
    except Failure as failure:
        raise Failure(f"{file} {failure}") from failure
    if not digits:
        raise Failure(f"{file} is an empty page: nothing stands out from the background.")
    if len(digits) > 1 and not many:
        raise Failure(f"{file} shows {len(digits)} digits; add --digits=many to read them.")
    return image, digits


def _standard_input() -> io.BytesIO:
    """The whole input; empty if it is closed, in which case `sys.stdin` is None."""
    return io.BytesIO(io.FileIO(0, closefd=False).readall())


def _believed(
    ways: np.ndarray, classify: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """The candidate frame with the highest probability of any class, and its probabilities."""
    # One by one, so that only one shape is compiled.
    probabilities = np.concatenate([classify(way[None]) for way in ways])
    surest = probabilities.max(-1).argmax()
    return ways[surest], probabilities[surest]


def _line(
    path: Path, probabilities: np.ndarray, notes: Sequence[list[str]], names: Sequence[str]
) -> str:
    labels = probabilities.argmax(-1)
    number = "".join(names[label] for label in labels)
    name = os.fsencode(path).decode(errors="backslashreplace")
    if _JSON.value:
        digits = [
            {
                "label": int(label),
                "class": names[label],
                "probabilities": row.tolist(),
                "warnings": note,
            }
            for label, row, note in zip(labels, probabilities, notes, strict=True)
        ]
        if _DIGITS.value == "many":
            return json.dumps({"image": name, "number": number, "digits": digits})
        return json.dumps({"image": name} | digits[0])
    if _DIGITS.value == "many":
        sure = (f"{names[i]} {row[i]:.2%}" for i, row in zip(labels, probabilities, strict=True))
        return f"{name}: {number} ({', '.join(sure)})"
    (row,) = probabilities
    first, *others = (
        f"{names[i]} {row[i]:.2%}"
        for i in np.argsort(-row)
        if i == labels[0] or row[i] >= 0.00005  # 0.01%, rounded.
    )
    return f"{name}: {first}" + (f" ({', '.join(others)})" if others else "")


def _save(target: Path, image: np.ndarray, frames: np.ndarray) -> None:
    """Saves a picture 280 pixels high: the image, and the network's view of each digit in it."""
    from PIL import Image, ImageOps

    picture = Image.new("RGB", ((1 + len(frames)) * _SHOWN, _SHOWN), "gray")
    original = ImageOps.contain(Image.fromarray(image), (_SHOWN, _SHOWN))
    picture.paste(original, ((_SHOWN - original.width) // 2, (_SHOWN - original.height) // 2))
    for place, frame in enumerate(frames, 1):
        enlarged = Image.fromarray(frame).resize((_SHOWN, _SHOWN), Image.Resampling.NEAREST)
        picture.paste(enlarged, (place * _SHOWN, 0))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        picture.save(target)
    except OSError as error:
        raise unwritable(target, error, "--show") from error


if __name__ == "__main__":
    cli.run(main, operands=True)
