"""Article F: amineHY's explanation of the CNN "with an illustration of image classification".

Source: the article's untitled text (the quotation is its own description), its printed summary, and
the notebooks of its repository, https://github.com/amineHY/Image-classification-of-MNIST.
Protocol: 60,000 images, reshuffled every epoch, Adam at 0.001; batches of 32 and 15 epochs, or
batches of 100 and 5 epochs for the sibling network; the last epoch counts.
Expected: no test figure was published; the text's "accuracy between ~90 and 100 %" of training
batches, and the notebooks' mean training loss of each epoch, are compared.
Duration: a seed sees 900,000 training images (the sibling: 300,000); `experiments/RESULTS.md` has
the measured times.
Command: `python -m experiments.dropout_cnn --experiment=simple_cnn --num_seeds=5`
"""

from experiments.evidence.rows import Ablation, Article, Curve, Figure, Row, changed
from mnist_jax.models import model_entry

_RECIPE = model_entry("dropout_cnn").recipe

ARTICLE = Article(
    name="dropout_cnn",
    letter="F",
    title="amineHY's untitled article on the CNN",
    rows=(
        Row(
            id="dropout_cnn",
            recipe=_RECIPE,
            figures=(
                Figure(
                    printed="90 to 100% on training batches",
                    value=None,
                    selection="every iteration",
                    source="Monitoring the training; the network of the printed summary",
                    batches_from=90.0,
                ),
            ),
            iterations=1,
            note='The article says "notice the fluctuation of the accuracy between ~90 and 100 %"'
            " about its plot of every iteration. The figure is *inside* if, after the first epoch,"
            " in which the accuracy still rises to that range, at least 95% of the batches of every"
            " run have at least 90% of their images right: 29 of 32.",
        ),
        Row(
            id="dropout_cnn_notebook",
            recipe=changed(_RECIPE, model_args={"forward": "notebook"}),
            iterations=1,
            figures=(
                Figure(
                    printed="training loss 0.0112169087 in epoch 11",
                    value=None,
                    selection="the last epoch printed, the eleventh of 15",
                    curve_epoch=11,
                    source="pytorch_mnist_deep_cnn.ipynb",
                ),
            ),
            curves=(
                Curve(
                    column="train_loss",
                    printed=(
                        *("0.124820858", "0.0454975255", "0.0342978314", "0.0271685198"),
                        *("0.0235471297", "0.0201890636", "0.0180015843", "0.0159422997"),
                        *("0.0138327638", "0.0150435949", "0.0112169087"),
                    ),
                ),
            ),
            note="The notebook drops no units and skips the ReLU after the first dense layer.",
        ),
        Row(
            id="simple_cnn",
            recipe=model_entry("simple_cnn").recipe,
            iterations=1,
            figures=(
                Figure(
                    printed="training loss 0.0291 in epoch 5",
                    value=None,
                    selection="last epoch",
                    curve_epoch=5,
                    source="pytorch_mnist_simple_cnn.ipynb",
                ),
            ),
            curves=(
                Curve(
                    column="train_loss",
                    printed=("0.224", "0.062", "0.0449", "0.0356", "0.0291"),
                ),
            ),
        ),
    ),
    ablations=(
        Ablation(
            "Do dropout and the ReLU help, both of which the notebook leaves out?",
            "dropout_cnn/dropout_cnn",
            "dropout_cnn/dropout_cnn_notebook",
        ),
    ),
    notes=(
        "The article shows the loss and accuracy of every iteration only as plots; the report plots"
        " ours.",
    ),
)

if __name__ == "__main__":
    from experiments.evidence import runner

    runner.run(ARTICLE)
