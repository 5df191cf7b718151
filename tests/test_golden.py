"""Every network, compared with stored values of its PyTorch original.

Where PyTorch is installed, `test_torch_parity.py` compares with the original itself; one network is
still compared here, to check that the values are computed in the same way.
"""

import importlib.util

import numpy as np
import pytest

from experiments.references import golden
from mnist_jax.models import model_names

RECORDS = dict(np.load(golden.PATH))
NETWORKS = sorted({key.split("/")[0] for key in RECORDS})


def test_every_network_with_a_pytorch_original_has_stored_values() -> None:
    assert set(model_names()) - set(NETWORKS) == {"shallow", "expanded_double_fc"}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_matches_its_stored_values(name: str) -> None:
    if name != "basic_conv" and importlib.util.find_spec("torch"):
        pytest.skip("compared with PyTorch itself")
    ours = golden.our_record(name)
    prefix = f"{name}/"
    theirs = {k.removeprefix(prefix): v for k, v in RECORDS.items() if k.startswith(prefix)}
    assert ours.keys() == theirs.keys()
    assert theirs
    for key, value in theirs.items():
        # The largest number of a fingerprint is its first, the tensor's norm.
        assert np.abs(ours[key] - value).max() <= 1e-11 * np.abs(value).max(), key
