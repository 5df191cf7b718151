"""The page on identity: up to date, of every network, and within the tolerances."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from experiments import identity
from experiments.references import limits

KEPT: Mapping[str, Any] = json.loads(identity.KEPT.read_text())


def test_page_is_up_to_date_with_the_stored_measurements() -> None:
    page = identity.PAGE.read_text()
    assert page == identity.text(KEPT)
    assert f"\n{KEPT['date']}, revision {KEPT['git']['revision'][:7]}" in page
    assert f"; {KEPT['cores']} cores of {KEPT['processor']}, " in page
    assert f"torch {KEPT['packages']['torch']}; on MNIST and Fashion-MNIST.\n" in page


def test_every_network_and_case_was_measured() -> None:
    pytest.importorskip("torch")
    from experiments.references.compare_theano import CASES
    from experiments.references.torch_networks import REFERENCES, VARIANTS

    assert [*KEPT["torch"]] == [*REFERENCES, *VARIANTS]
    assert all(
        {*limits.TORCH} - {*KEPT["torch"][n]} <= {"same masks", "moments"} for n in REFERENCES
    )
    cases = [(case.model, case.units, case.lmbda) for case in CASES]
    assert [(row["network"], row["dense units"], row["λ"]) for row in KEPT["theano"]] == cases


def test_stored_measurements_are_within_the_tolerances() -> None:
    for network, found in KEPT["torch"].items():
        measured = {*limits.TORCH} & {*found}
        assert {"logits", "gradients"} <= measured
        for what in measured:
            assert found[what] < limits.of_torch(what, network), (network, what)
        ours, theirs = found.get("right", (0, 0))
        assert ours == theirs
    assert KEPT["theano"]
    for row in KEPT["theano"]:
        assert all(row[what] < most for what, most in limits.THEANO.items())
    assert max(KEPT["training_mode"].values()) < 1e-12


def test_network_s_own_tolerance_is_next_to_the_number() -> None:
    rows: dict[str, dict[str, Any]] = {
        "strided_cnn": {"gradients": 2e-12, "logits": 0.0},
        "dense": {"gradients": 2e-16, "right": [9, 9]},
    }
    head, strided, dense = identity._torch(rows)
    assert head[3] == "gradients (1e-12)"
    assert head[-2:] == ["right (=)", "loss, float32 (1e-6)"]
    assert strided == ["strided_cnn", "", "0", "2e-12 (1e-11)", *[""] * 6]
    assert dense == ["dense", "", "", "2e-16", *[""] * 4, "9 = 9", ""]
