"""Reading and writing files of named tensors: `.safetensors`, and PyTorch's `.pt` for reading."""

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from mnist_jax.errors import Failure, UsageError
from mnist_jax.files import write_output

# The largest documented network needs 19 MB, an ensemble of ten 190.
_MOST_BYTES = 2**28
_PARALLEL = "module."


def read_tensors(path: Path | str) -> dict[str, np.ndarray]:
    """Reads a `state_dict` from `.safetensors`, or from `.pt` or `.pth` if PyTorch is installed.

    Code in a `.pt` file is never run. A `state_dict` may be inside a checkpoint, such as
    `{"model": state_dict, "epoch": 3}`, if it is the only one. The prefix `module.`, which
    `torch.nn.DataParallel` adds to every name, is removed.

    Raises:
      UsageError: the file has another suffix.
      Failure: the file can't be read, is damaged, too large, or not a state_dict; or PyTorch is
        needed but not installed.
    """
    path = Path(path)
    readers = {".safetensors": _read_safetensors, ".pt": _read_torch, ".pth": _read_torch}
    if path.suffix not in readers:
        raise UsageError(f"{path} has an unknown suffix; give a .safetensors or .pt file.")
    try:
        if path.is_dir():
            raise Failure(f"{path} is a folder; name the file in it.")
        _refuse_too_large(path, path.stat().st_size)
        tensors = readers[path.suffix](path)
    except OSError as error:
        raise Failure(f"{path} can't be read ({error.strerror or error}).") from error
    if all(name.startswith(_PARALLEL) for name in tensors):
        return {name.removeprefix(_PARALLEL): value for name, value in tensors.items()}
    return tensors


def write_tensors(tensors: Mapping[str, np.ndarray], path: Path | str) -> None:
    """Writes `.safetensors`, whole or not at all.

    Raises:
      UsageError: the file has another suffix.
      Failure: the file can't be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise UsageError(f"{path} does not end in .safetensors; give it that suffix.")
    write_output(path, to_bytes(tensors), "file")


def to_bytes(tensors: Mapping[str, np.ndarray]) -> bytes:
    """The content of a `.safetensors` file."""
    return save(dict(tensors), metadata={"format": "pt"})


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise Failure(f"{path} is damaged or not a safetensors file; fetch it again.") from error
    except (AttributeError, TypeError) as error:
        raise Failure(f"{path} has a tensor of a type that NumPy lacks, not float32.") from error


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ModuleNotFoundError as error:
        raise Failure(
            f"Reading {path} needs PyTorch, which is not installed; run `make torch`, or give the"
            " weights as .safetensors."
        ) from error
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                _refuse_too_large(path, sum(member.file_size for member in archive.infolist()))
                # PyTorch itself does not detect changed bytes.
                if member := archive.testzip():
                    raise zipfile.BadZipFile(member)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # They concern the file's type; errors say more.
            values = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise Failure(
            f"{path} is damaged or holds more than tensors, which is not loaded because it could"
            " run code; save only the state_dict."
        ) from error
    except (Failure, OSError):
        raise
    except Exception as error:  # A damaged file can raise any of a dozen types.
        raise Failure(f"{path} is damaged or not a PyTorch file; save it again.") from error
    if not isinstance(values, Mapping):
        raise Failure(f"{path} holds a {type(values).__name__}, not a state_dict.")
    inner = {
        name: value
        for name, value in values.items()
        if isinstance(value, Mapping) and value and all(map(torch.is_tensor, value.values()))
    }
    if len(inner) > 1:
        raise Failure(f"{path} holds several state_dicts ({', '.join(inner)}); save only one.")
    tensors = {}
    for name, value in next(iter(inner.values()), values).items():
        try:
            tensors[str(name)] = value.detach().numpy()
        except (AttributeError, TypeError, RuntimeError) as error:
            kind = getattr(value, "dtype", type(value).__name__)
            raise Failure(f"{path} has {name} of type {kind}, not float32.") from error
    return tensors


def _refuse_too_large(path: Path, size: int) -> None:
    if size > _MOST_BYTES:
        raise Failure(f"{path} holds {size:,} bytes, far more than any network here needs.")
