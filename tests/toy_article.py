"""The script of a toy article, which takes seconds to train."""

from experiments.evidence.rows import Article, Ensemble, Figure, Row
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
figure = Figure(printed="", value=99.0, selection="", source="")
row = Row(id="row", recipe=recipe, figures=(figure,))
vote = Ensemble(id="vote", members="row", size=2, figures=(figure,), vote="mean")
if __name__ == "__main__":
    from experiments.evidence import runner

    runner.run(Article(name="toy", letter="T", title="", rows=(row,), ensembles=(vote,)))
