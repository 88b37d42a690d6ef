"""The few file system calls that the audit log makes, as a seam.

Everything goes through `FileSystem`, so that a test can make any call fail, or pull the plug
between two of them (`vaylix_audit.testing`). All methods raise OSError, as the system does.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["File", "FileSystem", "RealFileSystem", "read_pieces", "write_whole"]

_FILE_MODE: Final = 0o600
_DIRECTORY_MODE: Final = 0o700
_PIECE_BYTES: Final = 256 * 1024


class File(Protocol):
    """An open regular file. One thread at a time may write, and one may sync."""

    def read_at(self, offset: int, size: int) -> bytes:
        """Return up to `size` bytes from `offset`; none only at the end of the file."""
        ...

    def write_at(self, offset: int, data: bytes) -> int:
        """Write at `offset` with one call; return how many bytes the system took."""
        ...

    def size(self) -> int:
        """Return the length of the file in bytes."""
        ...

    def truncate(self, size: int) -> None:
        """Cut off all beyond `size` bytes."""
        ...

    def sync(self) -> None:
        """Return when content and length of the file are on the disk (fdatasync)."""
        ...

    def close(self) -> None:
        """Close the file, and give up its lock."""
        ...


class FileSystem(Protocol):
    """A file system."""

    def exists(self, path: Path) -> bool:
        """Tell whether something has this name."""
        ...

    def open_to_read(self, path: Path) -> File:
        """Open an existing file for reading."""
        ...

    def open_locked(self, path: Path) -> File:
        """Open a file for reading and writing and lock it; BlockingIOError if somebody else has.

        One that does not exist is created, empty, mode 0600. Its name is not synced.
        """
        ...

    def make_directory(self, path: Path) -> None:
        """Create a directory, mode 0700, with its parents, unless it exists; sync their names."""
        ...

    def rename(self, source: Path, target: Path) -> None:
        """Give a file another name, replacing what has that name."""
        ...

    def unlink(self, path: Path) -> None:
        """Remove the name of a file."""
        ...

    def sync_directory(self, path: Path) -> None:
        """Return when all names in a directory are on the disk."""
        ...


def read_pieces(file: File, start: int = 0, end: int | None = None) -> Iterator[bytes]:
    """Read a file piece by piece, up to `end` or its own."""
    offset = start
    while end is None or offset < end:
        size = _PIECE_BYTES if end is None else min(_PIECE_BYTES, end - offset)
        piece = file.read_at(offset, size)
        if not piece:
            return
        yield piece
        offset += len(piece)


def write_whole(file: File, offset: int, data: bytes) -> None:
    """Write all of `data`; with one call, unless the system takes less than it was given."""
    written = file.write_at(offset, data)
    while written < len(data):
        more = file.write_at(offset + written, data[written:])
        if more == 0:
            raise OSError(errno.EIO, "write made no progress")
        written += more


class RealFileSystem:
    """The file system of the machine (Linux)."""

    def exists(self, path: Path) -> bool:
        """Tell whether something has this name."""
        return path.exists()

    def open_to_read(self, path: Path) -> File:
        """Open an existing file for reading."""
        # Without O_NONBLOCK a pipe would wait for a writer before it can be refused.
        return _RealFile(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))

    def open_locked(self, path: Path) -> File:
        """Open a file for reading and writing, creating it if need be, and lock it."""
        file = _RealFile(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _FILE_MODE))
        try:
            file.lock()
        except OSError:
            file.close()
            raise
        return file

    def make_directory(self, path: Path) -> None:
        """Create a directory with its parents, unless it exists, and sync what names it."""
        missing = [parent for parent in (path, *path.parents) if not parent.exists()]
        for directory in reversed(missing):
            directory.mkdir(mode=_DIRECTORY_MODE, exist_ok=True)
            self.sync_directory(directory.parent)
        if not missing:
            # A process that was killed may have made it without syncing its name. Somebody else's
            # directory may forbid that, but then somebody else made this one.
            with suppress(PermissionError):
                self.sync_directory(path.parent)

    def rename(self, source: Path, target: Path) -> None:
        """Give a file another name, replacing what has that name."""
        source.rename(target)

    def unlink(self, path: Path) -> None:
        """Remove the name of a file."""
        path.unlink()

    def sync_directory(self, path: Path) -> None:
        """Return when all names in a directory are on the disk."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class _RealFile:
    __slots__ = ("_descriptor",)

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "not a regular file")

    def lock(self) -> None:
        fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def read_at(self, offset: int, size: int) -> bytes:
        return os.pread(self._descriptor, size, offset)

    def write_at(self, offset: int, data: bytes) -> int:
        return os.pwrite(self._descriptor, data, offset)

    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def truncate(self, size: int) -> None:
        os.ftruncate(self._descriptor, size)

    def sync(self) -> None:
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)
