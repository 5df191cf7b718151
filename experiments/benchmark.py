"""Measures training speed against PyTorch and stock Flax: `python -m experiments.benchmark`.

For a network and batch size, every contender is a process of its own that stays alive and computes
only in its turn. A round is one turn of each, so a temporary slowdown of the machine affects all of
them, and ratios are taken round by round. A warm-up turn before the first round is not counted.
"""

import json
import math
import os
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import jax
from absl import flags
from rich.console import Console
from rich.table import Table

from experiments.contenders import measurements, page, scaling
from experiments.contenders.job import ALL_REDUCE, FLAX, HOSTS, TORCH, VARIANTS, Job, whole_batches
from experiments.contenders.measurements import PEAK, Entrant, Spread
from experiments.contenders.saving import saves
from experiments.contenders.startup import seconds_to_first_step
from experiments.contenders.worker import Contender, Reading
from experiments.references import require_torch
from experiments.references.ours import bare_recipe
from mnist_jax import cli
from mnist_jax.cli import display, streams
from mnist_jax.data import Dataset, resolve_dataset
from mnist_jax.errors import UsageError
from mnist_jax.files import write_output, write_text
from mnist_jax.models import abstract_model, model_entry, model_names
from mnist_jax.recipe import Recipe
from mnist_jax.training import devices

K = TypeVar("K")

_TASK = flags.DEFINE_enum(
    "task",
    "train",
    ("train", "evaluate", "startup", "save", "hosts"),
    "What to measure. train: training steps. evaluate: the whole test set. startup: from command to"
    " first step. save: checkpoints. hosts: training on two hosts with one thread each.",
)
_MODELS = flags.DEFINE_list("models", None, "Networks; by default all.")
_BATCH_SIZES = flags.DEFINE_list(
    "batch_sizes", None, "Images per step; by default the article's and 10, 100 and 256."
)
_VARIANTS = flags.DEFINE_list(
    "variants",
    ["ours", "torch-eager", "torch-channels_last", "torch-compile", *FLAX],
    f"Contenders, from {', '.join(VARIANTS)}.",
)
_SEEDS = flags.DEFINE_list(
    "seeds",
    ["1"],
    "Networks trained together: in one process of ours, one process each of PyTorch.",
)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Number of turns of each contender.", 1)
_SECONDS = flags.DEFINE_float("seconds", 1.0, "Length of a turn in seconds.", 0.01)
_JSON = cli.define_path("json", None, "File to write the results to.")


def main(argv: Sequence[str]) -> None:
    """Measures, prints the results, and writes the JSON file and the pages made from such files."""
    del argv
    # This process only traces networks; the devices are for the workers.
    jax.config.update("jax_platforms", "cpu")
    if not math.isfinite(_SECONDS.value):
        raise UsageError(f"--seconds is {_SECONDS.value}; give a number of seconds.")
    if _JSON.value:
        target = Path(os.path.realpath(_JSON.value))
        if (target.exists() and not target.is_file()) or not os.access(target.parent, os.W_OK):
            raise UsageError(f"--json is {_JSON.value}, no file in a folder to be written to.")
    for name in _MODELS.value or ():
        model_entry(name)
    out = display.console()
    measured = measurements.circumstances("experiments.benchmark")
    revision = measured["git"] and measured["git"]["revision"]
    out.print(f"{page.circumstances(measured)}.")
    if not _JSON.value:
        streams.delivered()
    rows: list[dict[str, Any]] = []
    tasks = {"startup": _startup, "save": _save, "hosts": _hosts}
    for some in tasks.get(_TASK.value, _contests)(out):
        # Kept with each row, so that rows of another file can be added.
        rows += [row | {"revision": revision} for row in some]
        if _JSON.value:
            text = json.dumps(measured | {"rows": rows}, indent=1)
            write_output(_JSON.value, f"{text}\n".encode(), "--json")
    out.print(f"\n{page.table(rows)}", soft_wrap=True)
    if not _JSON.value:
        streams.delivered()
    elif _JSON.value.resolve().parent == page.KEPT:
        for path, text in page.pages().items():
            write_text(path, text)


def _contests(out: Console) -> Iterator[list[dict[str, Any]]]:
    """Measures each network at each batch size in turn."""
    recipes, entrants = list(_recipes()), _entrants()
    for recipe in recipes:
        flops = None
        if _TASK.value == "train":
            flops = measurements.training_flops(abstract_model(recipe.model, **recipe.model_args))
        found = measurements.compared(_TASK.value, recipe, _readings(recipe, entrants), flops)
        _print(out, recipe, found)
        yield found


def _names() -> Sequence[str]:
    return _MODELS.value or model_names()


def _recipe(name: str) -> tuple[Recipe, Dataset]:
    """A network's recipe, on its article's dataset if available."""
    recipe = bare_recipe(name)
    dataset = resolve_dataset(recipe.dataset)
    return replace(recipe, dataset=dataset.name), dataset


def _recipes() -> Iterator[Recipe]:
    """Every network at every batch size, on its article's dataset if available."""
    for name in _names():
        recipe, dataset = _recipe(name)
        texts = _BATCH_SIZES.value or ["10", "100", "256", str(recipe.batch_size)]
        for size in _integers("batch_sizes", texts):
            whole_batches(dataset, size)
            yield replace(recipe, batch_size=size)


def _entrants() -> list[Entrant]:
    if unknown := sorted(set(_VARIANTS.value) - set(VARIANTS)):
        raise UsageError(f"No variant is {unknown[0]!r}; choose from {', '.join(VARIANTS)}.")
    if set(_VARIANTS.value) & set(TORCH):
        require_torch()
    entrants = [
        Entrant(variant, seeds)
        for seeds in _integers("seeds", _SEEDS.value)
        for variant in _VARIANTS.value
        # Stock Flax is compared with one seed only, and only in training.
        if variant not in FLAX or (seeds == 1 and _TASK.value == "train")
    ]
    if not entrants:
        raise UsageError(
            "Nothing to measure; give --variants and --seeds (stock Flax: one seed, training only)."
        )
    return entrants


def _readings(recipe: Recipe, entrants: Sequence[Entrant]) -> dict[Entrant, list[Reading]]:
    starts = {entrant: partial(_contender, recipe, *entrant) for entrant in [PEAK, *entrants]}
    return _rounds(starts)


def _rounds(starts: Mapping[K, Callable[[], Contender]]) -> dict[K, list[Reading]]:
    """Starts every contender and runs the rounds."""
    with ExitStack() as stack:
        contenders = {}
        for key, start in starts.items():
            contenders[key] = stack.enter_context(closing(start()))
            contenders[key].measure(_SECONDS.value)  # Compiles undisturbed; not counted.
        rounds = [
            {key: contender.measure(_SECONDS.value) for key, contender in contenders.items()}
            for _ in range(_ROUNDS.value)
        ]
    return {key: [turn[key] for turn in rounds] for key in contenders}


def _contender(recipe: Recipe, variant: str, seeds: int) -> Contender:
    """Our seeds share a process; PyTorch gets a process and a share of the cores per seed."""
    processes, seeds = (seeds, 1) if variant in TORCH else (1, seeds)
    threads = max(1, devices.cores() // processes)
    job = Job(variant=variant, task=_TASK.value, recipe=recipe, seeds=seeds, threads=threads)
    return Contender(job, processes)


def _print(out: Console, recipe: Recipe, found: Sequence[Mapping[str, Any]]) -> None:
    table = Table(
        "variant", "seeds", "images/s", "range", "ours is", "range", "of peak", "MiB", box=None
    )
    for row in found:
        ratio, fraction = row["ours_over_this"], row["fraction_of_matmul_peak"]
        table.add_row(
            row["variant"] + "*" * row["best_of_pytorch"],
            str(row["seeds"]),
            f"{row['images_per_second']:,.0f}",
            "{:,.0f} to {:,.0f}".format(*row["images_per_second_range"]),
            f"{ratio:.2f}×" if ratio else "",
            "{:.2f} to {:.2f}".format(*row["ours_over_this_range"]) if ratio else "",
            f"{fraction:.0%}" if fraction else "",
            f"{row['peak_memory_mib']:,.0f}",
        )
    out.print(f"\n{recipe.model}, batch {recipe.batch_size}, {recipe.dataset}: {_TASK.value}")
    out.print(table)


def _startup(out: Console) -> Iterator[list[dict[str, Any]]]:
    """Times the training command with an empty cache, then with the cache this filled."""
    # A dataset found only in the user's cache is missing from the empty one.
    dataset = "auto" if os.environ.get("MNIST_JAX_DATA_DIR") else "digits"
    for name in _names():
        times: dict[str, list[float]] = {"cold": [], "warm": []}
        for _ in range(_ROUNDS.value):
            with tempfile.TemporaryDirectory() as cache:
                for start in times:
                    times[start].append(seconds_to_first_step(name, dataset, Path(cache)))
        spreads = {start: Spread.of(seconds) for start, seconds in times.items()}
        for start, spread in spreads.items():
            out.print(f"{name}, {start} cache: {spread.median:.1f} seconds to the first step")
        yield [
            {"task": "startup", "model": name, "variant": start} | spread.columns("seconds")
            for start, spread in spreads.items()
        ]


def _save(out: Console) -> Iterator[list[dict[str, Any]]]:
    """Times checkpoints of every network."""
    for name in _names():
        recipe, dataset = _recipe(name)
        size, found = saves(recipe, dataset, _ROUNDS.value)
        waited, background = (Spread.of(times) for times in zip(*found, strict=True))
        out.print(
            f"{name}, {size / 1000:,.0f} kB: training waits {1000 * waited.median:.1f} ms, it is on"
            f" disk after another {1000 * background.median:.1f} ms"
        )
        yield [
            {"task": "save", "model": name, "bytes": size}
            | waited.columns("seconds")
            | background.columns("background_seconds")
        ]


def _hosts(out: Console) -> Iterator[list[dict[str, Any]]]:
    """Trains every network at every batch size in one process, and in two connected ones."""
    if devices.cores() < 2:
        raise UsageError("Two hosts need a core each, but only one is available.")
    recipes = list(_recipes())
    if odd := [recipe.batch_size for recipe in recipes if recipe.batch_size % 2]:
        raise UsageError(f"--batch_sizes has {odd[0]}; give even sizes, which two hosts can share.")
    for recipe in recipes:
        half = replace(recipe, batch_size=recipe.batch_size // 2)
        readings = _rounds(
            {
                scaling.ALONE: partial(_host, HOSTS[0], recipe),
                scaling.HALF: partial(_host, HOSTS[0], half),
                scaling.ALL_REDUCE: partial(_host, ALL_REDUCE, recipe, 2),
                scaling.TWO: partial(_host, HOSTS[1], recipe, 2),
            }
        )
        found = scaling.row(recipe, readings)
        out.print(
            f"{recipe.model}, batch {recipe.batch_size}: one host {1000 * found['one_host']:.2f}"
            f" ms, two {1000 * found['two_hosts']:.2f} ms"
        )
        yield [found]


def _host(variant: str, recipe: Recipe, processes: int = 1) -> Contender:
    """A contender of one process, or of several that connect through a free local port."""
    job = Job(variant=variant, task="train", recipe=recipe, seeds=1, threads=1)
    if processes > 1:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            job = replace(job, address=f"localhost:{free.getsockname()[1]}")
    return Contender(job, processes)


def _integers(name: str, texts: Sequence[str]) -> list[int]:
    """A list flag's distinct numbers in ascending order.

    Raises:
      UsageError: one is not a positive integer.
    """
    if bad := [text for text in texts if not text.isdecimal() or not int(text)]:
        raise UsageError(f"--{name} has {bad[0]!r}; give whole numbers from 1 on.")
    return sorted({int(text) for text in texts})


if __name__ == "__main__":
    cli.run(main)
