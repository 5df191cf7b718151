"""Writes the comparison from the records: `python -m experiments.compare`."""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from experiments import records, rendering
from experiments.analysis import Results
from experiments.articles import all_articles
from mnist_jax import cli
from mnist_jax.errors import Failure

_CHECK = flags.DEFINE_bool("check", False, "Write nothing; fail if the files are out of date.")


def files(directory: Path = records.RESULTS) -> dict[Path, str]:
    """The files that follow from the records of a directory, with their contents.

    Raises:
      Failure: a record is damaged or does not belong to a row.
    """
    results = Results.load(all_articles(), directory)
    return {
        directory.parent / "README.md": rendering.markdown(results),
        directory / "table.csv": rendering.csv_table(results),
        directory / "table.tex": rendering.latex(results),
    }


def main(argv: Sequence[str]) -> None:
    """Writes the files, or checks them."""
    del argv
    for path, text in files().items():
        if not _CHECK.value:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            raise Failure(f"{path} is out of date; run `python -m experiments.compare`.")


if __name__ == "__main__":
    cli.run(main)
