"""What lies on a simulated disk: files and directories as seen, and as they are on the disk.

The parts that `vaylix_storage.testing.MemoryVfs` is built of. A file has bytes that programs see
and bytes that the disk has; a directory has names of both kinds. Names belong to the directory
itself, not to its path, so a directory that gets another name keeps what is in it, synced or not.
"""

from __future__ import annotations

import errno
from enum import Enum
from typing import TYPE_CHECKING, Final, TypeAlias

from vaylix_storage._vfs import DIRECTORY_MODE, FILE_MODE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["Directory", "Inode", "Names", "Survival"]

_SECTOR_BYTES: Final = 512

# A write, or (with None) a change of size, that is not on the disk yet.
_Change: TypeAlias = tuple[int, bytes | None]


class Survival(Enum):
    """Which part of what was not synced is on the disk after a power cut."""

    NOTHING = "nothing"
    EVERYTHING = "everything"
    FIRST_HALF = "first half"
    EVEN_SECTORS = "even sectors"
    ODD_SECTORS = "odd sectors"


# For `power_cut`: what survives of data and of names. Those that differ most, for tests that cannot
# try all pairs.
SURVIVALS: Final = (
    (Survival.NOTHING, Survival.NOTHING),
    (Survival.EVERYTHING, Survival.EVERYTHING),
    (Survival.EVERYTHING, Survival.NOTHING),
    (Survival.NOTHING, Survival.EVERYTHING),
    (Survival.FIRST_HALF, Survival.FIRST_HALF),
    (Survival.EVEN_SECTORS, Survival.EVERYTHING),
    (Survival.ODD_SECTORS, Survival.FIRST_HALF),
)


class Inode:
    """A file: what programs see, what the disk has, and what lies between."""

    __slots__ = ("cached", "durable", "mode", "pending")

    def __init__(self) -> None:
        self.cached = bytearray()
        self.durable = bytearray()
        self.pending: list[_Change] = []
        self.mode = FILE_MODE

    def change(self, offset: int, data: bytes | None) -> None:
        """Write bytes, or cut the file at `offset`."""
        _apply(self.cached, offset, data)
        self.pending.append((offset, data))

    def sync(self) -> None:
        """Put all changes on the disk."""
        for offset, data in self.pending:
            _apply(self.durable, offset, data)
        self.pending.clear()

    def power_cut(self, survival: Survival) -> None:
        """Lose what was not synced, but for what survives."""
        sectors = [piece for change in self.pending for piece in _sectors(*change)]
        for place, (offset, data) in enumerate(sectors):
            if _survives(survival, place, len(sectors)):
                _apply(self.durable, offset, data)
        self.pending.clear()
        self.cached = bytearray(self.durable)


class Directory:
    """A directory: the names that programs see, and those that the disk has."""

    __slots__ = ("cached", "durable", "mode")

    def __init__(self) -> None:
        self.cached: dict[str, _Node] = {}
        self.durable: dict[str, _Node] = {}
        self.mode = DIRECTORY_MODE


_Node: TypeAlias = Inode | Directory
# Names that were set, or removed (None), at once: all of them will be on the disk, or none.
_Step: TypeAlias = tuple[Directory, str, _Node | None]


class _NameChange:
    """One change of names that is not on the disk yet; each of its directories must be synced."""

    __slots__ = ("steps", "unsynced")

    def __init__(self, steps: list[_Step]) -> None:
        self.steps = steps
        self.unsynced = {directory for directory, _, _ in steps}

    def make_durable(self) -> None:
        for directory, name, node in self.steps:
            _set_name(directory.durable, name, node)


class Names:
    """All names of a disk. Directories are durable as soon as they are made."""

    def __init__(self) -> None:
        self._root = Directory()
        self._pending: list[_NameChange] = []

    def find(self, path: Path) -> _Node | None:
        """Return what has this name, or None."""
        node: _Node | None = self._root
        for name in path.parts:
            if not isinstance(node, Directory):
                return None
            node = node.cached.get(name)
        return node

    def file(self, path: Path) -> Inode:
        """Return a file; FileNotFoundError or IsADirectoryError when there is none."""
        node = self.find(path)
        if isinstance(node, Directory):
            raise IsADirectoryError(errno.EISDIR, "is a directory", str(path))
        if node is None:
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
        return node

    def directory(self, path: Path) -> Directory:
        """Return a directory; FileNotFoundError or NotADirectoryError when there is none."""
        node = self.find(path)
        if isinstance(node, Inode):
            raise NotADirectoryError(errno.ENOTDIR, "not a directory", str(path))
        if node is None:
            raise FileNotFoundError(errno.ENOENT, "no such directory", str(path))
        return node

    def make_directory(self, path: Path) -> None:
        """Make a directory with its parents, all on the disk at once."""
        directory = self._root
        for name in path.parts:
            node = directory.cached.get(name)
            if isinstance(node, Inode):
                raise NotADirectoryError(errno.ENOTDIR, "not a directory", str(path))
            if node is None:
                node = directory.cached[name] = directory.durable[name] = Directory()
            directory = node

    def add(self, path: Path, node: Inode) -> None:
        """Give a new file its name."""
        self._change([(self.directory(path.parent), path.name, node)])

    def rename(self, source: Path, target: Path) -> None:
        """Give a file or a directory another name, as the kernel of Linux would."""
        node = self.find(source)
        if node is None:
            raise FileNotFoundError(errno.ENOENT, "no such file", str(source))
        replaced = self.find(target)
        if replaced is node:
            return
        if isinstance(node, Directory) and target.is_relative_to(source):
            raise OSError(errno.EINVAL, "a directory cannot move into itself", str(target))
        if replaced is not None:
            _check_replaceable(node, replaced, target)
        parent = self.directory(target.parent)
        self._change(
            [(self.directory(source.parent), source.name, None), (parent, target.name, node)]
        )

    def unlink(self, path: Path) -> None:
        """Take the name of a file away."""
        self.file(path)
        self._change([(self.directory(path.parent), path.name, None)])

    def remove_directory(self, path: Path) -> None:
        """Take the name of an empty directory away."""
        if self.directory(path).cached:
            raise OSError(errno.ENOTEMPTY, "directory not empty", str(path))
        self._change([(self.directory(path.parent), path.name, None)])

    def sync(self, directory: Directory) -> None:
        """Put on the disk what has changed in a directory."""
        for change in self._pending:
            change.unsynced.discard(directory)
            if not change.unsynced:
                change.make_durable()
        self._pending = [change for change in self._pending if change.unsynced]

    def forget(self, directory: Directory) -> None:
        """Let what has changed in a directory never reach the disk, as after a failed sync."""
        self._pending = [
            change
            for change in self._pending
            if all(changed is not directory for changed, _, _ in change.steps)
        ]

    def lose(self, path: Path) -> None:
        """Lose a file behind everybody's back."""
        self.file(path)
        directory = self.directory(path.parent)
        del directory.cached[path.name]
        directory.durable.pop(path.name, None)

    def power_cut(self, data: Survival, names: Survival) -> None:
        """Lose what was not synced, but for what survives."""
        for place, change in enumerate(self._pending):
            if _survives(names, place, len(self._pending)):
                change.make_durable()
        self._pending.clear()
        for node in _durable_nodes(self._root):
            if isinstance(node, Inode):
                node.power_cut(data)
            else:
                node.cached = dict(node.durable)

    def _change(self, steps: list[_Step]) -> None:
        for directory, name, node in steps:
            _set_name(directory.cached, name, node)
        self._pending.append(_NameChange(steps))


def _apply(content: bytearray, offset: int, data: bytes | None) -> None:
    end = offset if data is None else offset + len(data)
    if end > len(content):
        content.extend(bytes(end - len(content)))
    if data is None:
        del content[offset:]
    else:
        content[offset:end] = data


def _sectors(offset: int, data: bytes | None) -> list[_Change]:
    """Cut a write at sector borders: each part is written or not, but never half."""
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
    if survival is Survival.FIRST_HALF:
        return place < (count + 1) // 2
    if survival is Survival.EVEN_SECTORS:
        return place % 2 == 0
    if survival is Survival.ODD_SECTORS:
        return place % 2 == 1
    return survival is Survival.EVERYTHING


def _set_name(names: dict[str, _Node], name: str, node: _Node | None) -> None:
    if node is None:
        names.pop(name, None)
    else:
        names[name] = node


def _check_replaceable(node: _Node, replaced: _Node, target: Path) -> None:
    if isinstance(node, Inode) and isinstance(replaced, Directory):
        raise IsADirectoryError(errno.EISDIR, "is a directory", str(target))
    if isinstance(node, Directory) and isinstance(replaced, Inode):
        raise NotADirectoryError(errno.ENOTDIR, "not a directory", str(target))
    if isinstance(replaced, Directory) and replaced.cached:
        raise OSError(errno.ENOTEMPTY, "directory not empty", str(target))


def _durable_nodes(root: Directory) -> Iterator[_Node]:
    """Yield each file and directory that the disk knows, once."""
    seen: set[_Node] = set()
    waiting: list[_Node] = [root]
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        yield node
        if isinstance(node, Directory):
            waiting.extend(node.durable.values())
