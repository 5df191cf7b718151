"""Measures training speed against PyTorch and stock Flax: `python -m experiments.benchmark`.

Every contender of a network and batch size is a process of its own, alive all the time and busy
only in its turns: one round is a turn of each, so what slows the machine for a while slows all of
them, and ratios are taken round by round. Nothing is counted of the turn before the first round.
"""

import json
import os
import statistics
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
from absl import flags
from rich.console import Console
from rich.table import Table

from experiments.contenders.job import FLAX, MATMUL, TORCH, VARIANTS, Job
from experiments.contenders.startup import seconds_to_first_step
from experiments.contenders.worker import Contender, Reading
from mnist_jax import cli
from mnist_jax.cli import display, streams
from mnist_jax.data import resolve_dataset
from mnist_jax.errors import UsageError
from mnist_jax.models import abstract_model, model_entry, model_names
from mnist_jax.models.layers import Network
from mnist_jax.models.summary import summarize
from mnist_jax.recipe import Recipe
from mnist_jax.training import devices

_TASK = flags.DEFINE_enum(
    "task",
    "train",
    ("train", "evaluate", "startup"),
    "train: training steps. evaluate: the whole test set. startup: from command to first step.",
)
_MODELS = flags.DEFINE_list("models", None, "Which networks; by default all.")
_BATCH_SIZES = flags.DEFINE_list(
    "batch_sizes", None, "Images per step; by default the article's and 10, 100 and 256."
)
_VARIANTS = flags.DEFINE_list(
    "variants",
    ["ours", "torch-eager", "torch-channels_last", "torch-compile", *FLAX],
    f"Who takes part, of {', '.join(VARIANTS)}.",
)
_SEEDS = flags.DEFINE_list(
    "seeds", ["1"], "Networks trained together: in one process of ours, in so many of PyTorch."
)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Turns of each contender.", 1)
_SECONDS = flags.DEFINE_float("seconds", 1.0, "Length of a turn.", 0.01)
_JSON = cli.define_path("json", None, "Write the results to this file.")


class Entrant(NamedTuple):
    """A contender: a variant with so many networks trained together."""

    variant: str
    seeds: int


_PEAK = Entrant(MATMUL, 1)

_HEAD = (
    *("network", "batch", "seeds", "ours, images/s", "of peak"),
    *("÷ best PyTorch", "÷ Flax, steps", "÷ Flax, scan"),
)


class Spread(NamedTuple):
    """What the rounds gave."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        """Summarises one value per round."""
        values = list(values)
        return cls(statistics.median(values), min(values), max(values))

    @classmethod
    def of_ratios(cls, ours: Sequence[float], other: Sequence[float]) -> Self:
        """Compares round by round."""
        return cls.of(a / b for a, b in zip(ours, other, strict=True))


def training_flops(model: Network) -> int:
    """Floating-point operations per image of a training step, in convolutions and dense layers.

    Forward pass, gradient of the kernel, and gradient of the input but for the first layer: each
    is as many multiplications and additions as the forward pass.
    """
    forward = [2 * layer.multiply_adds for layer in summarize(model) if layer.multiply_adds]
    return 3 * sum(forward) - forward[0]


def results(
    task: str, recipe: Recipe, readings: Mapping[Entrant, Sequence[Reading]], flops: int | None
) -> list[dict[str, Any]]:
    """Compares a recipe's contenders and the matrix product: the objects of the JSON file.

    `flops` are operations per image; None where they are not counted.
    """
    rates = {entrant: [one.rate for one in rounds] for entrant, rounds in readings.items()}
    peak = rates.pop(_PEAK)
    speeds = {entrant: Spread.of(own) for entrant, own in rates.items()}
    torch = [entrant for entrant in rates if entrant.variant in TORCH]
    # The fastest by its median, which is the one that counts.
    best = {e.seeds: e for e in sorted(torch, key=lambda e: speeds[e].median)}
    found = []
    for entrant, own in rates.items():
        speed = speeds[entrant]
        ours = rates.get(Entrant("ours", entrant.seeds))
        ratio = Spread.of_ratios(ours, own) if ours else None
        found.append(
            {
                "task": task,
                "model": recipe.model,
                "batch_size": recipe.batch_size,
                "variant": entrant.variant,
                "seeds": entrant.seeds,
                "images_per_second": speed.median,
                "images_per_second_range": [speed.low, speed.high],
                "ours_over_this": ratio and ratio.median,
                "ours_over_this_range": ratio and [ratio.low, ratio.high],
                "best_of_pytorch": best.get(entrant.seeds) == entrant,
                "fraction_of_matmul_peak": flops and flops * Spread.of_ratios(own, peak).median,
                "peak_memory_mib": readings[entrant][-1].memory,
            }
        )
    return found


def summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table with a line for every measurement of ours, without empty columns."""
    lines = [_HEAD, ("---",) * len(_HEAD)]
    for ours in rows:
        if ours["variant"] != "ours":
            continue
        measured = [ours[key] for key in ("model", "batch_size", "seeds")]
        rivals = {"PyTorch": "", **dict.fromkeys(FLAX, "")}
        for row in rows:
            if [row[key] for key in ("model", "batch_size", "seeds")] != measured:
                continue
            name = "PyTorch" if row["best_of_pytorch"] else row["variant"]
            if name in rivals:
                low, high = row["ours_over_this_range"]
                rivals[name] = f"{row['ours_over_this']:.2f} ({low:.2f} to {high:.2f})"
        fraction = ours["fraction_of_matmul_peak"]
        speeds = (f"{ours['images_per_second']:,.0f}", f"{fraction:.0%}" if fraction else "")
        lines.append((*map(str, measured), *speeds, *rivals.values()))
    columns = [column for column in zip(*lines, strict=True) if any(column[2:])]
    return "\n".join(f"| {' | '.join(line)} |" for line in zip(*columns, strict=True))


def main(argv: Sequence[str]) -> None:
    """Measures, prints a table for each network and batch size, and writes the JSON file."""
    del argv
    # This process only traces networks; devices are for the workers.
    jax.config.update("jax_platforms", "cpu")
    if _JSON.value and not os.access(_JSON.value.parent, os.W_OK):
        raise UsageError(f"--json is {_JSON.value}, in no folder that can be written to.")
    out = display.console()
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("jax", "flax", "torch"))
    load = os.getloadavg()[0]
    out.print(
        f"{devices.cores()} cores, {versions}; {load:.1f} processes were busy before this began."
    )
    if not _JSON.value:
        streams.delivered()
    rows: list[dict[str, Any]] = []
    for some in _startup(out) if _TASK.value == "startup" else _contests(out):
        rows += some
        if _JSON.value:
            _JSON.value.write_text(json.dumps(rows, indent=1) + "\n")
    if _TASK.value != "startup":
        out.print(f"\n{summary(rows)}", soft_wrap=True)
    if not _JSON.value:
        streams.delivered()


def _contests(out: Console) -> Iterator[list[dict[str, Any]]]:
    """Measures one network at one batch size after the other."""
    for recipe in _recipes():
        flops = None
        if _TASK.value == "train":
            flops = training_flops(abstract_model(recipe.model, **recipe.model_args))
        found = results(_TASK.value, recipe, _readings(recipe), flops)
        _print(out, recipe, found)
        yield found


def _recipes() -> Iterator[Recipe]:
    """Every network at every batch size, on its article's dataset if that is here."""
    for name in _MODELS.value or model_names():
        recipe = model_entry(name).recipe
        dataset = resolve_dataset(recipe.dataset).name
        # Held-out images are no part of a step, and the small dataset has too few of them.
        recipe = replace(recipe, dataset=dataset, validation=0, selection="last")
        texts = _BATCH_SIZES.value or ["10", "100", "256", str(recipe.batch_size)]
        for size in _integers("batch_sizes", texts):
            yield replace(recipe, batch_size=size)


def _entrants() -> list[Entrant]:
    if unknown := sorted(set(_VARIANTS.value) - set(VARIANTS)):
        raise UsageError(f"No variant is {unknown[0]!r}; choose from {', '.join(VARIANTS)}.")
    return [
        Entrant(variant, seeds)
        for seeds in _integers("seeds", _SEEDS.value)
        for variant in _VARIANTS.value
        # Stock Flax is there to be compared with one seed, and only in training.
        if variant not in FLAX or (seeds == 1 and _TASK.value == "train")
    ]


def _readings(recipe: Recipe) -> dict[Entrant, list[Reading]]:
    """Starts every contender, and takes the rounds."""
    with ExitStack() as stack:
        contenders = {}
        for entrant in [_PEAK, *_entrants()]:
            contenders[entrant] = stack.enter_context(closing(_contender(recipe, *entrant)))
            contenders[entrant].measure(_SECONDS.value)  # Alone while it compiles; not counted.
        rounds = [
            {
                entrant: contender.measure(_SECONDS.value)
                for entrant, contender in contenders.items()
            }
            for _ in range(_ROUNDS.value)
        ]
    return {entrant: [turn[entrant] for turn in rounds] for entrant in contenders}


def _contender(recipe: Recipe, variant: str, seeds: int) -> Contender:
    """Seeds share a process of ours; PyTorch gets a process and a share of the cores for each."""
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
    """Times the training command with an empty cache, and again with what that left there."""
    table = Table("model", "cache", "seconds to the first step", "range", box=None)
    for name in _MODELS.value or model_names():
        # A dataset that is only in the user's cache is not in the empty one.
        dataset = "auto" if os.environ.get("MNIST_JAX_DATA_DIR") else "digits"
        times: dict[str, list[float]] = {"cold": [], "warm": []}
        for _ in range(_ROUNDS.value):
            with tempfile.TemporaryDirectory() as cache:
                for start in times:
                    times[start].append(seconds_to_first_step(name, dataset, Path(cache)))
        for start, seconds in times.items():
            spread = Spread.of(seconds)
            table.add_row(
                name, start, f"{spread.median:.1f}", f"{spread.low:.1f} to {spread.high:.1f}"
            )
            yield [
                {
                    "task": "startup",
                    "model": name,
                    "variant": start,
                    "seconds": spread.median,
                    "seconds_range": [spread.low, spread.high],
                }
            ]
    out.print(table)


def _integers(name: str, texts: Sequence[str]) -> list[int]:
    """A list flag's numbers in ascending order, each once.

    Raises:
      UsageError: one is no positive whole number.
    """
    if bad := [text for text in texts if not text.isdecimal() or not int(text)]:
        raise UsageError(f"--{name} has {bad[0]!r}; give whole numbers from 1 on.")
    return sorted({int(text) for text in texts})


if __name__ == "__main__":
    cli.run(main)
