"""Comparison of two runs of one recipe, which may differ in nothing but times."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mnist_jax.runs.checkpoints import Checkpoints

_TIMES = {"seconds", "images_per_second"}


def assert_same_run(path: Path, other: Path) -> None:
    """Asserts that two finished runs are equal bit for bit, except for times."""
    assert _rows(path) == _rows(other)
    for name in ("config.json", "steps.f32", "predictions.npy"):
        assert (path / name).read_bytes() == (other / name).read_bytes()
    result = json.loads((path / "result.json").read_text())
    other_result = json.loads((other / "result.json").read_text())
    assert _without_times(result) == _without_times(other_result)
    last = max(row["step"] for row in _rows(path))
    for step in (last, result["selected_step"]):
        one, two = _arrays(path, step), _arrays(other, step)
        assert one.keys() == two.keys()
        assert len(one) > 2
        for name, array in one.items():
            assert array.dtype == two[name].dtype
            assert array.tobytes() == two[name].tobytes(), name


def _rows(path: Path) -> list[dict[str, Any]]:
    lines = (path / "metrics.jsonl").read_text().splitlines()
    return [_without_times(json.loads(line)) for line in lines]


def _without_times(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in _TIMES}


def _arrays(path: Path, step: int) -> dict[str, np.ndarray]:
    import orbax.checkpoint as ocp

    assert step in Checkpoints(path / "checkpoints").intact()
    with ocp.StandardCheckpointer() as reader:
        arrays = reader.restore(path / "checkpoints" / str(step) / "default")
    return {name: np.asarray(a) for name, a in arrays.items() if name != "times"}


def largest_difference(a: Any, b: Any) -> float:
    """The largest absolute difference between the leaves of two trees of arrays."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(np.abs(np.asarray(x) - np.asarray(y)).max()) for x, y in pairs)
