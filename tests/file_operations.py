"""File operations of a program: recorded, made to fail, and replayed up to a power failure."""

import os
import random
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

COMPILER = shutil.which("cc")
_SOURCE = Path(__file__).with_suffix(".c")


def build(folder: Path) -> Path:
    """Compiles the library to preload."""
    assert COMPILER
    library = folder / "file_operations.so"
    options = ["-std=gnu11", "-O1", "-shared", "-fPIC", "-ldl", "-lpthread"]
    subprocess.run([COMPILER, "-o", str(library), str(_SOURCE), *options], check=True)
    return library


@dataclass(frozen=True)
class Operation:
    """A line of the log (see `file_operations.c`), with paths relative to the root."""

    what: str
    path: str
    other: str
    offset: int
    data: bytes
    name: str


def read_log(log: Path, root: Path) -> list[Operation]:
    """Reads the operations in the order in which they took place."""
    content, operations, start = log.read_bytes(), [], 0
    while start < len(content):
        end = content.index(b"\n", start)
        what, path, other, offset, size, name = content[start:end].decode().split("\t")
        start = end + 1 + int(size)
        path, other = (os.path.relpath(p, root) if p else "" for p in (path, other))
        data = content[end + 1 : start]
        operations.append(Operation(what, path, other, int(offset), data, name))
    return operations


_PAGE = 4096

# A directory entry: (inode of the directory, name, inode that it now refers to, or None).
_Entry = tuple[int, str, int | None]
# Data written to a file: (its inode, offset, bytes; None truncates it there).
_Content = tuple[int, int, bytes | None]


@dataclass(eq=False)
class _Effect:
    """An atomic change.

    Attributes:
      issued: the number of the operation that makes it.
      entries: directory entries that it sets.
      content: what it does to the content of a file.
      durable: the number of the operation after which it survives a power failure.
    """

    issued: int
    entries: Sequence[_Entry] = ()
    content: _Content | None = None
    durable: float = float("inf")


class Disk:
    """A simulated disk that loses unsynchronised changes in a power failure.

    It guarantees no more than POSIX does: `fsync` of a file makes its content durable, but not its
    directory entry; that of a directory, its entries. Changes that were not synchronised survive in
    any combination; only a rename is atomic.

    Args:
      operations: all operations below a directory, which was empty or as in `before`.
      before: a directory with the initial files, all of which are durable.
    """

    def __init__(self, operations: Sequence[Operation], before: Path | None = None):
        self._all = range(1, len(operations) + 1)
        self._outside = [n for n in self._all if "checkpoints/" not in operations[n - 1].path]
        self._effects: list[_Effect] = []
        self._inodes: dict[str, int] = {".": 0}
        self._directories = {0}
        self._next = 1
        for path in sorted(before.rglob("*")) if before else ():
            name = path.relative_to(before or path).as_posix()
            self._make(name, 0, directory=path.is_dir())
            if path.is_file():
                self._write(self._inodes[name], 0, path.read_bytes(), 0)
        for effect in self._effects:
            effect.durable = 0
        for number, operation in enumerate(operations, 1):
            self._apply(number, operation)

    def crashes(self, count: int, seed: int) -> Iterator[tuple[str, dict[str, bytes | None]]]:
        """Yields states after power failures: what happened, and contents by path (None: a folder).

        The power fails after a random operation, half of the time one outside checkpoints, of which
        there are fewer. Of the changes that were not synchronised, none survives, or all but one,
        or one, or about half.
        """
        generator = random.Random(seed)
        for _ in range(count):
            after = generator.choice(generator.choice((self._outside, self._all)))
            issued = [e for e in self._effects if e.issued <= after]
            volatile = [e for e in issued if e.durable > after]
            one = volatile[generator.randrange(len(volatile))] if volatile else None
            kind = generator.choice(["none of", "all but one of", "one of", "half of"])
            match kind:
                case "none of":
                    kept = []
                case "all but one of":
                    kept = [effect for effect in volatile if effect is not one]
                case "one of":
                    kept = [effect for effect in volatile if effect is one]
                case _:
                    kept = [effect for effect in volatile if generator.random() < 0.5]
            what = f"{kind} {len(volatile)} changes, after operation {after}"
            lost = [effect for effect in volatile if effect not in kept]
            yield what, self._state([effect for effect in issued if effect not in lost])

    def kill(self, after: int) -> dict[str, bytes | None]:
        """The files that a process leaves if it is killed after this many operations."""
        return self._state([e for e in self._effects if e.issued <= after])

    def _apply(self, number: int, operation: Operation) -> None:
        path = operation.path
        match operation.what:
            case "create" | "mkdir":
                self._make(path, number, directory=operation.what == "mkdir")
            case "truncate":
                self._write(self._inodes[path], 0, None, number)
            case "write":
                self._write(self._inodes[path], operation.offset, operation.data, number)
            case "open" | "read" | "list" | "flock" | "fault":
                pass
            case "unlink" | "rmdir":
                self._effects.append(_Effect(number, [self._entry(path, None)]))
                del self._inodes[path]
            case "rename":
                self._rename(path, operation.other, number)
            case "fsync":
                self._synchronise(self._inodes[path], number)
            case what:
                raise ValueError(f"{what} is not simulated.")

    def _make(self, path: str, number: int, *, directory: bool) -> None:
        self._inodes[path], self._next = self._next, self._next + 1
        if directory:
            self._directories.add(self._inodes[path])
        self._effects.append(_Effect(number, [self._entry(path, self._inodes[path])]))

    def _write(self, inode: int, offset: int, data: bytes | None, number: int) -> None:
        pieces: list[tuple[int, bytes | None]] = [(offset, None)]
        if data is not None:
            # The file's length and each page separately: a page that is lost reads as zeros.
            starts = range(offset // _PAGE * _PAGE, offset + len(data), _PAGE)
            bounds = [(max(offset, s), min(offset + len(data), s + _PAGE)) for s in starts]
            pieces = [(offset + len(data), b"")]
            pieces += [(a, data[a - offset : b - offset]) for a, b in bounds]
        self._effects += [_Effect(number, content=(inode, *piece)) for piece in pieces]

    def _rename(self, path: str, other: str, number: int) -> None:
        entries = [self._entry(path, None), self._entry(other, self._inodes[path])]
        self._effects.append(_Effect(number, entries))
        moved = {p: n for p, n in self._inodes.items() if p == path or p.startswith(path + "/")}
        for name in moved:
            del self._inodes[name]
        self._inodes |= {other + name.removeprefix(path): n for name, n in moved.items()}

    def _synchronise(self, inode: int, after: int) -> None:
        for effect in self._effects:
            directories = {directory for directory, _, _ in effect.entries}
            content = effect.content is not None and effect.content[0] == inode
            # Conservative: `fsync` of one directory never makes a rename between two durable.
            if effect.durable == float("inf") and (content or directories == {inode}):
                effect.durable = after

    def _entry(self, path: str, inode: int | None) -> _Entry:
        directory, name = os.path.split(path)
        return self._inodes[directory or "."], name, inode

    def _state(self, effects: Sequence[_Effect]) -> dict[str, bytes | None]:
        """The files that result from these effects, in order."""
        names: dict[int, dict[str, int]] = {directory: {} for directory in self._directories}
        contents: dict[int, bytearray] = {}
        for effect in effects:
            for directory, name, inode in effect.entries:
                names[directory].pop(name, None)
                if inode is not None:
                    names[directory][name] = inode
            if effect.content is not None:
                inode, offset, data = effect.content
                content = contents.setdefault(inode, bytearray())
                if data is None:
                    del content[offset:]
                else:
                    content.extend(bytes(max(0, offset - len(content))))
                    content[offset : offset + len(data)] = data

        def walk(directory: int, path: str) -> Iterator[tuple[str, bytes | None]]:
            for name, inode in names[directory].items():
                if inode in names:
                    yield path + name, None
                    yield from walk(inode, f"{path}{name}/")
                else:
                    yield path + name, bytes(contents.get(inode, b""))

        return dict(walk(0, ""))


def write_files(files: dict[str, bytes | None], folder: Path) -> None:
    """Creates a folder with the files of a state of `Disk`."""
    folder.mkdir()
    for path, content in files.items():
        if content is None:
            (folder / path).mkdir()
        else:
            (folder / path).write_bytes(content)
