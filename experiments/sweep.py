"""Trains many rows and seeds in parallel, locally or on a cluster.

`python -m experiments.sweep ARTICLE/ROW ...`, or `--all`, or `--missing`, trains the seeds without
a record, with one worker per core or GPU. `--slurm` and `--kubernetes=IMAGE` print a job to submit
there, and `--status` reports progress. Several sweeps may work on the same folders at once.
"""

import itertools
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from absl import flags
from rich.console import Console

from experiments.evidence import records, training
from experiments.evidence.results import Results
from experiments.evidence.rows import Article, all_articles
from experiments.evidence.training import Places
from experiments.sweeps import clusters, here, plan, status, worker
from experiments.sweeps.plan import Run, Seeds, Sweep
from mnist_jax import cli
from mnist_jax.cli import display, signals, streams
from mnist_jax.cli.signals import stopping
from mnist_jax.errors import Failure, Interrupted, UsageError
from mnist_jax.files import cache_folder
from mnist_jax.training import devices
from mnist_jax.training.session import Stopped

_ALL = flags.DEFINE_bool("all", False, "Train every row.")
_MISSING = flags.DEFINE_bool(
    "missing", False, "Train as many seeds as each row lacks, whichever seeds are recorded."
)
_NUM_SEEDS = flags.DEFINE_integer(
    "num_seeds", None, "Seeds per row; by default as given in its article's file.", 1
)
_FIRST_SEED = flags.DEFINE_integer("first_seed", 0, "First of these seeds.", 0)
_WORKERS = flags.DEFINE_integer(
    "workers",
    None,
    "Number of workers; by default one per core or GPU, on a cluster one per run.",
    1,
)
_STATUS = flags.DEFINE_bool("status", None, "Report progress and exit.")
_SLURM = flags.DEFINE_bool("slurm", None, "Print a script for sbatch and exit.")
_KUBERNETES = flags.DEFINE_string(
    "kubernetes", None, "Print a Job for kubectl whose pods run this image, and exit."
)
_WORKER = flags.DEFINE_string("worker", None, "Run as one worker of the sweep with this name.")
_DATA_DIR = cli.define_path("data_dir", None, "Where to look for the dataset first.")
_WORKDIR = cli.define_path("workdir", training.WORKDIR, "Directory of the run directories.")
_RESULTS = cli.define_path("results", records.RESULTS, "Directory of the records.")
flags.mark_flags_as_mutual_exclusive(["status", "slurm", "kubernetes", "worker"])

# Slurm's default limit on the size of a job array.
_MOST = 1000


def run(articles: Sequence[Article]) -> None:
    """Runs the command on these articles' rows."""
    cli.run(partial(_main, articles), operands=True)


def _main(articles: Sequence[Article], argv: Sequence[str]) -> None:
    for flag, what in ((_KUBERNETES, "the image of the pods"), (_WORKER, "the sweep's name")):
        if flag.value == "":
            raise UsageError(f"--{flag.name} is empty; give {what}.")
    everything = _ALL.value or (_MISSING.value and not argv[1:])
    sweep = Sweep(
        plan.chosen(articles, argv[1:], everything),
        Seeds(_FIRST_SEED.value, _NUM_SEEDS.value, _MISSING.value),
        Places(_WORKDIR.value, _RESULTS.value, _DATA_DIR.value),
    )
    out = display.console()
    if _WORKER.value:
        _work(out, sweep, _WORKER.value)
        return
    recorded = sweep.recorded()
    missing = sweep.missing(recorded)
    whole = status.expected(sweep, Results.usable(articles, _RESULTS.value))
    if _STATUS.value:
        standings = [plan.standing(run, whole[run.row_name]) for run in missing]
        out.print(status.table(recorded, standings, whole), soft_wrap=False)
        for line in status.failures(standings):
            out.print(line)
        out.print(status.summary(recorded, standings, _WORKERS.value or devices.cores()))
        streams.delivered()
        return
    if not missing:
        out.print("All of these seeds are recorded.")
        return
    missing = status.longest_first(missing, whole)
    if not (_SLURM.value or _KUBERNETES.value):
        _work_here(out, sweep, missing, whole)
        return
    workers = min(_WORKERS.value or _MOST, len(missing))
    outlook = status.outlook(missing, whole, workers)
    if image := _KUBERNETES.value:
        command = [*_command(missing), *clusters.SHARED]
        text = clusters.kubernetes(outlook, command, workers, image)
    else:
        text = clusters.slurm(outlook, _command(missing, _WORKDIR, _RESULTS, _DATA_DIR), workers)
    sys.stdout.write(text)
    streams.delivered()


def _command(runs: Sequence[Run], *places: flags.FlagHolder[Any]) -> list[str]:
    """A worker's arguments to Python for these rows, in this order, without `--worker`."""
    rows = dict.fromkeys(run.row_name for run in runs)
    given = (_NUM_SEEDS, _FIRST_SEED, _MISSING, *places)
    return [*signals.program(), *rows, *(flag.serialize() for flag in given if flag.present)]


def _work(out: Console, sweep: Sweep, name: str) -> None:
    """Runs as a worker, on one device."""
    # One thread each: two such processes are faster than one with two threads.
    devices.configure_process(cache_folder() / "compiled", like={"threads": 1})
    with stopping() as stop:
        try:
            failed = worker.work(out, sweep, name, stop)
        except Stopped as stopped:
            out.print(f"Saved after step {stopped.step} of {stopped.total_steps}.")
            failed = 0
    if stop.received:
        sys.exit(128 + stop.received)
    sys.exit(1 if failed else 0)


def _work_here(
    out: Console, sweep: Sweep, runs: Sequence[Run], whole: Mapping[str, float | None]
) -> None:
    """Runs workers on this machine and reports the outcome."""
    there = here.places()
    count = min(_WORKERS.value or len(there), len(runs))
    places = list(itertools.islice(itertools.cycle(there), count))
    out.print(f"{status.outlook(runs, whole, count)}.")
    name = f"{socket.gethostname()}-{os.getpid()}"
    command = [sys.executable, *_command(runs, _WORKDIR, _RESULTS, _DATA_DIR), f"--worker={name}"]
    with stopping() as stop:
        here.work(out, command, places, stop)
    if stop.received:
        raise Interrupted(
            f"Stopped by {stop.received.name}; what was trained is saved. Continue with"
            f" {signals.same_command()}",
            stop.received,
        )
    asked = {run.name for run in runs}
    left = [
        plan.standing(run, None) for run in sweep.missing(sweep.recorded()) if run.name in asked
    ]
    for one in left:
        if one.state == "running":
            out.print(f"{one.run.name} is being trained by another process.")
    if undone := [one for one in left if one.state != "running"]:
        for line in status.failures(undone):
            out.print(line)
        raise Failure(
            f"{len(undone)} of {len(runs)} runs were not completed; the others are recorded or"
            f" being trained. Try again with {signals.same_command()}"
        )


if __name__ == "__main__":
    run(all_articles())
