"""Training with article A's protocol against a NumPy reference of its program."""

import numpy as np
import pytest

from experiments.references import compare_theano, limits
from experiments.references.distributions import standard_errors_apart


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[pytest.mark.slow] * (case.units > 100))
        for case in compare_theano.CASES
    ],
    ids=lambda case: f"{case.model}-{case.units}",
)
def test_twenty_steps_agree_with_article_a_s_program(case: compare_theano.Case) -> None:
    differences = compare_theano.training(case, steps=20)
    assert differences.losses < limits.THEANO["losses"]
    assert differences.values < limits.THEANO["weights"]
    assert differences.logits < limits.THEANO["logits"]


@pytest.mark.parametrize(
    "case",
    [case for case in compare_theano.CASES if case.units == 100 or case.lmbda == 0],
    ids=lambda case: f"{case.model}-{case.units}",
)
def test_initial_values_have_article_a_s_distribution(case: compare_theano.Case) -> None:
    ours, theirs = compare_theano.initial_values(case, seeds=10)
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        assert standard_errors_apart(values, theirs[name]) < 5, name
    *_, last_weights, last_biases = ours.values()
    assert not last_weights.any()
    assert not last_biases.any()


def test_comparison_is_sensitive_to_the_gradient_of_equal_maxima() -> None:
    """Theano's rule for equal maxima changes the result by more than rounding."""
    case = compare_theano.Case("dbl_conv_relu", 0.03, 0.1)
    differences = compare_theano.training(case, steps=2, all_maxima=True)
    assert np.isfinite(differences.values)
    assert 1e-9 < differences.values < 1e-2
