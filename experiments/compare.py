"""Generates the comparison from the records: `python -m experiments.compare [--report]`."""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from experiments.evidence import cards, exports, records, rendering, sections
from experiments.evidence.results import Results
from experiments.evidence.rows import all_articles
from experiments.sweeps import times
from mnist_jax import cli
from mnist_jax.cli import display
from mnist_jax.errors import Failure
from mnist_jax.files import unwritable, write_text
from mnist_jax.interchange import pretrained

_REPORT = flags.DEFINE_bool("report", False, "Write a page of plots instead, to report/.")
_CHECK = flags.DEFINE_bool("check", False, "Write nothing; fail if the files are out of date.")
_RESULTS = cli.define_path(
    "results",
    records.RESULTS,
    "Directory of the records; for others than ours, output is written there too.",
)
_README = Path(__file__).parents[1] / "README.md"
_DOCS = _README.parent / "docs"
_SWEEPS, _IN_USE = _DOCS / "sweeps.md", _DOCS / "networks_in_use.md"
flags.mark_bool_flags_as_mutual_exclusive(["report", "check"])


def files(directory: Path = records.RESULTS) -> dict[Path, str]:
    """The files generated from the records of a directory, with their contents.

    Raises:
      Failure: a record is damaged or does not belong to a row, or a page of ours lacks the markers
        of a generated part.
    """
    results = Results.load(all_articles(), directory)
    made = {
        _pages(directory) / "RESULTS.md": rendering.markdown(results),
        directory / "table.csv": exports.csv_table(results),
        directory / "table.tex": exports.latex(results),
    }
    if _ours(directory):
        page = _pages(directory) / "README.md"
        parts = {"results": rendering.summary(results), "others": rendering.others(results)}
        made[page] = sections.filled(page, parts)
        made[_README] = sections.filled(_README, {"best": rendering.best(results)})
        made[_SWEEPS] = sections.filled(_SWEEPS, {"times": times.page_part(results)})
        names = pretrained.pretrained_names()
        origins = {name: pretrained.Origin.load(pretrained.FOLDER / name) for name in names}
        for name, origin in origins.items():
            made[pretrained.FOLDER / name / "README.md"] = cards.card(origin, results)
        made[_IN_USE] = sections.filled(_IN_USE, {"pretrained": cards.table(origins)})
    return made


def _pages(directory: Path) -> Path:
    """The folder for pages: that of ours, or for other records the records' own folder."""
    return records.RESULTS.parent if _ours(directory) else directory


def _ours(directory: Path) -> bool:
    return directory.resolve() == records.RESULTS.resolve()


def main(argv: Sequence[str]) -> None:
    """Writes the files or the report, or checks the files."""
    del argv
    if not _RESULTS.value.is_dir():
        raise Failure(f"{_RESULTS.value} is not a folder; give one with records to --results.")
    if _REPORT.value:
        # Imported here: the tables need no plots, and importing Matplotlib takes a second.
        from experiments.evidence import pages
        from mnist_jax.reporting import page

        comparison = pages.comparison(Results.load(all_articles(), _RESULTS.value))
        written = page.write(comparison, _pages(_RESULTS.value) / "report")
        display.console().print(f"{written} has the report; its figures are beside it.")
        return
    for path, text in files(_RESULTS.value).items():
        if not _CHECK.value:
            try:
                write_text(path, text)
            except OSError as error:
                raise unwritable(path, error, "--results") from error
        elif not path.exists() or path.read_text() != text:
            raise Failure(f"{path} is out of date; give the same command without --check.")


if __name__ == "__main__":
    cli.run(main)
