"""TensorBoard's event files: what they hold, and what happens if they can't be written."""

import dataclasses
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from small_runs import DATASET, RECIPE
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import RecordWriter

from mnist_jax.cli import tensorboard
from mnist_jax.runs.directory import RunDirectory
from mnist_jax.training.session import train


def trained(*paths: Path) -> None:
    """Trains a seed in each directory, with event files."""
    pairs = [
        (dataclasses.replace(RECIPE, seed=seed), RunDirectory(path))
        for seed, path in enumerate(paths)
    ]
    train(pairs, DATASET, listeners=[tensorboard.writers], num_devices=1)


def read_events(path: Path) -> list[Any]:
    """The events of a file; a record is its length, a checksum, the data and a checksum."""
    data, events = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        events.append(Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    return events


def test_event_files_have_the_metrics_of_their_seed(tmp_path: Path) -> None:
    paths = [tmp_path / "0", tmp_path / "1"]
    trained(*paths)
    for path in paths:
        (file,) = (path / "tensorboard").glob("events.out.tfevents.*")
        first, *events = read_events(file)
        assert first.file_version == "brain.Event:2"
        shown: dict[int, dict[str, float]] = {}
        for event in events:
            (value,) = event.summary.value
            shown.setdefault(event.step, {})[value.tag] = value.simple_value
        lines = (path / "metrics.jsonl").read_text().splitlines()
        rows = {row.pop("step"): row for row in map(json.loads, lines)}
        assert shown == {step: pytest.approx(row, rel=1e-6) for step, row in rows.items()}
        assert len(shown) == 6


def test_training_goes_on_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warnings = list[str]()
    monkeypatch.setattr("absl.logging.warning", lambda *args: warnings.append(args[-1]))
    monkeypatch.setattr(tensorboard, "RecordWriter", lambda _: RecordWriter("/dev/full"))
    trained(tmp_path / "run")
    assert RunDirectory(tmp_path / "run").result()
    assert warnings == ["No space left on device"]  # Once, for six evaluations.
