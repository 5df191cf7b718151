"""Publishes a recorded run, or the vote of several, as pretrained weights.

`python -m experiments.publish --experiment=nested_software/dbl_conv_relu --seed=5` takes the
weights from the run directory left by the row's own command and puts them into
`mnist_jax/pretrained/`; `--experiment=frontier/committee` takes those of all members of a vote.
`python -m experiments.compare` then writes their card.
"""

from collections.abc import Sequence

from absl import flags

from experiments.evidence import analysis, records, training
from experiments.evidence.publication import publish
from experiments.evidence.records import Record
from experiments.evidence.results import Results
from experiments.evidence.rows import Article, Ensemble, all_articles, find
from experiments.evidence.training import Places
from mnist_jax import cli
from mnist_jax.cli import display
from mnist_jax.errors import UsageError
from mnist_jax.interchange.pretrained import FOLDER

_EXPERIMENT = flags.DEFINE_string("experiment", None, "Row or vote to publish, as ARTICLE/ROW.")
_SEED = flags.DEFINE_integer("seed", None, "The row's seed, by default 0; a vote has several.", 0)
_WORKDIR = cli.define_path("workdir", training.WORKDIR, "Directory of the run directories.")


def main(argv: Sequence[str]) -> None:
    """Publishes the run or the vote selected by the flags."""
    del argv
    if (name := _EXPERIMENT.value) is None:
        raise UsageError("No row given; add --experiment=ARTICLE/ROW.")
    chosen, vote = _chosen(name)
    places = Places(_WORKDIR.value)
    runs = [(one, places.run_directory(one.article, one.row, one.seed)) for one in chosen]
    written = publish(name, runs, FOLDER, vote)
    sources = ", ".join(str(run.path) for _, run in runs)
    display.console().print(f"{written} has the weights of {sources}")


def _chosen(name: str) -> tuple[Sequence[Record], Ensemble | None]:
    """The records to publish, and the vote if the name is one's."""
    for article in all_articles():
        for vote in article.ensembles:
            if name == f"{article.name}/{vote.id}":
                return _members(article, vote), vote
    return [_run(name)], None


def _members(article: Article, vote: Ensemble) -> Sequence[Record]:
    """The records of a vote's members."""
    if _SEED.value is not None:
        raise UsageError(f"{article.name}/{vote.id} is a vote of several seeds; leave out --seed.")
    found = analysis.ensemble_voters(Results.load([article], records.RESULTS), article, vote)
    if found is None:
        raise UsageError(f"A member of {article.name}/{vote.id} has no record; run it first.")
    return found


def _run(name: str) -> Record:
    """The record of a row's seed."""
    find(name)
    article, _, row = name.partition("/")
    seed = _SEED.value or 0
    for record in records.load(article):
        if (record.row, record.framework, record.seed) == (row, "jax", seed):
            return record
    raise UsageError(f"Seed {seed} of {name} has no record; run it first.")


if __name__ == "__main__":
    cli.run(main)
