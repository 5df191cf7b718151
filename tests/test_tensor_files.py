"""Files of tensors: what is written can be read, and what is bad is refused in one sentence."""

import json
import os
import re
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
    with pytest.raises(Failure) as caught:
        tensor_files.read_tensors(path)
    sentence = str(caught.value)
    assert str(path) in sentence
    assert sentence.endswith(".")
    assert "\n" not in sentence
    return sentence


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


def test_what_is_there_is_replaced_where_a_link_leads_and_only_if_it_is_a_file(
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
def test_truncated_safetensors(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "weights.safetensors"
    tensor_files.write_tensors(TENSORS, path)
    path.write_bytes(path.read_bytes()[:kept])
    assert "damaged" in _refusal(path)


def test_unknown_dtype(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    header = json.dumps({"a": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0")
    assert "type" in _refusal(path)


def test_a_sparse_giant_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.touch()
    os.truncate(path, 2**40)
    assert "1,099,511,627,776" in _refusal(path)


def test_missing_file_folder_and_suffix(tmp_path: Path) -> None:
    assert "No such file" in _refusal(tmp_path / "weights.safetensors")
    (tmp_path / "folder.pt").mkdir()
    assert "folder" in _refusal(tmp_path / "folder.pt")
    with pytest.raises(UsageError, match=re.escape("weights.h5")):
        tensor_files.read_tensors(tmp_path / "weights.h5")


def test_writing_where_there_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="No such file"):
        tensor_files.write_tensors(TENSORS, tmp_path / "none" / "weights.safetensors")
    with pytest.raises(UsageError, match="suffix"):
        tensor_files.write_tensors(TENSORS, tmp_path / "weights.pt")


def test_pt_without_pytorch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    path = tmp_path / "weights.pt"
    path.write_bytes(b"PK")
    assert "PyTorch" in _refusal(path)


class _RunsCode:
    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.mark),)


def test_pt_files(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: left out .pt files")
    path = tmp_path / "weights.pt"
    torch.save({name: torch.tensor(value) for name, value in TENSORS.items()}, path)
    for name, value in tensor_files.read_tensors(path).items():
        assert np.array_equal(value, TENSORS[name])
    parameters = {"a": torch.nn.Parameter(torch.ones(2))}  # As of `named_parameters()`.
    torch.save(parameters, tmp_path / "parameters.pt")
    assert tensor_files.read_tensors(tmp_path / "parameters.pt")["a"].tolist() == [1, 1]
    whole = path.read_bytes()
    for kept in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:kept])
        assert "damaged" in _refusal(path)
    for content, part in (
        ({"a": _RunsCode(tmp_path / "mark")}, "run code"),
        (torch.nn.Linear(1, 1), "run code"),
        ([1, 2], "list"),
        ({"a": 3}, "type int"),
        ({"a": torch.zeros(2, dtype=torch.bfloat16)}, "bfloat16"),
    ):
        torch.save(content, path)
        assert part in _refusal(path)
    assert not (tmp_path / "mark").exists()


def test_pt_checkpoints_and_parallel_names(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: left out its files")
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
