"""Article C: "The Convolution Neural Network with PyTorch" (Carnegie Mellon, 2017).

Source: the article's text, and its program `NR_CNN_PT.py` (https://github.com/huyaoyu/NN).
Protocol: 60,000 images in file order every epoch, batches of 100, Adam at 0.001, 10 epochs; test
accuracy after the last. Seeds therefore differ in their initial values alone.
Expected: 98.86%, from a single run.
Duration: a seed sees 600,000 training images; `experiments/RESULTS.md` has the measured time.
Command: `python -m experiments.cmu_cnn --experiment=all --num_seeds=5`
"""

from experiments.evidence.rows import Ablation, Article, Cost, Figure, Row, changed, no_figure
from mnist_jax.models import model_entry

_RECIPE = model_entry("cmu_cnn").recipe

ARTICLE = Article(
    name="cmu_cnn",
    letter="C",
    title="Carnegie Mellon, The Convolution Neural Network with PyTorch",
    rows=(
        Row(
            id="cmu_cnn",
            recipe=_RECIPE,
            figures=(
                Figure(
                    printed="98.86%",
                    value=98.86,
                    selection="last epoch",
                    source="Training and Testing",
                ),
            ),
            iterations=10,
        ),
        Row(
            id="cmu_cnn_text",
            recipe=changed(_RECIPE, model_args={"conv_relu": False}),
            figures=no_figure("network of the text", "the text's list of features"),
            note="The text mentions ReLU for the first two dense layers only, but its 98.86% comes"
            " from the program, which has it after the convolutions too.",
        ),
    ),
    ablations=(
        Ablation(
            "Does ReLU after the convolutions help?", "cmu_cnn/cmu_cnn", "cmu_cnn/cmu_cnn_text"
        ),
    ),
    costs=(
        Cost(
            row="cmu_cnn",
            what="memory",
            printed='"about 200MB of that memory"',
            machine="a laptop's GeForce 740, with 2 GB",
            source="Training and Testing",
        ),
    ),
    notes=(
        "The program's curves are plots without numbers: every 10 batches, the mean training loss"
        " of those 10, which our report plots for our runs, and the loss on the next 100 test"
        " images. `python -m mnist_jax.train --model=cmu_cnn --eval_every=10` measures and plots"
        " the latter on all 10,000 test images.",
    ),
)

if __name__ == "__main__":
    from experiments.evidence import runner

    runner.run(ARTICLE)
