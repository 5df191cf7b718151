"""Writes the comparison from the records: `python -m experiments.compare [--report]`."""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from experiments.evidence import records, rendering
from experiments.evidence.analysis import Results
from experiments.evidence.rows import all_articles
from mnist_jax import cli
from mnist_jax.cli import display
from mnist_jax.errors import Failure

_REPORT = flags.DEFINE_bool("report", False, "Write a page of pictures instead, to report/.")
_CHECK = flags.DEFINE_bool("check", False, "Write nothing; fail if the files are out of date.")
_RESULTS = cli.define_path(
    "results", records.RESULTS, "Where the records live; what is written goes there and beside it."
)
flags.mark_bool_flags_as_mutual_exclusive(["report", "check"])


def files(directory: Path = records.RESULTS) -> dict[Path, str]:
    """The files that follow from the records of a directory, with their contents.

    Raises:
      Failure: a record is damaged or does not belong to a row.
    """
    results = Results.load(all_articles(), directory)
    return {
        directory.parent / "RESULTS.md": rendering.markdown(results),
        directory / "table.csv": rendering.csv_table(results),
        directory / "table.tex": rendering.latex(results),
    }


def main(argv: Sequence[str]) -> None:
    """Writes the files or the page, or checks the files."""
    del argv
    if not _RESULTS.value.is_dir():
        raise Failure(f"{_RESULTS.value} is no folder; give one with records to --results.")
    if _REPORT.value:
        # Here, where what is missing for it becomes a sentence.
        from experiments.evidence import pages
        from mnist_jax.reporting import page

        comparison = pages.comparison(Results.load(all_articles(), _RESULTS.value))
        written = page.write(comparison, _RESULTS.value.parent / "report")
        display.console().print(f"{written} has the report; its pictures are beside it.")
        return
    for path, text in files(_RESULTS.value).items():
        if not _CHECK.value:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            raise Failure(f"{path} is out of date; run `python -m experiments.compare`.")


if __name__ == "__main__":
    cli.run(main)
