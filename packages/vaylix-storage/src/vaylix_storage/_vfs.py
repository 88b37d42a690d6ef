"""The few file system calls that storage makes, as a seam.

Everything durable goes through `Vfs`, so that a test can make any write, sync or rename fail, or
pull the plug between two of them (`vaylix_storage.testing`). Files are written at explicit offsets
and never rewritten; a file becomes visible under its name by a rename, after it has been synced.

All methods raise OSError, as the operating system does.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from contextlib import closing, suppress
from pathlib import Path
from typing import Final, Protocol

__all__ = [
    "DIRECTORY_MODE",
    "FILE_MODE",
    "File",
    "Lock",
    "NotRegularFileError",
    "RealVfs",
    "Vfs",
    "create_file_durably",
    "files_are_equal",
    "files_begin_alike",
    "replace_file_durably",
]

FILE_MODE: Final = 0o600
DIRECTORY_MODE: Final = 0o700
_COMPARED_BYTES: Final = 1024 * 1024

# What says that a file system cannot reserve space, or has none left to reserve.
_CANNOT_ALLOCATE: Final = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
)


class NotRegularFileError(OSError):
    """A pipe, a socket or a device was to be opened as a file."""


class File(Protocol):
    """An open file. One thread at a time, except `read_at`, which any thread may call."""

    def read_at(self, offset: int, size: int) -> bytes:
        """Return up to `size` bytes from `offset`; fewer only at the end of the file."""
        ...

    def write_at(self, offset: int, data: bytes) -> None:
        """Write all bytes at `offset`, in one call where the system allows."""
        ...

    def size(self) -> int:
        """Return the length of the file in bytes."""
        ...

    def allocate(self, offset: int, size: int) -> bool:
        """Reserve space that reads as zeros until written; False where that is not possible."""
        ...

    def give_back(self, size: int) -> None:
        """Give back reserved space that was never written: all beyond `size` bytes."""
        ...

    def sync(self) -> None:
        """Return when the content of the file is on the disk (fdatasync)."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


class Lock(Protocol):
    """A lock that is held until released or until the process ends."""

    def release(self) -> None:
        """Give the lock up; in a child made by a fork, only let go of it."""
        ...


class Vfs(Protocol):
    """A file system. Calls on different files may come from different threads."""

    def create(self, path: Path) -> File:
        """Create a file that must not exist, mode 0600, and open it for reading and writing."""
        ...

    def open(self, path: Path) -> File:
        """Open an existing file for reading only; at once, or NotRegularFileError."""
        ...

    def exists(self, path: Path) -> bool:
        """Tell whether something has this name."""
        ...

    def resolve(self, path: Path) -> Path:
        """Return an absolute path without symbolic links; what does not exist is kept as it is."""
        ...

    def is_directory(self, path: Path) -> bool:
        """Tell whether a directory has this name."""
        ...

    def is_mount_point(self, path: Path) -> bool:
        """Tell whether a file system begins here: such a directory cannot be renamed."""
        ...

    def list_directory(self, path: Path) -> list[str]:
        """Return the names of the regular files in a directory, sorted."""
        ...

    def list_subdirectories(self, path: Path) -> list[str]:
        """Return the names of the directories in a directory, sorted; symbolic links are none."""
        ...

    def make_directory(self, path: Path) -> None:
        """Create a directory, mode 0700, with its parents, unless it exists."""
        ...

    def remove_directory(self, path: Path) -> None:
        """Remove an empty directory."""
        ...

    def rename(self, source: Path, target: Path) -> None:
        """Give a file or directory another name, atomically, replacing a file or empty directory.

        From one directory to another it is on the disk once both of them have been synced.
        """
        ...

    def unlink(self, path: Path) -> None:
        """Remove a name."""
        ...

    def sync_directory(self, path: Path) -> None:
        """Return when all names in the directory are on the disk."""
        ...

    def mode(self, path: Path) -> int:
        """Return the permissions of a file or directory, as in chmod(1); links are followed."""
        ...

    def set_mode(self, path: Path, mode: int) -> None:
        """Set the permissions of a file or directory; links are followed."""
        ...

    def is_own(self, path: Path) -> bool:
        """Tell whether a file or directory belongs to the user of this process."""
        ...

    def lock(self, path: Path) -> Lock:
        """Lock a file, creating it, and its directory; BlockingIOError when either is taken.

        The file is what people see; the directory stays locked if they delete it.
        """
        ...

    def lock_shared(self, path: Path) -> Lock:
        """Keep out whoever would lock `path`, without creating it; others may do the same.

        For those who only read. BlockingIOError when it is locked.
        """
        ...


def create_file_durably(vfs: Vfs, path: Path, content: bytes) -> None:
    """Create a small file so that a crash leaves all of it or none, and so does a failure."""
    _put_in_place(vfs, path, content)
    try:
        vfs.sync_directory(path.parent)
    except OSError:
        # The name can be seen, but may never reach the disk. Nobody must come to rely on it.
        with suppress(OSError):
            vfs.unlink(path)
        raise


def replace_file_durably(vfs: Vfs, path: Path, content: bytes) -> None:
    """Replace a small file, or create it; a crash or a failure leaves all of the old or the new.

    When this raises, either may be there, now and after a power cut: the caller must read the file
    again before it relies on what it says.
    """
    _put_in_place(vfs, path, content)
    # Should this fail, the file stays: without its name, the old content would be lost as well.
    vfs.sync_directory(path.parent)


def files_are_equal(vfs: Vfs, one: Path, other: Path) -> bool:
    """Tell whether two files have the same content."""
    with closing(vfs.open(one)) as first, closing(vfs.open(other)) as second:
        size = first.size()
        return size == second.size() and _begin_alike(first, second, size)


def files_begin_alike(vfs: Vfs, one: Path, other: Path, size: int) -> bool:
    """Tell whether two files have the same first `size` bytes; no if one has fewer."""
    with closing(vfs.open(one)) as first, closing(vfs.open(other)) as second:
        return min(first.size(), second.size()) >= size and _begin_alike(first, second, size)


def _begin_alike(first: File, second: File, size: int) -> bool:
    pieces = ((at, min(_COMPARED_BYTES, size - at)) for at in range(0, size, _COMPARED_BYTES))
    return all(first.read_at(*piece) == second.read_at(*piece) for piece in pieces)


def _put_in_place(vfs: Vfs, path: Path, content: bytes) -> None:
    staging = path.with_name(path.name + ".tmp")
    if vfs.exists(staging):
        vfs.unlink(staging)
    file = vfs.create(staging)
    try:
        file.write_at(0, content)
        file.sync()
    finally:
        file.close()
    vfs.rename(staging, path)


class RealVfs:
    """The file system of the machine (Linux)."""

    def create(self, path: Path) -> File:
        """Create a file that must not exist."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        return _RealFile(os.open(path, flags, FILE_MODE))

    def open(self, path: Path) -> File:
        """Open an existing file for reading only."""
        # To open a pipe would wait for somebody who writes into it.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        mode = os.fstat(descriptor).st_mode
        # A directory tells what it is when it is read.
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            os.close(descriptor)
            raise NotRegularFileError(errno.EINVAL, "it is not a regular file", str(path))
        return _RealFile(descriptor)

    def exists(self, path: Path) -> bool:
        """Tell whether something has this name."""
        return path.exists()

    def resolve(self, path: Path) -> Path:
        """Return an absolute path without symbolic links."""
        return Path(os.path.realpath(path))

    def is_directory(self, path: Path) -> bool:
        """Tell whether a directory has this name."""
        return path.is_dir()

    def is_mount_point(self, path: Path) -> bool:
        """Tell whether a file system begins here; a bind mount of its own file system is missed."""
        return path.is_mount()

    def list_directory(self, path: Path) -> list[str]:
        """Return the names of the regular files in a directory, sorted."""
        with os.scandir(path) as entries:
            return sorted(entry.name for entry in entries if entry.is_file(follow_symlinks=False))

    def list_subdirectories(self, path: Path) -> list[str]:
        """Return the names of the directories in a directory, sorted."""
        with os.scandir(path) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))

    def make_directory(self, path: Path) -> None:
        """Create a directory with its parents, unless it exists, and sync what names it."""
        missing = [parent for parent in (path, *path.parents) if not parent.exists()]
        for directory in reversed(missing):
            directory.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
            self.sync_directory(directory.parent)
        if not missing:
            # A process that was killed may have made it without syncing its name. Somebody else's
            # directory may forbid that, but then somebody else made this one.
            with suppress(PermissionError):
                self.sync_directory(path.parent)

    def remove_directory(self, path: Path) -> None:
        """Remove an empty directory."""
        path.rmdir()

    def rename(self, source: Path, target: Path) -> None:
        """Give a file or directory another name, replacing what has that name."""
        source.rename(target)

    def unlink(self, path: Path) -> None:
        """Remove a name."""
        path.unlink()

    def sync_directory(self, path: Path) -> None:
        """Return when all names in the directory are on the disk."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def mode(self, path: Path) -> int:
        """Return the permissions of a file or directory."""
        return stat.S_IMODE(path.stat().st_mode)

    def set_mode(self, path: Path, mode: int) -> None:
        """Set the permissions of a file or directory."""
        path.chmod(mode)

    def is_own(self, path: Path) -> bool:
        """Tell whether a file or directory belongs to the user of this process."""
        return path.stat().st_uid == os.geteuid()

    def lock(self, path: Path) -> Lock:
        """Lock a file, creating it, and its directory."""
        lock = _RealLock()
        try:
            lock.take(path.parent, os.O_RDONLY | os.O_DIRECTORY)
            lock.take(path, os.O_RDWR | os.O_CREAT)
        except OSError:
            lock.release()
            raise
        return lock

    def lock_shared(self, path: Path) -> Lock:
        """Keep out whoever would lock a file; its directory alone serves for that."""
        lock = _RealLock()
        try:
            lock.take(path.parent, os.O_RDONLY | os.O_DIRECTORY, fcntl.LOCK_SH)
        except OSError:
            lock.release()
            raise
        return lock


class _RealLock:
    __slots__ = ("_descriptors", "_process_id")

    def __init__(self) -> None:
        self._descriptors: list[int] = []
        self._process_id = os.getpid()

    def take(self, path: Path, flags: int, kind: int = fcntl.LOCK_EX) -> None:
        descriptor = os.open(path, flags | os.O_CLOEXEC, FILE_MODE)
        self._descriptors.append(descriptor)
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)

    def release(self) -> None:
        while self._descriptors:
            descriptor = self._descriptors.pop()
            # A child made by a fork has the same lock: closing it here would leave it with a child
            # that lives on, and unlocking it there would take it away from the parent.
            if os.getpid() == self._process_id:
                with suppress(OSError):
                    fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)


class _RealFile:
    __slots__ = ("_descriptor",)

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read_at(self, offset: int, size: int) -> bytes:
        data = os.pread(self._descriptor, size, offset)
        while len(data) < size:
            more = os.pread(self._descriptor, size - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data

    def write_at(self, offset: int, data: bytes) -> None:
        written = os.pwrite(self._descriptor, data, offset)
        while written < len(data):
            more = os.pwrite(self._descriptor, data[written:], offset + written)
            if more == 0:
                raise OSError(errno.EIO, "write made no progress")
            written += more

    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def allocate(self, offset: int, size: int) -> bool:
        try:
            os.posix_fallocate(self._descriptor, offset, size)
        except OSError as error:
            if error.errno in _CANNOT_ALLOCATE:
                return False
            raise
        return True

    def give_back(self, size: int) -> None:
        os.ftruncate(self._descriptor, size)

    def sync(self) -> None:
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)
