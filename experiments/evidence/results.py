"""All articles with the records of their rows."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from experiments.evidence import records
from experiments.evidence.records import Record
from experiments.evidence.rows import Article, Ensemble, Row
from mnist_jax.errors import Failure


@dataclass(frozen=True)
class Results:
    """All articles with the records of each of their rows.

    Attributes:
      articles: in order.
      runs: records by (article, row, framework), in order of seed.
    """

    articles: Sequence[Article]
    runs: Mapping[tuple[str, str, str], Sequence[Record]]

    @classmethod
    def load(cls, articles: Sequence[Article], directory: Path) -> Self:
        """Reads and checks the records.

        Raises:
          Failure: one is damaged, has another recipe than its row, or belongs to no row.
        """
        runs = {}
        for article in articles:
            found = records.load(article.name, directory)
            if strangers := {r.row for r in found} - {row.id for row in article.rows}:
                raise Failure(
                    f"There are records of {article.name}, row {min(strangers)}, which it does not"
                    " have; remove their lines or restore the row."
                )
            for row in article.rows:
                for framework in ("jax", "torch"):
                    key = (article.name, row.id, framework)
                    runs[key] = records.of_row(found, row.id, row.recipe, framework)
        return cls(articles, runs)

    @classmethod
    def usable(cls, articles: Sequence[Article], directory: Path) -> Self:
        """As `load`, without the articles for which that raises a Failure."""
        found = []
        for article in articles:
            with contextlib.suppress(Failure):
                found.append(cls.load([article], directory))
        return cls(
            [article for one in found for article in one.articles],
            {key: runs for one in found for key, runs in one.runs.items()},
        )

    @property
    def rows(self) -> list[tuple[Article, Row]]:
        """Every row with its article."""
        return [(article, row) for article in self.articles for row in article.rows]

    @property
    def entries(self) -> list[tuple[Article, Row | Ensemble]]:
        """The rows, then the ensembles."""
        return [*self.rows, *((a, one) for a in self.articles for one in a.ensembles)]

    def row(self, name: str) -> Row:
        """The row called `article/row`."""
        article, row = name.split("/")
        return next(one for one in self.articles if one.name == article).row(row)

    def entry(self, name: str) -> Row | Ensemble:
        """The row or ensemble called `article/row`."""
        return next(one for article, one in self.entries if f"{article.name}/{one.id}" == name)

    def by_seed(self, name: str) -> dict[int, Record]:
        """Our runs of the row called `article/row`."""
        article, row = name.split("/")
        return {run.seed: run for run in self.runs[article, row, "jax"]}
