"""Every network against records of its PyTorch program, where PyTorch is not installed.

Where it is, `test_torch_parity.py` proves the same against the program itself, and one record
that records are still made in the same way.
"""

import importlib.util

import numpy as np
import pytest

from experiments.references import golden
from mnist_jax.models import model_names

RECORDS = dict(np.load(golden.PATH))
NETWORKS = sorted({key.split("/")[0] for key in RECORDS})


def test_every_network_with_a_pytorch_program_has_a_record() -> None:
    assert set(model_names()) - set(NETWORKS) == {"shallow", "expanded_double_fc"}


@pytest.mark.parametrize("name", NETWORKS)
def test_record(name: str) -> None:
    if name != "basic_conv" and importlib.util.find_spec("torch"):
        pytest.skip("PyTorch itself is here to compare with")
    ours = golden.our_record(name)
    prefix = f"{name}/"
    theirs = {k.removeprefix(prefix): v for k, v in RECORDS.items() if k.startswith(prefix)}
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        # Of a fingerprint the first number is the tensor's length.
        assert np.abs(ours[key] - value).max() <= 1e-11 * np.abs(value).max(), key
