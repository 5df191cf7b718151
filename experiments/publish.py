"""Publishes a recorded run, or the vote of several, as pretrained weights.

`python -m experiments.publish --experiment=nested_software/dbl_conv_relu --seed=5` takes the
weights from the run directory left by the row's own command and puts them into
`mnist_jax/pretrained/`; `--experiment=frontier/committee` takes those of all its members.
`python -m experiments.compare` then writes their card.
"""

from collections.abc import Sequence

from absl import flags

from experiments.evidence import analysis, records, training
from experiments.evidence.publication import publish
from experiments.evidence.records import Record
from experiments.evidence.results import Results
from experiments.evidence.rows import all_articles, find
from mnist_jax import cli
from mnist_jax.cli import display
from mnist_jax.errors import UsageError
from mnist_jax.interchange.pretrained import FOLDER
from mnist_jax.runs.directory import RunDirectory

_EXPERIMENT = flags.DEFINE_string(
    "experiment", None, "Row to publish, or vote by mean probability, as ARTICLE/ROW."
)
_SEED = flags.DEFINE_integer("seed", 0, "The row's seed; a vote has all of its members'.", 0)
_WORKDIR = cli.define_path("workdir", training.WORKDIR, "Directory of the run directories.")


def main(argv: Sequence[str]) -> None:
    """Publishes the run or the vote selected by the flags."""
    del argv
    if (name := _EXPERIMENT.value) is None:
        raise UsageError("No row given; add --experiment=ARTICLE/ROW.")
    voters, correct = _vote(name) or _run(name)
    runs = [_WORKDIR.value / one.article / one.row / f"seed-{one.seed}" for one in voters]
    pairs = zip(voters, map(RunDirectory, runs), strict=True)
    written = publish(name, list(pairs), correct, FOLDER)
    display.console().print(f"{written} has the weights of {', '.join(map(str, runs))}")


def _vote(name: str) -> tuple[Sequence[Record], int] | None:
    """The members of a vote, and how many test images it gets right; None if it is a row."""
    for article in all_articles():
        for vote in article.ensembles:
            if f"{article.name}/{vote.id}" == name:
                results = Results.load([article], records.RESULTS)
                voters = analysis.ensemble_voters(results, article, vote)
                if voters is None or vote.vote != "mean":
                    why = "is a majority vote" if vote.vote != "mean" else "lacks a record"
                    raise UsageError(f"{name} {why} and can't be published.")
                return voters, int(analysis.correct_votes(vote, voters).sum())
    return None


def _run(name: str) -> tuple[Sequence[Record], int]:
    """The record of a row's seed, and how many test images it gets right."""
    find(name)
    article, _, row = name.partition("/")
    for record in records.load(article):
        if (record.row, record.framework, record.seed) == (row, "jax", _SEED.value):
            return [record], int(record.correct.sum())
    raise UsageError(f"Seed {_SEED.value} of {name} has no record; run it first.")


if __name__ == "__main__":
    cli.run(main)
