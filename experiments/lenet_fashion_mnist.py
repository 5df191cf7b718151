"""Article D: LeNet on Fashion-MNIST, a translation of *Dive into Deep Learning*.

Source: the article's section "Data acquisition and training" and its printed output.
Protocol: 60,000 images, reshuffled every epoch, batches of 256 (the last one 96), SGD at 0.9,
Xavier-uniform weights, sigmoid, 5 epochs; the output shows four of them.
Expected: 75.6% after epoch 4, a single run. Other printings of the book train for 10 epochs and
report 75 to 83% over 34 builds, so the spread between seeds is large.
Duration: a seed sees 300,000 training images; `experiments/RESULTS.md` has the measured time.
Command: `python -m experiments.lenet_fashion_mnist --experiment=all --num_seeds=5`
"""

from experiments.evidence.rows import Ablation, Article, Curve, Figure, Row, changed
from mnist_jax.models import model_entry

_RECIPE = model_entry("lenet").recipe

ARTICLE = Article(
    name="lenet_fashion_mnist",
    letter="D",
    title="LeNet on Fashion-MNIST, after Dive into Deep Learning",
    rows=(
        Row(
            id="lenet",
            recipe=_RECIPE,
            figures=(
                Figure(
                    printed="0.756 after epoch 4",
                    value=75.6,
                    rounding=0.05,
                    selection="the last epoch printed, the fourth of five",
                    source="Data acquisition and training, output of the last program",
                ),
            ),
            epoch=4,
            curves=(
                Curve(
                    column="train_loss",
                    values=(0.0091, 0.0055, 0.0032, 0.0026),
                    rounding=0.00005,
                    # The program divides the sum of the batches' means by the number of images.
                    scale=235 / 60_000,
                ),
                Curve(
                    column="train_accuracy",
                    values=(0.103, 0.446, 0.677, 0.734),
                    rounding=0.0005,
                ),
                Curve(
                    column="test_accuracy",
                    values=(0.100, 0.637, 0.714, 0.756),
                    rounding=0.0005,
                ),
            ),
        ),
        Row(
            id="lenet_10_epochs",
            recipe=changed(_RECIPE, epochs=10),
            figures=(
                Figure(
                    printed="0.75 to 0.83 over 34 builds, mean 0.804",
                    value=80.4,
                    rounding=0.05,
                    framework="several",
                    runs=34,
                    source="other printings of the book",
                ),
            ),
            note="The figure is a mean of 34 builds, so the interval is that of such a mean: the"
            " difference of the two means with Student's t and our standard deviation for both,"
            " since theirs is not published. Their range of 8 points is what 34 normal runs of a"
            " standard deviation of 1.9 span on average.",
        ),
        Row(
            id="lenet_max_pooling",
            recipe=changed(_RECIPE, model_args={"pooling": "max"}),
            figures=(Figure(printed="exercise, no figure", value=None, source="Practice, 1"),),
        ),
    ),
    ablations=(
        Ablation(
            "Does max-pooling help?",
            "lenet_fashion_mnist/lenet_max_pooling",
            "lenet_fashion_mnist/lenet",
        ),
    ),
)

if __name__ == "__main__":
    from experiments.evidence import runner

    runner.run(ARTICLE)
