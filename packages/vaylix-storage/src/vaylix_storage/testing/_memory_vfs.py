"""`MemoryVfs`: the simulated disk behind the interface that storage knows."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

from vaylix_storage.testing._simulated_disk import Directory, Inode, Names, Survival

if TYPE_CHECKING:
    from collections.abc import Callable

    from vaylix_storage._vfs import File, Lock

__all__ = ["MemoryVfs", "SimulatedCrash"]


class SimulatedCrash(Exception):  # noqa: N818 - it is an event, not an error
    """The process or the machine has stopped; only `power_cut` or `kill` brings it back."""


class MemoryVfs:
    """A simulated disk; see the package.

    `reserves_space` says whether `File.allocate` works.

    Directories are durable as soon as they are made; a rename or removal of one is like that of a
    file. Not thread-safe.
    """

    def __init__(self, *, reserves_space: bool = False) -> None:
        self.reserves_space = reserves_space
        self.mount_points: set[Path] = set()
        self.call_count = 0
        self._crash_call = 0
        self._fail_call = 0
        self._fail_errno = errno.EIO
        self._is_down = False
        self._generation = 0
        self._disk = Names()
        self._locked: set[Directory] = set()
        # Those that keep others out of a directory, each once for every one of them.
        self._shared: list[Directory] = []

    # What a test does to it

    def crash_at(self, call: int) -> None:
        """Raise SimulatedCrash instead of the `call`-th changing call, counted from the start."""
        self._crash_call = call

    def fail_at(self, call: int, error: int = errno.EIO) -> None:
        """Let the `call`-th changing call, counted from the start, raise OSError, once."""
        self._fail_call = call
        self._fail_errno = error

    def kill(self) -> None:
        """End the process and start another: nothing written is lost, locks are released."""
        self._restart()

    def power_cut(
        self, data: Survival = Survival.NOTHING, names: Survival = Survival.NOTHING
    ) -> None:
        """Cut the power and boot again; what was not synced survives as told."""
        self._disk.power_cut(data, names)
        self._restart()

    def content(self, path: Path) -> bytes:
        """Return what a program would read from a file."""
        return bytes(self._disk.file(path).cached)

    def overwrite(self, path: Path, content: bytes) -> None:
        """Put other bytes on the disk behind everybody's back: rot, or an attacker."""
        inode = self._disk.file(path)
        inode.cached = bytearray(content)
        inode.durable = bytearray(content)
        inode.pending.clear()

    def remove(self, path: Path) -> None:
        """Lose a file behind everybody's back."""
        self._disk.lose(path)

    # What storage does to it

    def create(self, path: Path) -> File:
        """Create a file that must not exist."""
        self._count_call()
        if self._disk.find(path) is not None:
            raise FileExistsError(errno.EEXIST, "exists", str(path))
        inode = Inode()
        self._disk.add(path, inode)
        return _MemoryFile(self, inode)

    def open(self, path: Path) -> File:
        """Open an existing file for reading only."""
        self._check_up()
        return _MemoryFile(self, self._disk.file(path))

    def exists(self, path: Path) -> bool:
        """Tell whether something has this name."""
        self._check_up()
        return self._disk.find(path) is not None

    def resolve(self, path: Path) -> Path:
        """Return an absolute path; there are no symbolic links on this disk."""
        self._check_up()
        return Path(os.path.normpath(Path("/") / path))

    def is_directory(self, path: Path) -> bool:
        """Tell whether a directory has this name."""
        self._check_up()
        return isinstance(self._disk.find(path), Directory)

    def is_mount_point(self, path: Path) -> bool:
        """Tell whether a test has put this path into `mount_points`."""
        self._check_up()
        return path in self.mount_points

    def list_directory(self, path: Path) -> list[str]:
        """Return the names of the files in a directory, sorted."""
        return self._list(path, Inode)

    def list_subdirectories(self, path: Path) -> list[str]:
        """Return the names of the directories in a directory, sorted."""
        return self._list(path, Directory)

    def make_directory(self, path: Path) -> None:
        """Create a directory with its parents, unless it exists."""
        if not isinstance(self._disk.find(path), Directory):
            self._count_call()
            self._disk.make_directory(path)

    def remove_directory(self, path: Path) -> None:
        """Remove an empty directory."""
        self._count_call()
        self._disk.remove_directory(path)

    def rename(self, source: Path, target: Path) -> None:
        """Give a file or a directory another name, replacing what has that name."""
        self._count_call()
        self._disk.rename(source, target)

    def unlink(self, path: Path) -> None:
        """Remove a name."""
        self._count_call()
        self._disk.unlink(path)

    def sync_directory(self, path: Path) -> None:
        """Put the names in a directory on the disk; when it fails, they never get there."""
        directory = self._disk.directory(path)
        try:
            self._count_call()
        except OSError:
            self._disk.forget(directory)
            raise
        self._disk.sync(directory)

    def mode(self, path: Path) -> int:
        """Return the permissions of a file or directory."""
        self._check_up()
        return self._node(path).mode

    def set_mode(self, path: Path, mode: int) -> None:
        """Set the permissions of a file or directory, on the disk at once."""
        self._count_call()
        self._node(path).mode = mode

    def is_own(self, path: Path) -> bool:
        """Tell whether the file or directory belongs to the user of this process: all do."""
        self._check_up()
        self._node(path)
        return True

    def lock(self, path: Path) -> Lock:
        """Take the exclusive lock of a file, creating it."""
        directory = self._disk.directory(path.parent)
        if directory in self._locked or directory in self._shared:
            raise BlockingIOError(errno.EAGAIN, "locked", str(path))
        if self._disk.find(path) is None:
            self.create(path)
        self._locked.add(directory)
        return _MemoryLock(lambda: self._locked.discard(directory))

    def lock_shared(self, path: Path) -> Lock:
        """Keep out whoever would lock a file, without creating it."""
        self._check_up()
        directory = self._disk.directory(path.parent)
        if directory in self._locked:
            raise BlockingIOError(errno.EAGAIN, "locked", str(path))
        shared = self._shared
        shared.append(directory)
        return _MemoryLock(lambda: shared.remove(directory))

    # Inside

    def count_call(self, generation: int) -> None:
        """Count a changing call of a file; for the files of this disk only."""
        self.check_generation(generation)
        self._count_call()

    def check_generation(self, generation: int) -> None:
        """Refuse files that were opened before the last restart."""
        if generation != self._generation:
            raise SimulatedCrash("this file belongs to a process that has ended")
        self._check_up()

    @property
    def generation(self) -> int:
        """How often the machine or the process was restarted."""
        return self._generation

    def _restart(self) -> None:
        self._is_down = False
        self._crash_call = self._fail_call = 0
        self._generation += 1
        self._locked.clear()
        # A new list: locks of before belong to a process that has ended.
        self._shared = []

    def _check_up(self) -> None:
        if self._is_down:
            raise SimulatedCrash("the process has stopped")

    def _count_call(self) -> None:
        self._check_up()
        self.call_count += 1
        if self.call_count == self._crash_call:
            self._is_down = True
            raise SimulatedCrash(f"stopped before call {self.call_count}")
        if self.call_count == self._fail_call:
            raise OSError(self._fail_errno, f"call {self.call_count} failed")

    def _list(self, path: Path, kind: type[Directory | Inode]) -> list[str]:
        self._check_up()
        names = self._disk.directory(path).cached
        return sorted(name for name, node in names.items() if isinstance(node, kind))

    def _node(self, path: Path) -> Directory | Inode:
        node = self._disk.find(path)
        if node is None:
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
        return node


class _MemoryFile:
    __slots__ = ("_generation", "_inode", "_vfs")

    def __init__(self, vfs: MemoryVfs, inode: Inode) -> None:
        self._vfs = vfs
        self._inode = inode
        self._generation = vfs.generation

    def read_at(self, offset: int, size: int) -> bytes:
        self._vfs.check_generation(self._generation)
        return bytes(self._inode.cached[offset : offset + size])

    def write_at(self, offset: int, data: bytes) -> None:
        assert not any(self._inode.cached[offset : offset + len(data)]), "a write over data"
        try:
            self._vfs.count_call(self._generation)
        except OSError:
            # A failing write may have written something.
            self._inode.change(offset, data[: len(data) // 2])
            raise
        self._inode.change(offset, data)

    def size(self) -> int:
        self._vfs.check_generation(self._generation)
        return len(self._inode.cached)

    def allocate(self, offset: int, size: int) -> bool:
        self._vfs.count_call(self._generation)
        if not self._vfs.reserves_space:
            return False
        if offset + size > len(self._inode.cached):
            self._inode.change(offset + size, b"")
        return True

    def give_back(self, size: int) -> None:
        assert not any(self._inode.cached[size:]), "data is cut off"
        self._vfs.count_call(self._generation)
        self._inode.change(size, None)

    def sync(self) -> None:
        try:
            self._vfs.count_call(self._generation)
        except OSError:
            self._inode.pending.clear()
            raise
        self._inode.sync()

    def close(self) -> None:
        self._generation = -1


class _MemoryLock:
    __slots__ = ("_give_up",)

    def __init__(self, give_up: Callable[[], None]) -> None:
        self._give_up: Callable[[], None] | None = give_up

    def release(self) -> None:
        if self._give_up is not None:
            self._give_up()
            self._give_up = None
