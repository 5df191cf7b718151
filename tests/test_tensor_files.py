"""Files of tensors: round trips, and one-sentence refusals of bad files."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mnist_jax.errors import Failure, UsageError
from mnist_jax.interchange import tensor_files

TENSORS = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array(7)}


def _refusal(path: Path) -> str:
    """The sentence that refuses a file, with its path replaced by PATH."""
    with pytest.raises(Failure) as caught:
        tensor_files.read_tensors(path)
    sentence = str(caught.value)
    assert sentence.count(str(path)) == 1
    assert sentence.endswith(".")
    assert "\n" not in sentence
    return sentence.replace(str(path), "PATH")


def test_round_trip_is_bit_exact(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    tensor_files.write_tensors(TENSORS, path)
    again = tensor_files.read_tensors(path)
    assert again.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        assert again[name].dtype == value.dtype
        assert again[name].shape == value.shape
        assert again[name].tobytes() == value.tobytes()
    assert list(tmp_path.iterdir()) == [path]


def test_write_follows_links_and_replaces_regular_files_only(
    tmp_path: Path,
) -> None:
    target, link = tmp_path / "target", tmp_path / "link.safetensors"
    target.touch()
    link.symlink_to(target)
    tensor_files.write_tensors(TENSORS, link)
    assert link.readlink() == target
    assert tensor_files.read_tensors(link).keys() == TENSORS.keys()
    pipe = tmp_path / "pipe.safetensors"
    os.mkfifo(pipe)
    with pytest.raises(
        Failure, match=r"can't be written \(it is not a regular file\); give another"
    ):
        tensor_files.write_tensors(TENSORS, pipe)
    assert pipe.is_fifo()


@pytest.mark.parametrize("kept", [0, 7, 40, -1])
def test_truncated_safetensors_file_is_refused(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "weights.safetensors"
    tensor_files.write_tensors(TENSORS, path)
    path.write_bytes(path.read_bytes()[:kept])
    assert "PATH is damaged or not a safetensors file" in _refusal(path)


def test_dtype_that_numpy_lacks_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    header = json.dumps({"a": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0")
    assert "PATH has a tensor of a type that NumPy lacks" in _refusal(path)


def test_huge_sparse_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.touch()
    os.truncate(path, 2**40)
    assert "1,099,511,627,776" in _refusal(path)


def test_missing_file_folder_and_unknown_suffix_are_refused(tmp_path: Path) -> None:
    assert "No such file" in _refusal(tmp_path / "weights.safetensors")
    (tmp_path / "folder.pt").mkdir()
    assert "PATH is a folder" in _refusal(tmp_path / "folder.pt")
    with pytest.raises(UsageError, match=r"weights\.h5 has an unknown suffix"):
        tensor_files.read_tensors(tmp_path / "weights.h5")


def test_missing_folder_and_other_suffix_are_refused_on_writing(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="No such file"):
        tensor_files.write_tensors(TENSORS, tmp_path / "none" / "weights.safetensors")
    with pytest.raises(UsageError, match=r"weights\.pt does not end in \.safetensors"):
        tensor_files.write_tensors(TENSORS, tmp_path / "weights.pt")


def test_pt_file_without_pytorch_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    path = tmp_path / "weights.pt"
    path.write_bytes(b"PK")
    assert "Reading PATH needs PyTorch" in _refusal(path)


class _RunsCode:
    """Creates a folder when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.mark),)


def test_pt_files_are_read_or_refused_without_running_code(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    path = tmp_path / "weights.pt"
    torch.save({name: torch.tensor(value) for name, value in TENSORS.items()}, path)
    tensors = tensor_files.read_tensors(path)
    assert tensors.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        assert np.array_equal(tensors[name], value)
    parameters = {"a": torch.nn.Parameter(torch.ones(2))}  # As from `named_parameters()`.
    torch.save(parameters, tmp_path / "parameters.pt")
    assert tensor_files.read_tensors(tmp_path / "parameters.pt")["a"].tolist() == [1, 1]
    whole = path.read_bytes()
    for kept in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:kept])
        assert "damaged" in _refusal(path)
    for content, part in (
        ({"a": _RunsCode(tmp_path / "mark")}, "run code"),
        (torch.nn.Linear(1, 1), "run code"),
        ([1, 2], "holds a list"),
        ({"a": 3}, "type int"),
        ({"a": torch.zeros(2, dtype=torch.bfloat16)}, "bfloat16"),
    ):
        torch.save(content, path)
        assert part in _refusal(path)
    assert not (tmp_path / "mark").exists()


def test_state_dict_in_a_checkpoint_of_dataparallel_is_read(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    path = tmp_path / "checkpoint.pt"
    state = {f"module.{name}": torch.tensor(value) for name, value in TENSORS.items()}
    optimizer = {"state": {0: {"step": 3}}, "param_groups": [{"lr": 0.1}]}
    torch.save({"epoch": 3, "model": state, "optimizer": optimizer}, path)
    tensors = tensor_files.read_tensors(path)
    assert tensors.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        assert np.array_equal(tensors[name], value)
    torch.save({"model": state, "ema": state}, path)
    assert "several state_dicts (model, ema)" in _refusal(path)
