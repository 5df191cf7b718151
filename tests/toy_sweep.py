"""A sweep of toy articles: a short row, a longer one, and one that fails."""

import dataclasses

from toy_article import figure, recipe, row, vote

from experiments.evidence.rows import Article, Row

long = Row(
    id="long", recipe=dataclasses.replace(recipe, epochs=100, eval_every=0), figures=(figure,)
)
bad = Row(id="bad", recipe=dataclasses.replace(recipe, weight_decay=1e30), figures=(figure,))
ARTICLES = [
    Article(name="toy", letter="T", title="", rows=(row, bad), ensembles=(vote,)),
    Article(name="other", letter="U", title="", rows=(long,)),
]

if __name__ == "__main__":
    from experiments import sweep

    sweep.run(ARTICLES)
