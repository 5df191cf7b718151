"""Conversion of weights from a file to a run and back."""

import errno
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from commands import run as run_command
from flax import nnx

from experiments.references.ours import ARRAYS, make_network
from mnist_jax.convert import export_weights, import_weights
from mnist_jax.errors import Failure, UsageError
from mnist_jax.interchange import pytorch, tensor_files
from mnist_jax.models import model_entry
from mnist_jax.runs.checkpoints import Checkpoints
from mnist_jax.runs.directory import RunDirectory


def _author_tensors(name: str, **arguments: int) -> dict[str, np.ndarray]:
    network = make_network(name, np.float32, **arguments)
    names = pytorch.torch_layers(network, model_entry(name).torch_names)
    return pytorch.to_torch(pytorch.by_layer(nnx.state(network, ARRAYS)), names, batches=600)


def _write(name: str, path: Path, **arguments: int) -> Path:
    tensor_files.write_tensors(_author_tensors(name, **arguments), path)
    return path


# BatchNorm's count of batches, dropout, and nested networks.
@pytest.mark.parametrize(
    ("name", "arguments"),
    [("batchnorm_cnn", {}), ("dropout_cnn", {}), ("residual_cnn", {"width": 8})],
)
def test_file_to_run_to_file_is_bit_exact(
    name: str, arguments: dict[str, int], tmp_path: Path
) -> None:
    source = _write(name, tmp_path / "theirs.safetensors", **arguments)
    run = RunDirectory(tmp_path / "run")
    import_weights(name, source, run, arguments)
    export_weights(run, tmp_path / "ours.safetensors")
    assert run.recipe().model == name
    theirs = tensor_files.read_tensors(source)
    ours = tensor_files.read_tensors(tmp_path / "ours.safetensors")
    assert ours.keys() == theirs.keys()
    for tensor_name, value in theirs.items():
        assert ours[tensor_name].dtype == value.dtype
        assert ours[tensor_name].tobytes() == value.tobytes()


def test_variant_needs_its_arguments(tmp_path: Path) -> None:
    source = _write("dbl_conv_relu", tmp_path / "theirs.safetensors", hidden=300)
    run = RunDirectory(tmp_path / "run")
    with pytest.raises(Failure, match=r"fc1\.bias of shape \[300\], not \[100\]"):
        import_weights("dbl_conv_relu", source, run)
    import_weights("dbl_conv_relu", source, run, {"hidden": 300})
    export_weights(run, tmp_path / "ours.safetensors")
    assert (tmp_path / "ours.safetensors").read_bytes() == source.read_bytes()


@pytest.mark.parametrize("name", ["shallow", "lenet", "batchnorm_cnn", "dropout_cnn"])
def test_exported_files_load_strictly_in_pytorch(name: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    from experiments.references.torch_networks import REFERENCES, THEANO_NETWORKS

    run = RunDirectory(tmp_path / "run")
    import_weights(name, _write(name, tmp_path / "theirs.safetensors"), run)
    export_weights(run, tmp_path / "ours.safetensors")
    tensors = tensor_files.read_tensors(tmp_path / "ours.safetensors")
    network = THEANO_NETWORKS[name]() if name in THEANO_NETWORKS else REFERENCES[name].network()
    network.load_state_dict({k: torch.tensor(v) for k, v in tensors.items()}, strict=True)
    torch.save(network.state_dict(), tmp_path / "again.pt")
    again = RunDirectory(tmp_path / "again")
    import_weights(name, tmp_path / "again.pt", again)
    export_weights(again, tmp_path / "again.safetensors")
    first, second = tmp_path / "ours.safetensors", tmp_path / "again.safetensors"
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda t: t.pop("conv2.weight"), "lacks the tensor conv2.weight"),
        (
            lambda t: t.update(more=np.zeros(1, np.float32)),
            "has a tensor that this network lacks, more;",
        ),
        (
            lambda t: t.update({"out.bias": np.zeros(11, np.float32)}),
            "has out.bias of shape [11], not [10];",
        ),
        (
            lambda t: t.update({"out.bias": np.zeros(10)}),
            "has out.bias of type float64, not float32;",
        ),
        (lambda t: t["fc1.weight"].fill(np.nan), "has a value in fc1.weight that is not a finite"),
    ],
)
def test_bad_file_is_refused_and_leaves_nothing(
    change: Callable[[dict[str, np.ndarray]], object], part: str, tmp_path: Path
) -> None:
    tensors = _author_tensors("dbl_conv")
    change(tensors)
    source = tmp_path / "theirs.safetensors"
    tensor_files.write_tensors(tensors, source)
    with pytest.raises(Failure) as caught:
        import_weights("dbl_conv", source, RunDirectory(tmp_path / "run"))
    assert part in str(caught.value)
    assert str(source) in str(caught.value)
    assert list(tmp_path.iterdir()) == [source]


def test_failed_write_of_a_run_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = _write("dense", tmp_path / "theirs.safetensors")
    run = RunDirectory(tmp_path / "run")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("orbax.checkpoint.Checkpointer.save", full)
        with pytest.raises(Failure, match="No space left on device"):
            import_weights("dense", source, run)
    assert [path.name for path in run.path.iterdir()] == [".lock"]
    import_weights("dense", source, run)


def test_interrupted_import_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = _write("dense", tmp_path / "theirs.safetensors")
    run = RunDirectory(tmp_path / "run")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        import_weights("dense", source, run)
    assert [path.name for path in run.path.iterdir()] == [".lock"]


def test_existing_run_is_not_overwritten(tmp_path: Path) -> None:
    source = _write("dense", tmp_path / "theirs.safetensors")
    run = RunDirectory(tmp_path / "run")
    import_weights("dense", source, run)
    with pytest.raises(UsageError, match="already has a run; give another --workdir"):
        import_weights("dense", source, run)


def test_export_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Failure, match=r"config\.json can't be read .* the workdir of a run\?"):
        export_weights(RunDirectory(tmp_path / "none"), tmp_path / "ours.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["--workdir=w", "--from=a.pt"], 2, "No model given; add --model=NAME"),
        (
            ["--workdir=w", "--from=a.pt", "--model=dense"],
            1,
            "a.pt can't be read (No such file or directory)",
        ),
        (["--workdir=w", "--to=a.pt", "--model=dense"], 2, "Give either --from=FILE and --model"),
        (["--workdir=w", "--from=a.pt", "--model=dense", "--step=1"], 2, "or --to=FILE"),
    ],
)
def test_command_line_errors(arguments: list[str], code: int, part: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    ended = run_command(tmp_path, "mnist_jax.convert", *arguments, cwd=folder)
    assert ended.returncode == code
    assert part in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert not list(folder.iterdir())
