"""The script of an article that takes seconds."""

from experiments.evidence import runner
from experiments.evidence.rows import Article, Ensemble, Row
from mnist_jax.recipe import Recipe

recipe = Recipe(
    model="shallow",
    dataset="digits",
    validation=100,
    batch_size=100,
    epochs=2,
    learning_rate=0.5,
    selection="best_validation",
    eval_every=10,
)
row = Row(id="row", recipe=recipe, published="", figure=None, source="")
vote = Ensemble(
    id="vote", members="row", size=2, published="", figure=99.0, framework="", source=""
)
if __name__ == "__main__":
    runner.run(Article(name="toy", letter="T", title="", rows=(row,), ensembles=(vote,)))
