"""Article B: nestedsoftware, "PyTorch Image Recognition with Convolutional Networks" (2019).

Source: https://nestedsoftware.github.io/2019/09/09/pytorch-image-recognition-with-convolutional-networks-4k17.159805.html
and the figures of its repository, https://github.com/nestedsoftware/pytorch.
Protocol: all 60,000 training images, reshuffled every epoch, batches of 10, SGD, PyTorch's initial
values; test accuracy after the last epoch. The article's pixels are in [0, 1], as were the
repository's in September 2019 (commits f4ef433 to 2656041), when its README gave figures for the
same commands; since 0318ee2 they are normalised with mean 0.1305 and standard deviation 0.3081, and
the figures are new. Expanded data: five times as many images, shifted before they are normalised.
Expected: the figures below, each from a single run, except double_fc_dropout at 0.03 and perhaps
dbl_conv_relu, whose weight decay was chosen among trials.
Duration: a seed sees 3.6 million training images (dense, shallow: 1.8), with expanded data 18
million (double_fc_dropout: 12); `experiments/RESULTS.md` has the measured times.
Command: `python -m experiments.nested_software --experiment=dbl_conv_relu --num_seeds=5`
"""

from experiments.evidence.rows import Ablation, Article, Curve, Figure, Row, changed, no_figure
from mnist_jax.models import model_entry
from mnist_jax.recipe import Recipe

_DENSE = model_entry("dense").recipe
_BASIC = model_entry("basic_conv").recipe
_DBL = model_entry("dbl_conv").recipe
_RELU = model_entry("dbl_conv_relu").recipe
_EXPANDED = changed(_RELU, one_pixel_shifts=True)
_DROPOUT = model_entry("double_fc_dropout").recipe
# Article A's network, whose outputs have no sigmoid, under the protocol of `dense`.
_SHALLOW = changed(_DENSE, model="shallow", loss="cross_entropy", learning_rate=0.1)


def _figure(value: float, source: str) -> Figure:
    return Figure(printed=f"{value:.2f}%", value=value, selection="last epoch", source=source)


def _repository(value: float) -> Figure:
    """The figure in the repository's README for one of the article's commands."""
    return _figure(value, "the repository's README, f4ef433 to 2656041")


def _normalized(identifier: str, recipe: Recipe, value: float) -> Row:
    return Row(
        id=f"{identifier}_normalized",
        recipe=changed(recipe, mean=0.1305, std=0.3081),
        figures=(_figure(value, "the repository's README, since 0318ee2"),),
    )


def _loss(identifier: str, recipe: Recipe, note: str) -> Row:
    """A row for one of the two losses that the text compares without training with both."""
    return Row(
        id=identifier,
        recipe=recipe,
        figures=no_figure("−ln x versus (x − 1)²", "Negative Log Likelihood Loss"),
        note=note,
    )


ARTICLE = Article(
    name="nested_software",
    letter="B",
    title="nestedsoftware, PyTorch Image Recognition with Convolutional Networks",
    rows=(
        Row(
            id="dense",
            recipe=_DENSE,
            figures=(
                Figure(
                    printed="close to 98%",
                    value=98.0,
                    rounding=1.0,
                    selection="not stated",
                    source="introduction",
                ),
                _repository(97.78),
            ),
        ),
        Row(
            id="basic_conv",
            recipe=_BASIC,
            figures=(
                _figure(98.97, "Results for Simple Convolutional Network"),
                _repository(98.94),
            ),
        ),
        Row(
            id="dbl_conv",
            recipe=_DBL,
            figures=(_figure(99.05, "Results for Two Convolutional Layers"), _repository(99.15)),
        ),
        Row(
            id="dbl_conv_relu_wd_0.1",
            recipe=changed(_RELU, weight_decay=0.1),
            figures=(
                _figure(85.31, "Results for ReLU with L2 Regularization"),
                Figure(
                    printed='"my results were significantly worse, hovering at around 85%"',
                    value=None,
                    selection="of several runs",
                    source="the preceding sentence",
                    untested="unexplained",
                ),
            ),
            jumps=True,
            note="With weight decay this strong, the accuracy jumps by several points from epoch to"
            " epoch until the end, farther down than up. The interval is therefore the central 95%"
            " of all accuracies in the second half of our runs. A single result of 85.31% is a low"
            " draw from these; several runs that hover there are not, and remain unexplained. Two"
            " readings were tried and rejected, each in one run that was not recorded: with"
            " normalised input, the accuracy is 91 to 94%; with the images in file order, it is"
            " 85.55 to 85.91% after each of 30 epochs, but the author's program shuffles.",
        ),
        Row(
            id="dbl_conv_relu",
            recipe=_RELU,
            figures=(_figure(99.43, "Results for ReLU with L2 Regularization"), _repository(99.26)),
            note="For the same command with the same pixel values, the author's own repository"
            " reports 0.17 points less than the article. The article chose this weight decay"
            ' "after playing around a bit", in a number of trials that it does not give and by'
            " test accuracy, since it holds out no images. Its figure may be the best of these"
            " trials, and the repository's a later run.",
        ),
        Row(
            id="dbl_conv_relu_expanded",
            recipe=_EXPANDED,
            figures=(_figure(99.51, "Results with Expanded Training Data"), _repository(99.42)),
        ),
        Row(
            id="double_fc_dropout_lr_0.03",
            recipe=changed(_DROPOUT, learning_rate=0.03),
            figures=(
                Figure(
                    printed='mostly "around 99.5%"',
                    value=99.5,
                    rounding=0.1,
                    selection="last epoch, of most of several runs",
                    source="Final Results",
                ),
                Figure(
                    printed="best 99.64%",
                    value=None,
                    selection="last epoch, of the best of several runs",
                    source="Final Results",
                    untested="best of unknown n",
                ),
            ),
            note="The article does not say of how many runs 99.64% is the best, so it cannot be"
            " compared with ours.",
        ),
        Row(
            id="double_fc_dropout",
            recipe=_DROPOUT,
            figures=(_figure(99.63, "Final Results"), _repository(99.59)),
            curves=(Curve(column="test_accuracy"),),
        ),
        _normalized("dense", _DENSE, 97.58),
        _normalized("basic_conv", _BASIC, 98.91),
        _normalized("dbl_conv", _DBL, 99.13),
        _normalized("dbl_conv_relu", _RELU, 99.30),
        _normalized("dbl_conv_relu_expanded", _EXPANDED, 99.43),
        _normalized("double_fc_dropout", _DROPOUT, 99.64),
        _loss(
            "dense_cross_entropy",
            changed(_DENSE, loss="cross_entropy"),
            "`dense` at its own learning rate of 3; the article gives none for this loss. With"
            " 10,000 training images held out, learning rates of 0.3, 1 and 3 reached a held-out"
            " accuracy of 97.18, 97.55 and 97.53% after 30 epochs, each in one run that was not"
            " recorded. Cross-entropy takes sigmoid outputs as logits here, so no class gets a"
            " probability above 23%, e / (e + 9), and the loss is at least 1.46.",
        ),
        _loss(
            "shallow_cross_entropy",
            _SHALLOW,
            "The network of `dense` without the sigmoid on its outputs, at article A's learning"
            " rate for it.",
        ),
        _loss(
            "shallow_mean_squared_error",
            changed(_SHALLOW, loss="mean_squared_error"),
            "At the same learning rate, so that only the loss differs. The squared error is"
            " averaged over ten outputs, which are not squashed into the range 0 to 1.",
        ),
    ),
    ablations=(
        Ablation(
            "Does ReLU help, with its own learning rate and weight decay?",
            "nested_software/dbl_conv_relu",
            "nested_software/dbl_conv",
        ),
        Ablation(
            "Do one-pixel shifts of the training images help, with five times the steps?",
            "nested_software/dbl_conv_relu_expanded",
            "nested_software/dbl_conv_relu",
        ),
        Ablation(
            "Do two large dense layers with dropout help, at another learning rate, without weight"
            " decay and with fewer epochs?",
            "nested_software/double_fc_dropout",
            "nested_software/dbl_conv_relu_expanded",
        ),
        Ablation(
            "Does −ln x help in place of (x − 1)², on sigmoid outputs?",
            "nested_software/dense_cross_entropy",
            "nested_software/dense",
        ),
        Ablation(
            "Does −ln x learn faster, on sigmoid outputs?",
            "nested_software/dense_cross_entropy",
            "nested_software/dense",
            measure="first_epoch",
        ),
        Ablation(
            "Does −ln x help in place of (x − 1)², on linear outputs?",
            "nested_software/shallow_cross_entropy",
            "nested_software/shallow_mean_squared_error",
        ),
        Ablation(
            "Does −ln x learn faster, on linear outputs?",
            "nested_software/shallow_cross_entropy",
            "nested_software/shallow_mean_squared_error",
            measure="first_epoch",
        ),
        Ablation(
            'Does a learning rate of 0.03 "fluctuate chaotically", where 0.005 is "more stable"?',
            "nested_software/double_fc_dropout_lr_0.03",
            "nested_software/double_fc_dropout",
            measure="fluctuation",
        ),
        Ablation(
            "Does normalising the input help?",
            "nested_software/dbl_conv_relu_normalized",
            "nested_software/dbl_conv_relu",
        ),
        Ablation(
            "Is Nielsen's λ = 0.1 a weight decay of 0.1? (The protocols also differ.)",
            "nielsen/dbl_conv_relu",
            "nested_software/dbl_conv_relu_wd_0.1",
            note="Nielsen's cost divides λ by the 5,000 batches of an epoch, so his 0.1 is a weight"
            " decay of 0.00002 in PyTorch's sense, on weights alone. Article B's 0.1 is 5,000 times"
            " as strong and also on biases: it prints 85.31%, Nielsen 99.23%.",
        ),
    ),
    notes=(
        "The article shows the test accuracy after every epoch of the last run (double_fc_dropout"
        " at a learning rate of 0.005) only as a plot; only its final value, 99.63%, can be"
        " compared.",
    ),
)

if __name__ == "__main__":
    from experiments.evidence import runner

    runner.run(ARTICLE)
