"""What a program does to files, recorded, disturbed, and replayed up to a loss of power."""

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
    """A line of the log, see `file_operations.c`; paths are relative to the root."""

    what: str
    path: str
    other: str
    offset: int
    data: bytes
    name: str


def read_log(log: Path, root: Path) -> list[Operation]:
    """Reads the operations that took place, in order."""
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

# A name in a folder: (the folder's number, the name, what it is from now on the name of, or None).
_Entry = tuple[int, str, int | None]
# Bytes of a file: (its number, their place, the bytes), or, without bytes, its length.
_Bytes = tuple[int, int, bytes | None]


@dataclass(eq=False)
class _Effect:
    """What an operation changes, all at once, and after which operation that is on the disk."""

    issued: int
    entries: Sequence[_Entry] = ()
    content: _Bytes | None = None
    durable: float = float("inf")


class Disk:
    """A disk that has of every operation only what was synchronised, and some of the rest.

    It is as forgetful as POSIX allows: `fsync` of a file makes its content durable, not its name;
    that of a folder, the names in it. Whatever was not synchronised may be there or not, in any
    combination; only a renaming is there as a whole.

    Args:
      operations: all that took place below a folder, which was empty or as in `before`.
      before: a folder that was there in the beginning, all of it on the disk.
    """

    def __init__(self, operations: Sequence[Operation], before: Path | None = None):
        self._all = range(1, len(operations) + 1)
        self._outside = [n for n in self._all if "checkpoints/" not in operations[n - 1].path]
        self._effects: list[_Effect] = []
        self._names: dict[str, int] = {".": 0}
        self._folders = {0}
        self._next = 1
        for path in sorted(before.rglob("*")) if before else ():
            name = path.relative_to(before or path).as_posix()
            self._make(name, 0, folder=path.is_dir())
            if path.is_file():
                self._write(self._names[name], 0, path.read_bytes(), 0)
        for effect in self._effects:
            effect.durable = 0
        for number, operation in enumerate(operations, 1):
            self._take(number, operation)

    def crashes(self, count: int, seed: int) -> Iterator[tuple[str, dict[str, bytes | None]]]:
        """Draws states after a loss of power, each as (what it is, files by path; None: a folder).

        After a random number of operations, of which those outside checkpoints are not so many
        and come as often: all that was not synchronised is lost, or one such change, or one only is
        left, or about half of them.
        """
        generator = random.Random(seed)
        for _ in range(count):
            after = generator.choice(generator.choice((self._outside, self._all)))
            issued = [e for e in self._effects if e.issued <= after]
            loose = [e for e in issued if e.durable > after]
            one = loose[generator.randrange(len(loose))] if loose else None
            kind = generator.choice(["none of", "all but one of", "one of", "half of"])
            match kind:
                case "none of":
                    kept = []
                case "all but one of":
                    kept = [effect for effect in loose if effect is not one]
                case "one of":
                    kept = [effect for effect in loose if effect is one]
                case _:
                    kept = [effect for effect in loose if generator.random() < 0.5]
            what = f"{kind} {len(loose)} changes, after operation {after}"
            lost = [effect for effect in loose if effect not in kept]
            yield what, self._state([effect for effect in issued if effect not in lost])

    def kill(self, after: int) -> dict[str, bytes | None]:
        """The files that a process leaves that is killed after so many operations."""
        return self._state([e for e in self._effects if e.issued <= after])

    def _take(self, number: int, operation: Operation) -> None:
        path = operation.path
        match operation.what:
            case "create" | "mkdir":
                self._make(path, number, folder=operation.what == "mkdir")
            case "truncate":
                self._write(self._names[path], 0, None, number)
            case "write":
                self._write(self._names[path], operation.offset, operation.data, number)
            case "open" | "read" | "list" | "flock" | "fault":
                pass
            case "unlink" | "rmdir":
                self._effects.append(_Effect(number, [self._entry(path, None)]))
                del self._names[path]
            case "rename":
                self._rename(path, operation.other, number)
            case "fsync":
                self._synchronize(self._names[path], number)
            case what:
                raise ValueError(f"The disk does not know what {what} changes.")

    def _make(self, path: str, number: int, *, folder: bool) -> None:
        self._names[path], self._next = self._next, self._next + 1
        if folder:
            self._folders.add(self._names[path])
        self._effects.append(_Effect(number, [self._entry(path, self._names[path])]))

    def _write(self, file: int, offset: int, data: bytes | None, number: int) -> None:
        pieces: list[tuple[int, bytes | None]] = [(offset, None)]
        if data is not None:
            # The file's length and each of its pages by themselves: what is lost is zeros.
            starts = range(offset // _PAGE * _PAGE, offset + len(data), _PAGE)
            bounds = [(max(offset, s), min(offset + len(data), s + _PAGE)) for s in starts]
            pieces = [(offset + len(data), b"")]
            pieces += [(a, data[a - offset : b - offset]) for a, b in bounds]
        self._effects += [_Effect(number, content=(file, *piece)) for piece in pieces]

    def _rename(self, path: str, other: str, number: int) -> None:
        entries = [self._entry(path, None), self._entry(other, self._names[path])]
        self._effects.append(_Effect(number, entries))
        moved = {p: n for p, n in self._names.items() if p == path or p.startswith(path + "/")}
        for name in moved:
            del self._names[name]
        self._names |= {other + name.removeprefix(path): n for name, n in moved.items()}

    def _synchronize(self, number: int, after: int) -> None:
        for effect in self._effects:
            folders = {folder for folder, _, _ in effect.entries}
            content = effect.content is not None and effect.content[0] == number
            # Of a renaming from one folder to another, both have to be synchronised.
            if effect.durable == float("inf") and (content or folders == {number}):
                effect.durable = after

    def _entry(self, path: str, number: int | None) -> _Entry:
        folder, name = os.path.split(path)
        return self._names[folder or "."], name, number

    def _state(self, effects: Sequence[_Effect]) -> dict[str, bytes | None]:
        names: dict[int, dict[str, int]] = {folder: {} for folder in self._folders}
        contents: dict[int, bytearray] = {}
        for effect in effects:
            for folder, name, number in effect.entries:
                names[folder].pop(name, None)
                if number is not None:
                    names[folder][name] = number
            if effect.content is not None:
                file, offset, data = effect.content
                content = contents.setdefault(file, bytearray())
                if data is None:
                    del content[offset:]
                else:
                    content.extend(bytes(max(0, offset - len(content))))
                    content[offset : offset + len(data)] = data

        def walk(folder: int, path: str) -> Iterator[tuple[str, bytes | None]]:
            for name, number in names[folder].items():
                if number in names:
                    yield path + name, None
                    yield from walk(number, f"{path}{name}/")
                else:
                    yield path + name, bytes(contents.get(number, b""))

        return dict(walk(0, ""))


def write_files(files: dict[str, bytes | None], folder: Path) -> None:
    """Writes what `Disk` says to an absent folder."""
    folder.mkdir()
    for path, content in files.items():
        if content is None:
            (folder / path).mkdir()
        else:
            (folder / path).write_bytes(content)
