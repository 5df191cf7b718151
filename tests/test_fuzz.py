"""Mutated files: no crash, no hang, no unbounded memory, and no wrong data accepted."""

import contextlib
import gzip
import io
import json
import os
import random
import resource
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_files import make_contents, make_file_set
from flax import nnx

from experiments.references.ours import ARRAYS, make_network
from mnist_jax.data import idx
from mnist_jax.data.catalog import FILES, Content
from mnist_jax.errors import Failure
from mnist_jax.interchange import pytorch, tensor_files
from mnist_jax.models import model_entry

COUNT = 10_000 if os.environ.get("MNIST_JAX_FAULTS") == "long" else 400
SECONDS = 20
MEGABYTES = 1024

_VALUES = (0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 28, 0x803, 0x801)


def _mutate(data: bytes, generator: random.Random) -> bytes:
    """Mutates a file in one to three places, as corruption or an attacker would."""
    for _ in range(generator.choice((1, 1, 2, 3))):
        # Most of a file's structure is at its beginning.
        span = generator.choice((len(data), min(len(data), 200)))
        place = generator.randrange(span) if span else 0
        length = generator.choice((1, 2, 4, 8, 64, 1000))
        match generator.randrange(8):
            case 0 | 1:
                flipped = bytes(b ^ (1 << generator.randrange(8)) for b in data[place : place + 1])
                data = data[:place] + flipped + data[place + 1 :]
            case 2:
                value = generator.choice(_VALUES)
                packed = value.to_bytes(4, generator.choice(("big", "little")))
                data = data[:place] + packed + data[place + 4 :]
            case 3:
                data = data[:place]
            case 4:
                data = data[:place] + data[place + length :]
            case 5:
                data = data[:place] + generator.randbytes(length) + data[place:]
            case 6:
                data = data[: place + length] + data[place:]
            case 7:
                data = data[:place] + bytes(length) + data[place + length :]
    return data


@contextlib.contextmanager
def _bounded() -> Iterator[None]:
    """Fails if the block takes too long, or raises the process's peak memory by too much."""

    def hang(*_: object) -> None:
        raise TimeoutError(f"no end after {SECONDS} s")

    with contextlib.suppress(OSError):  # Linux forgets an earlier peak.
        Path("/proc/self/clear_refs").write_text("5")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    handler = signal.signal(signal.SIGALRM, hang)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < MEGABYTES * 1024, f"{grown // 1024} MB"


def _fuzz(originals: list[bytes], read: Callable[[int, bytes], None]) -> None:
    """Calls `read(number, mutant)` on mutants of originals; it refuses or checks what it reads."""
    generator = random.Random(0)
    refused = changed = 0
    for _ in range(COUNT):
        number = generator.randrange(len(originals))
        mutant = _mutate(originals[number], generator)
        changed += mutant != originals[number]
        try:
            with _bounded():
                read(number, mutant)
        except Failure as failure:
            refused += 1
            assert len(str(failure)) > 10  # noqa: PT017 (not every mutant is refused)
    assert changed > 0.9 * COUNT
    assert refused > 0.1 * COUNT


def test_mutated_idx_files_are_refused_or_harmless(tally: Counter[str]) -> None:
    contents = make_contents(seed=0)
    files = make_file_set("mnist", contents)
    originals = [contents[name] for name in FILES]
    originals += [gzip.compress(content) for content in originals]
    whole = {name: Content(contents[name], name) for name in FILES}
    expected = files.assemble(whole, "test")

    def read(number: int, mutant: bytes) -> None:
        name = FILES[number % len(FILES)]
        content = idx.gunzip(mutant, name)
        dataset = files.assemble(whole | {name: Content(content, name)}, "test")
        for got, split in ((dataset.train, expected.train), (dataset.test, expected.test)):
            np.testing.assert_array_equal(got.images, split.images)
            np.testing.assert_array_equal(got.labels, split.labels)

    _fuzz(originals, read)
    tally["mutated IDX files, plain or gzipped, parsed and verified"] += COUNT


def test_idx_parser_accepts_only_what_encodes_to_the_same_bytes(tally: Counter[str]) -> None:
    """Without the digests that a dataset's files are verified by."""
    contents = make_contents(seed=0)
    originals = [contents[name] for name in FILES[:2]]

    def read(number: int, mutant: bytes) -> None:
        if number:
            assert idx.encode_labels(idx.parse_labels(mutant, "labels")) == mutant
        else:
            assert idx.encode_images(idx.parse_images(mutant, "images")) == mutant

    _fuzz(originals, read)
    tally["mutated IDX files, parsed alone"] += COUNT


MODEL = "batchnorm_cnn"
Network = tuple[dict[str, pytorch.Layer], pytorch.Layers]


@pytest.fixture(scope="module")
def network() -> Network:
    network = make_network(MODEL, np.float32)
    layers = pytorch.by_layer(nnx.state(network, ARRAYS))
    return pytorch.torch_layers(network, model_entry(MODEL).torch_names), layers


def test_mutated_safetensors_files_are_refused_or_read_as_they_are(
    network: Network, tmp_path: Path, tally: Counter[str]
) -> None:
    names, layers = network
    path = tmp_path / "weights.safetensors"
    tensor_files.write_tensors(pytorch.to_torch(layers, names), path)

    def read(_: int, mutant: bytes) -> None:
        path.write_bytes(mutant)
        tensors = tensor_files.read_tensors(path)
        pytorch.from_torch(tensors, names, layers)
        expected = _decode(mutant)
        assert tensors.keys() == expected.keys()
        for name, value in tensors.items():
            assert value.tobytes() == expected[name]

    _fuzz([path.read_bytes()], read)
    tally["mutated .safetensors files, read and converted"] += COUNT


def test_mutated_pytorch_files_are_refused_or_harmless(
    network: Network, tmp_path: Path, tally: Counter[str]
) -> None:
    torch: Any = pytest.importorskip("torch")
    names, layers = network
    tensors = pytorch.to_torch(layers, names)
    buffer = io.BytesIO()
    torch.save({name: torch.from_numpy(value) for name, value in tensors.items()}, buffer)
    path = tmp_path / "weights.pt"

    def read(_: int, mutant: bytes) -> None:
        path.write_bytes(mutant)
        got = tensor_files.read_tensors(path)
        pytorch.from_torch(got, names, layers)
        for name, value in got.items():
            np.testing.assert_array_equal(value, tensors[name])

    _fuzz([buffer.getvalue()], read)
    tally["mutated .pt files, read and converted"] += COUNT


def _decode(data: bytes) -> dict[str, bytes]:
    """A minimal reader of the format: length of the header, header as JSON, data."""
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    offsets = {name: entry["data_offsets"] for name, entry in header.items()}
    return {name: data[start + a : start + b] for name, (a, b) in offsets.items()}
