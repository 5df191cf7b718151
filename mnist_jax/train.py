"""Trains a documented network: `python -m mnist_jax.train --model=dbl_conv_relu`."""

import dataclasses
import functools
import hashlib
import importlib
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags, logging
from rich.console import Console

from mnist_jax import cli, hosts
from mnist_jax.cli import display, processes, recipe_flags, streams
from mnist_jax.cli.signals import in_thread, stopping
from mnist_jax.data import DATASETS, Dataset, load_dataset, resolve_dataset
from mnist_jax.errors import UsageError
from mnist_jax.files import cache_folder, expanded
from mnist_jax.interchange.weights import read_weights
from mnist_jax.models import abstract_model, model_entry
from mnist_jax.recipe import Recipe
from mnist_jax.runs.directory import RunDirectory
from mnist_jax.runs.environment import describe_environment, difference
from mnist_jax.training import devices
from mnist_jax.training.session import OpenListener, groups, train
from mnist_jax.training.trainer import check_memory

# These override values of the article's recipe, or of --config.
_OVERRIDES = recipe_flags.define()
_MODEL = flags.DEFINE_string("model", None, "The network to train; --list shows the names.")
_CONFIG = cli.define_path(
    "config", None, "A recipe to run instead of an article's, such as a run's config.json."
)
_EXPERIMENT = flags.DEFINE_string(
    "experiment", None, "Row of the comparison with its recipe, such as nielsen/dbl_conv_relu."
)
_MODEL_ARGS = flags.DEFINE_string(
    "model_args", None, 'Arguments of the network as JSON, such as {"pooling": "max"}.'
)
_DATASET = flags.DEFINE_enum(
    "dataset",
    "auto",
    ("auto", *DATASETS),
    "auto: the article's dataset if it is found or can be downloaded, otherwise digits.",
)
_DATA_DIR = cli.define_path("data_dir", None, "Where to look for the dataset first.")
_NUM_SEEDS = flags.DEFINE_integer(
    "num_seeds", 1, "Number of consecutive seeds to train, starting at --seed.", 1, 2**32
)
_NUM_DEVICES = flags.DEFINE_integer(
    "num_devices", None, "Number of devices; by default all that divide the work.", 1
)
_WORKDIR = cli.define_path("workdir", None, "The run directory; by default one under runs/.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Delete an existing run and start again.")
_SAVE_EVERY = flags.DEFINE_float("save_every", 10.0, "Seconds between checkpoints.", 0.0)
_TENSORBOARD = flags.DEFINE_bool("tensorboard", False, "Write TensorBoard event files too.")
_LIST = flags.DEFINE_bool("list", False, "List the networks and exit.")


def main(argv: Sequence[str]) -> None:
    """Trains the network that the flags select."""
    del argv
    if _LIST.value:
        display.list_models(display.console())
        streams.delivered()
        return
    processes.connect()
    out = display.console()
    if math.isnan(_SAVE_EVERY.value):
        raise UsageError("--save_every is nan; give a number of seconds.")
    recipe = _override(_given_recipe())
    # Rejects wrong network arguments before looking for a dataset.
    network = abstract_model(recipe.model, **recipe.model_args)
    if _DATASET.value == "auto":
        dataset = resolve_dataset(recipe.dataset, _DATA_DIR.value)
    else:
        dataset = load_dataset(_DATASET.value, _DATA_DIR.value)
    recipe = _fitted(recipe, dataset)
    _check_same(recipe, dataset)
    parent = _parent_directory(recipe)
    # Only the first process reads and writes files.
    look = hosts.is_first() and not _OVERWRITE.value
    there = _runs_there(recipe, parent) if look else []
    unfinished = [run for run in there if (run.result() or {}).get("epochs") != recipe.epochs]
    begun = hosts.broadcast(next((run.device() for run in unfinished if run.parts()), {}))
    if begun.get("threads", devices.cores()) != devices.cores():
        out.print(f"Resuming with {begun['threads']} CPU devices and threads, as it began.")
    devices.configure_process(cache_folder() / "compiled", like=begun)
    check_memory(recipe, _NUM_SEEDS.value - len(there))  # Before touching up to a million seeds.
    recipes = [dataclasses.replace(recipe, seed=recipe.seed + i) for i in range(_NUM_SEEDS.value)]
    pairs = [(one, _run_directory(one, parent)) for one in recipes]
    todo = []
    for one, run in pairs:
        if look and (result := run.finished(one)):
            out.print(f"The run in {run.path} has ended; --overwrite starts it again.")
            _print_result(out, recipe, run, result)
        else:
            todo.append((one, run))
    seeds = hosts.broadcast([one.seed for one, _ in todo])
    todo = [(one, run) for one, run in pairs if one.seed in seeds]
    runs = [run for _, run in todo]
    if todo:
        display.layer_table(out, network)
    listeners: list[OpenListener] = [functools.partial(display.training, out)]
    if _TENSORBOARD.value:
        from mnist_jax.cli import tensorboard  # Importing it takes longer than the first step.

        listeners.append(tensorboard.writers)
    with stopping() as stop:
        for group in hosts.broadcast(_groups(recipe, runs, look=look)):
            together = [todo[place] for place in group]
            results = in_thread(
                train,
                together,
                dataset,
                listeners=listeners if hosts.is_first() else (),
                num_devices=_NUM_DEVICES.value,
                overwrite=_OVERWRITE.value,
                save_every=_SAVE_EVERY.value,
                stop=stop,
                read_weights=functools.partial(read_weights, recipe) if recipe.init_from else None,
            )
            for (_, run), result in zip(together, results, strict=False):
                _print_result(out, recipe, run, result)
    if not hosts.is_first():
        return
    if len(everything := [result for _, run in pairs if (result := run.result())]) > 1:
        accuracies = [100 * result["test_accuracy"] for result in everything]
        mean, sd = statistics.mean(accuracies), statistics.stdev(accuracies)
        out.print(f"mean test accuracy {mean:.2f} ± {sd:.2f}% (n = {len(accuracies)})")


def _groups(recipe: Recipe, runs: Sequence[RunDirectory], *, look: bool) -> list[list[int]]:
    """Groups of runs, by index, to train together; reads the runs' files if `look`."""
    if recipe.patience:
        return [[place] for place in range(len(runs))]
    return groups(runs) if look else [[*range(len(runs))]]


def _print_result(
    out: Console, recipe: Recipe, run: RunDirectory, result: Mapping[str, Any]
) -> None:
    rows = run.metrics()
    if recipe.patience and rows and rows[-1].epoch < recipe.epochs:
        out.print(
            f"Stopped early after epoch {rows[-1].epoch:.0f} of {recipe.epochs}: none of the last"
            f" {recipe.patience} had a better validation accuracy."
        )
    selected = f" (best validation accuracy, after step {result['selected_step']})"
    why = selected if result.get("selection") == "best_validation" else ""
    out.print(f"test accuracy {result['test_accuracy']:.2%}{why}  in {run.path}")


def _check_same(recipe: Recipe, dataset: Dataset) -> None:
    """Raises if the processes would not compute the same."""
    if hosts.count() == 1:
        return
    environment = describe_environment(dataset, {"threads": devices.cores()})
    facts = {name: environment[name] for name in ("packages", "git", "device", "dataset_sha256")}
    counts = {"num_seeds": _NUM_SEEDS.value, "num_devices": _NUM_DEVICES.value}
    hosts.check_same(recipe.to_dict() | counts | facts, difference)


def _given_recipe() -> Recipe:
    match _MODEL.value, _CONFIG.value, _EXPERIMENT.value:
        case str(model), None, None:
            return model_entry(model).recipe
        case None, Path() as config, None:
            return Recipe.load(config)
        case None, None, str(experiment):
            return _recipe_of_row(experiment)
        case None, None, None:
            raise UsageError("No model given; add --model=NAME (--list shows the names).")
    raise UsageError(
        "Give only one of --model=NAME, --config=FILE and --experiment=ARTICLE/ROW; the latter two"
        " set the model."
    )


def _recipe_of_row(name: str) -> Recipe:
    try:
        # By name, because the package must not depend on the experiments that are built on it.
        rows = importlib.import_module("experiments.evidence.rows")
    except ModuleNotFoundError as error:
        raise UsageError(
            "--experiment needs the experiments package; run it in a checkout of the repository."
        ) from error
    recipe: Recipe = rows.find(name).recipe
    return recipe


def _fitted(recipe: Recipe, dataset: Dataset) -> Recipe:
    """Adapts the recipe to the dataset that was found, which may be smaller than the article's."""
    most = len(dataset.train) // 6  # The share of MNIST that Nielsen holds out.
    requested = any(flag.name == "validation" and flag.present for flag in _OVERRIDES)
    if recipe.validation > most and not requested and dataset.name != recipe.dataset:
        logging.warning(
            "Holding out %d images for validation instead of %d: %s has only %d to train on.",
            most,
            recipe.validation,
            dataset.name,
            len(dataset.train),
        )
        recipe = dataclasses.replace(recipe, validation=most)
    return dataclasses.replace(recipe, dataset=dataset.name)


def _override(recipe: Recipe) -> Recipe:
    values: dict[str, Any] = {
        flag.name: flag.value for flag in _OVERRIDES if flag.value is not None
    }
    values["model_args"] = {**recipe.model_args, **cli.json_object(_MODEL_ARGS)}
    recipe = dataclasses.replace(recipe, **values)
    if not recipe.init_from:
        return recipe
    # Absolute, so that the recipe does not depend on the working directory or the spelling.
    source = expanded(recipe.init_from).resolve()
    return dataclasses.replace(recipe, init_from=str(source))


def _run_directory(recipe: Recipe, parent: Path) -> RunDirectory:
    """A seed's directory: below `parent`, or --workdir itself for a single seed."""
    if _WORKDIR.value and _NUM_SEEDS.value == 1:
        return RunDirectory(parent)
    return RunDirectory(parent / f"seed-{recipe.seed}")


def _runs_there(recipe: Recipe, parent: Path) -> list[RunDirectory]:
    """The requested runs that have begun; up to a million may have been requested."""
    if _NUM_SEEDS.value == 1:
        return [_run_directory(recipe, parent)]
    there = [path.name.removeprefix("seed-") for path in parent.glob("seed-*")]
    wanted = range(recipe.seed, recipe.seed + _NUM_SEEDS.value)
    seeds = sorted(int(name) for name in there if name.isdecimal() and int(name) in wanted)
    return [RunDirectory(parent / f"seed-{seed}") for seed in seeds]


def _parent_directory(recipe: Recipe) -> Path:
    """The parent of the seeds' directories: --workdir, or a folder named after the recipe.

    Raises:
      UsageError: --workdir has the runs of several seeds and one is requested, or the reverse.
    """
    # Runs belong together if their recipes are the same except for seed and number of epochs.
    same = dataclasses.replace(recipe, seed=0, epochs=1)
    # Earlier versions named directories by the second text; such directories are still found.
    digests = [hashlib.sha256(t.encode()).hexdigest() for t in (same.canonical(), same.to_json())]
    named = [Path(f"runs/{same.model}-{same.dataset}-{digest[:8]}") for digest in digests]
    parent = _WORKDIR.value or next((path for path in named if path.exists()), named[0])
    single = (parent / "config.json").exists()
    seeds = sorted(path.parent.name for path in parent.glob("seed-*/config.json"))
    if _WORKDIR.value and _NUM_SEEDS.value == 1 and seeds and not single:
        raise UsageError(
            f"{parent} holds the runs of several seeds ({', '.join(seeds)});"
            " give another --workdir, or one of these below it."
        )
    if _NUM_SEEDS.value > 1 and single and not seeds:
        raise UsageError(
            f"{parent} holds the run of a single seed; give another --workdir for several."
        )
    return parent


if __name__ == "__main__":
    cli.run(main)
