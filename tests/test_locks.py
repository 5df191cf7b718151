"""A lock on a file, where the system is POSIX and where it is Windows."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mnist_jax.files import lock


def test_a_lock_keeps_others_out_until_its_file_is_closed(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with path.open("w") as other:
        with path.open("w") as file:
            lock(file, wait=False)
            with pytest.raises(BlockingIOError):
                lock(other, wait=False)
        lock(other, wait=False)


def test_windows_locks_a_byte_that_nobody_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []

    def locking(descriptor: int, mode: int, count: int) -> None:
        if mode == fake.LK_NBLCK and taken:
            raise PermissionError(13, "Permission denied")
        taken.append(file.tell())
        if len(taken) == 2:
            raise OSError(36, "Resource deadlock avoided")  # After ten seconds.
        assert (descriptor, count) == (file.fileno(), 1)

    fake = SimpleNamespace(LK_LOCK=1, LK_NBLCK=2, locking=locking)
    monkeypatch.setitem(sys.modules, "msvcrt", fake)
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setattr(sys, "platform", "win32")
    with (tmp_path / "records").open("a+") as file:
        lock(file, wait=False)
        with pytest.raises(BlockingIOError):
            lock(file, wait=False)
        lock(file)
        file.seek(0)
        file.write("line\n")
    assert taken == [2**30] * 3
    assert (tmp_path / "records").read_text() == "line\n"


def test_the_package_is_imported_where_there_is_no_fcntl() -> None:
    program = "import sys; sys.modules['fcntl'] = None; import mnist_jax.runs.directory"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
