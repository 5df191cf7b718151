"""Errors, kills and power failures at every file operation: a resumed run ends bit-identical.

`make faults` runs all of them; `inject_faults.py` describes how.
"""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from file_operations import COMPILER, Disk, Operation, build, read_log, write_files

from mnist_jax.errors import UsageError
from mnist_jax.models import model_entry
from mnist_jax.runs.directory import RunDirectory
from mnist_jax.training import devices

LONG = os.environ.get("MNIST_JAX_FAULTS") == "long"
NEEDS_COMPILER = pytest.mark.skipif(COMPILER is None, reason="needs a C compiler")

# Templates of docs/faults.json's keys.
_COUNTED = {
    "errors": "{} of a file operation in training",
    "commands": "{} of a file operation in a command",
    "kills": "kills after a file operation",
    "crashes": "losses of power",
}


@pytest.mark.slow
@NEEDS_COMPILER
@pytest.mark.parametrize(
    ("kind", "stride"), [("errors", 300), ("kills", 200), ("crashes", 100), ("commands", 60)]
)
def test_a_run_resumed_after_a_fault_is_bit_identical(
    kind: str, stride: int, tmp_path: Path, tally: Counter[str]
) -> None:
    script = str(Path(__file__).with_name("inject_faults.py"))
    project = str(Path(__file__).parents[1])
    environment = {"LD_PRELOAD": str(build(tmp_path)), "PYTHONPATH": project}
    shards = devices.cores()

    def inject(shard: int) -> subprocess.CompletedProcess[str]:
        numbers = map(str, (shard, shards, 1 if LONG else stride))
        with (tmp_path / f"{shard}.jsonl").open("w") as outcomes:
            return subprocess.run(
                [sys.executable, script, str(tmp_path / str(shard)), kind, *numbers],
                env=os.environ | environment,
                stdout=outcomes,
                stderr=subprocess.PIPE,
                text=True,
            )

    with ThreadPoolExecutor(shards) as threads:
        done = list(threads.map(inject, range(shards)))
    failed = {one.returncode: one.stderr[-3000:] for one in done if one.returncode}
    assert not failed
    outcomes: list[dict[str, Any]] = [
        json.loads(line)
        for path in sorted(tmp_path.glob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    assert outcomes
    assert not [outcome for outcome in outcomes if outcome["difference"]]
    if kind in ("kills", "crashes"):
        tally[_COUNTED[kind]] += len(outcomes)
        return
    happened = [outcome for outcome in outcomes if outcome["seconds"] is not None]
    missing = len(outcomes) - len(happened)
    assert missing <= max(1, 0.05 * len(outcomes))
    ended = [outcome["seconds"] for outcome in happened if outcome["ended"] != "trained"]
    assert max(ended, default=0) < 10
    tally.update(_COUNTED[kind].format(outcome["error"]) for outcome in happened)
    failures = _COUNTED[kind].format("failures")
    tally[f"{failures} that did not come about"] = missing
    tally[f"{failures}: milliseconds to the end, at most"] = int(1000 * max(ended, default=0))


@NEEDS_COMPILER
def test_the_library_logs_file_operations_and_injects_an_error(tmp_path: Path) -> None:
    script = """
import os, pathlib, shutil, sys
root = pathlib.Path(sys.argv[1])
(root / "folder").mkdir()
with (root / "folder" / "file").open("wb") as file:
    file.write(b"one"); file.flush(); os.fsync(file.fileno())
with (root / "folder" / "file").open("ab") as file:
    file.write(b"two")
(root / "folder" / "file").replace(root / "other")
(root / "other").read_bytes()
shutil.rmtree(root / "folder")
try:
    (root / "no").mkdir()
except OSError as error:
    print(error.errno)
"""
    root = tmp_path / "root"
    root.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", script, root],
        env=os.environ
        | {
            "LD_PRELOAD": str(build(tmp_path)),
            "FILE_OPERATIONS_ROOT": str(root),
            "FILE_OPERATIONS_LOG": str(tmp_path / "log"),
            "FILE_OPERATIONS_AT": "mkdir /no 1",
            "FILE_OPERATIONS_ERROR": "28",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "28\n"
    operations = read_log(tmp_path / "log", root)
    seen = [o for o in operations if o.what not in ("read", "list")]
    assert [(o.what, o.path, o.offset, o.data) for o in seen[:-1]] == [
        ("mkdir", "folder", 0, b""),
        ("create", "folder/file", 0, b""),
        ("write", "folder/file", 0, b"one"),
        ("fsync", "folder/file", 0, b""),
        ("open", "folder/file", 0, b""),
        ("write", "folder/file", 3, b"two"),
        ("rename", "folder/file", 0, b""),
        ("open", "other", 0, b""),
        ("open", "folder", 0, b""),
        ("rmdir", "folder", 0, b""),
    ]
    assert (seen[-1].what, seen[-1].path) == ("fault", "no")
    assert abs(seen[-1].offset / 1000 - time.time()) < 60
    files = Disk(operations[:-1]).kill(len(operations) - 1)
    assert files == {"other": b"onetwo"}
    write_files(files, tmp_path / "again")
    assert (tmp_path / "again" / "other").read_bytes() == (root / "other").read_bytes()


def _operations(*lines: str) -> list[Operation]:
    """Parses lines such as "write file text" and "rename file other"."""
    operations = []
    for line in lines:
        what, path, other = [*line.split(), ""][:3]
        text = other.encode() if what == "write" else b""
        operations.append(Operation(what, path, "" if text else other, 0, text, ""))
    return operations


@pytest.mark.parametrize(
    ("lines", "possible"),
    [
        # Nothing was synchronised: the directory entry may survive without the content.
        (["create a", "write a x"], [{}, {"a": b""}, {"a": b"\0"}, {"a": b"x"}]),
        # The content was, the directory entry was not.
        (["create a", "write a x", "fsync a"], [{}, {"a": b"x"}]),
        (["create a", "write a x", "fsync a", "fsync ."], [{"a": b"x"}]),
        # A rename is atomic, but may become durable before the content.
        (
            ["create a", "fsync .", "write a x", "rename a b"],
            [{name: content} for name in "ab" for content in (b"", b"\0", b"x")],
        ),
        (["create a", "write a x", "fsync a", "rename a b", "fsync ."], [{"b": b"x"}]),
        # A file is lost with its directory.
        (["mkdir d", "create d/a", "fsync d"], [{}, {"d": None, "d/a": b""}]),
        (["create a", "fsync .", "unlink a"], [{"a": b""}, {}]),
        (["create a", "fsync .", "unlink a", "fsync ."], [{}]),
    ],
)
def test_a_power_failure_preserves_what_was_synchronised_and_some_of_the_rest(
    lines: list[str], possible: list[dict[str, bytes | None]]
) -> None:
    operations = _operations(*lines)
    disk = Disk(operations)
    count = f"after operation {len(operations)}"
    states = [state for what, state in disk.crashes(300, 0) if what.endswith(count)]
    assert all(state in possible for state in states)
    assert all(state in states for state in possible)
    assert disk.kill(len(operations)) == possible[-1]


@NEEDS_COMPILER
def test_overwriting_a_run_never_mixes_its_files_with_the_new_ones(tmp_path: Path) -> None:
    before, root = tmp_path / "before", tmp_path / "run"
    (before / "checkpoints" / "1").mkdir(parents=True)
    beside = {"metrics.jsonl", "steps.f32", "predictions.npy", "environment.json"}
    old = {"checkpoints/1/x", *beside}
    for name in old:
        (before / name).write_text("old")
    result = dict.fromkeys(("epochs", "test_accuracy", "selected_step", "seconds"), 1)
    (before / "result.json").write_text(json.dumps(result))
    recipe = model_entry("dense").recipe
    (before / "config.json").write_text(recipe.to_json())
    shutil.copytree(before, root)
    new = dataclasses.replace(recipe, learning_rate=9.0)
    script = """
import sys
from mnist_jax.recipe import Recipe
from mnist_jax.runs.directory import RunDirectory
run = RunDirectory(sys.argv[1])
run.clear()
run.create(Recipe.load(sys.argv[2]), {"device": {}})
"""
    (tmp_path / "new.json").write_text(new.to_json())
    interception = {
        "LD_PRELOAD": str(build(tmp_path)),
        "FILE_OPERATIONS_ROOT": str(root),
        "FILE_OPERATIONS_LOG": str(tmp_path / "log"),
    }
    subprocess.run(
        [sys.executable, "-c", script, root, tmp_path / "new.json"],
        env=os.environ | interception,
        check=True,
    )
    ends, seen = Counter[str](), set[frozenset[tuple[str, bytes | None]]]()
    for what, files in Disk(read_log(tmp_path / "log", root), before).crashes(2000, 0):
        if (state := frozenset(files.items())) in seen:
            continue  # Most states occur many times.
        seen.add(state)
        shutil.rmtree(root)
        write_files(files, root)
        run = RunDirectory(root)
        try:
            run.check(new)
        except UsageError:  # Still the old run: if its result is there, so is everything else.
            ends["old"] += 1
            assert run.result() is None or (files.keys() >= old and run.recipe() == recipe), what
            # If the checkpoint is there, so is everything that resuming from it needs.
            assert "checkpoints/1/x" not in files or files.keys() >= beside, what
        else:
            ends["new"] += 1
            assert not files.keys() & (old - {"environment.json"}), what
            assert files.get("environment.json") != b"old", what
    assert min(ends["old"], ends["new"]) > 5
