"""`MemoryFileSystem`: a simulated disk behind the interface that the audit log knows."""

from __future__ import annotations

import errno
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from vaylix_audit._files import File

__all__ = ["MemoryFileSystem", "SimulatedCrash", "Survival"]

_SECTOR_BYTES: Final = 512

# A write, or (with None) a new length, that is not on the disk yet.
_Change: TypeAlias = tuple[int, bytes | None]


class SimulatedCrash(Exception):  # noqa: N818 - it is an event, not an error
    """The process has stopped; only `power_cut` or `kill` brings it back."""


class Survival(Enum):
    """Which part of what was not synced is on the disk after a power cut."""

    NOTHING = "nothing"
    EVERYTHING = "everything"
    FIRST_HALF = "first half"
    EVEN_SECTORS = "even sectors"
    ODD_SECTORS = "odd sectors"
    # Files have their new length, but zeros where the data should be.
    LENGTHS = "lengths"


class _Inode:
    __slots__ = ("cached", "durable", "is_locked", "pending")

    def __init__(self) -> None:
        self.cached = bytearray()
        self.durable = bytearray()
        self.pending: list[_Change] = []
        self.is_locked = False

    def change(self, offset: int, data: bytes | None) -> None:
        _apply(self.cached, offset, data)
        self.pending.append((offset, data))

    def sync(self) -> None:
        for change in self.pending:
            _apply(self.durable, *change)
        self.pending.clear()

    def power_cut(self, survival: Survival) -> None:
        pieces = [piece for change in self.pending for piece in _sectors(*change)]
        for place, (offset, data) in enumerate(pieces):
            if survival is Survival.LENGTHS and data is not None:
                end = offset + len(data)
                self.durable.extend(bytes(max(0, end - len(self.durable))))
            elif _survives(survival, place, len(pieces)):
                _apply(self.durable, offset, data)
        self.cached = bytearray(self.durable)
        self.pending.clear()
        self.is_locked = False


class MemoryFileSystem:
    """A simulated disk; see the package. Directories are on the disk as soon as they are made."""

    def __init__(self) -> None:
        self.call_count = 0
        self._generation = 0
        self._crash_call = self._fail_call = self._short_call = 0
        self._is_down = False
        self._directories = {Path("/")}
        self._names: dict[Path, _Inode] = {}
        self._durable_names: dict[Path, _Inode] = {}
        # Changes of names that are not on the disk yet: a name goes, or comes with its file.
        self._pending_names: list[dict[Path, _Inode | None]] = []

    # What a test does to it

    def crash_at(self, call: int) -> None:
        """Raise SimulatedCrash instead of the `call`-th changing call, counted from the start."""
        self._crash_call = call

    def fail_at(self, call: int) -> None:
        """Let the `call`-th changing call, counted from the start, raise OSError, once."""
        self._fail_call = call

    def cut_short_at(self, call: int) -> None:
        """Let the `call`-th changing call, if it is a write, take half of its bytes, once."""
        self._short_call = call

    def kill(self) -> None:
        """End the process and start another: nothing written is lost, locks are released."""
        for inode in self._names.values():
            inode.is_locked = False
        self._restart()

    def power_cut(
        self, data: Survival = Survival.NOTHING, names: Survival = Survival.NOTHING
    ) -> None:
        """Cut the power and boot again; what was not synced survives as told."""
        for place, change in enumerate(self._pending_names):
            if _survives(names, place, len(self._pending_names)):
                _rename(self._durable_names, change)
        self._pending_names.clear()
        self._names = dict(self._durable_names)
        for inode in self._names.values():
            inode.power_cut(data)
        self._restart()

    def content(self, path: Path) -> bytes:
        """Return what a program would read from a file."""
        return bytes(self._inode(path).cached)

    def overwrite(self, path: Path, content: bytes) -> None:
        """Put a file with these bytes on the disk behind everybody's back."""
        self.make_directory(path.parent)
        inode = self._names.setdefault(path, _Inode())
        self._durable_names[path] = inode
        inode.cached = bytearray(content)
        inode.durable = bytearray(content)
        inode.pending.clear()

    def remove(self, path: Path) -> None:
        """Lose a file behind everybody's back."""
        del self._names[path]
        self._durable_names.pop(path, None)

    def paths(self) -> list[Path]:
        """Return the paths of all files, sorted."""
        return sorted(self._names)

    # What the audit log does to it

    def exists(self, path: Path) -> bool:
        """Tell whether something has this name."""
        self._check_up()
        return path in self._names or path in self._directories

    def open_to_read(self, path: Path) -> File:
        """Open an existing file for reading."""
        self._check_up()
        return _MemoryFile(self, self._inode(path), is_locked=False)

    def open_locked(self, path: Path) -> File:
        """Open a file for reading and writing, creating it if need be, and lock it."""
        self._check_up()
        if path.parent not in self._directories:
            raise FileNotFoundError(errno.ENOENT, "no such directory", str(path))
        if path not in self._names:
            self.count_call()
            self._change({path: _Inode()})
        inode = self._names[path]
        if inode.is_locked:
            raise BlockingIOError(errno.EAGAIN, "locked", str(path))
        return _MemoryFile(self, inode, is_locked=True)

    def make_directory(self, path: Path) -> None:
        """Create a directory with its parents, unless it exists."""
        if path not in self._directories:
            self.count_call()
            self._directories.update((path, *path.parents))

    def rename(self, source: Path, target: Path) -> None:
        """Give a file another name, replacing what has that name."""
        self.count_call()
        self._change({source: None, target: self._inode(source)})

    def unlink(self, path: Path) -> None:
        """Remove the name of a file."""
        self.count_call()
        self._inode(path)
        self._change({path: None})

    def sync_directory(self, path: Path) -> None:
        """Put the names in a directory on the disk; when it fails, they never get there."""
        due = [change for change in self._pending_names if path in {one.parent for one in change}]
        others = [change for change in self._pending_names if change not in due]
        try:
            self.count_call()
        except OSError:
            self._pending_names = others
            raise
        for change in due:
            _rename(self._durable_names, change)
        self._pending_names = others

    # Inside

    @property
    def generation(self) -> int:
        """How often the machine or the process was restarted."""
        return self._generation

    def count_call(self) -> None:
        """Count a changing call; for the files of this disk only."""
        self._check_up()
        self.call_count += 1
        if self.call_count == self._crash_call:
            self._is_down = True
            raise SimulatedCrash(f"stopped before call {self.call_count}")
        if self.call_count == self._fail_call:
            raise OSError(errno.EIO, f"call {self.call_count} failed")

    def is_cut_short(self) -> bool:
        """Say whether the call that was just counted takes half only."""
        return self.call_count == self._short_call

    def check_generation(self, generation: int) -> None:
        """Refuse files that were opened before the last restart."""
        self._check_up()
        if generation != self._generation:
            raise SimulatedCrash("this file belongs to a process that has ended")

    def _check_up(self) -> None:
        if self._is_down:
            raise SimulatedCrash("the process has stopped")

    def _restart(self) -> None:
        self._is_down = False
        self._crash_call = self._fail_call = self._short_call = 0
        self._generation += 1

    def _inode(self, path: Path) -> _Inode:
        if path not in self._names:
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
        return self._names[path]

    def _change(self, change: dict[Path, _Inode | None]) -> None:
        _rename(self._names, change)
        self._pending_names.append(change)


class _MemoryFile:
    __slots__ = ("_generation", "_holds_lock", "_inode", "_system")

    def __init__(self, system: MemoryFileSystem, inode: _Inode, *, is_locked: bool) -> None:
        self._system = system
        self._inode = inode
        self._generation = system.generation
        self._holds_lock = is_locked
        inode.is_locked = inode.is_locked or is_locked

    def read_at(self, offset: int, size: int) -> bytes:
        self._system.check_generation(self._generation)
        return bytes(self._inode.cached[offset : offset + size])

    def write_at(self, offset: int, data: bytes) -> int:
        self._system.check_generation(self._generation)
        half = data[: len(data) // 2]
        try:
            self._system.count_call()
        except OSError:
            # A failing write may have written something.
            self._inode.change(offset, half)
            raise
        taken = half if self._system.is_cut_short() else data
        self._inode.change(offset, taken)
        return len(taken)

    def size(self) -> int:
        self._system.check_generation(self._generation)
        return len(self._inode.cached)

    def truncate(self, size: int) -> None:
        self._system.check_generation(self._generation)
        self._system.count_call()
        self._inode.change(size, None)

    def sync(self) -> None:
        self._system.check_generation(self._generation)
        try:
            self._system.count_call()
        except OSError:
            self._inode.pending.clear()
            raise
        self._inode.sync()

    def close(self) -> None:
        if self._holds_lock and self._generation == self._system.generation:
            self._inode.is_locked = False
        self._holds_lock = False
        self._generation = -1


def _rename(names: dict[Path, _Inode], change: dict[Path, _Inode | None]) -> None:
    for path, inode in change.items():
        if inode is None:
            names.pop(path, None)
        else:
            names[path] = inode


def _apply(content: bytearray, offset: int, data: bytes | None) -> None:
    end = offset + len(data or b"")
    content.extend(bytes(max(0, end - len(content))))
    if data is None:
        del content[offset:]
    else:
        content[offset:end] = data


def _sectors(offset: int, data: bytes | None) -> list[_Change]:
    """Cut a write at the borders of sectors: each part is written or not, but never half."""
    if data is None:
        return [(offset, None)]
    pieces: list[_Change] = []
    start = 0
    while start < len(data):
        stop = start + _SECTOR_BYTES - (offset + start) % _SECTOR_BYTES
        pieces.append((offset + start, data[start:stop]))
        start = stop
    return pieces


def _survives(survival: Survival, place: int, count: int) -> bool:
    match survival:
        case Survival.NOTHING:
            return False
        case Survival.EVERYTHING | Survival.LENGTHS:
            return True
        case Survival.FIRST_HALF:
            return place < count // 2
        case Survival.EVEN_SECTORS:
            return place % 2 == 0
        case Survival.ODD_SECTORS:
            return place % 2 == 1
