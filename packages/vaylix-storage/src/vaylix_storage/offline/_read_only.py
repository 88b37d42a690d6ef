"""A file system that can only be read: what the offline tools look at a directory through.

A tool that must not change anything gets one of these and cannot. `MeteredVfs` also counts what is
read, `RenamedVfs` shows a directory under another name, and `PlannedVfs` what would be after a
change that was not made yet.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, NoReturn

from vaylix_storage.offline.progress import no_progress

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from vaylix_storage._vfs import File, Lock, Vfs
    from vaylix_storage.offline.progress import Progress

__all__ = ["ContentFile", "CutFile", "MeteredVfs", "PlannedVfs", "ReadOnlyVfs", "RenamedVfs"]


class ReadOnlyVfs:
    """Another file system without the calls that change something: these raise OSError."""

    def __init__(self, vfs: Vfs) -> None:
        self._vfs = vfs

    def open(self, path: Path) -> File:
        """Open an existing file for reading only."""
        return self._vfs.open(path)

    def exists(self, path: Path) -> bool:
        """Tell whether something has this name."""
        return self._vfs.exists(path)

    def resolve(self, path: Path) -> Path:
        """Return an absolute path without symbolic links."""
        return self._vfs.resolve(path)

    def is_directory(self, path: Path) -> bool:
        """Tell whether a directory has this name."""
        return self._vfs.is_directory(path)

    def is_mount_point(self, path: Path) -> bool:
        """Tell whether a file system begins here."""
        return self._vfs.is_mount_point(path)

    def list_directory(self, path: Path) -> list[str]:
        """Return the names of the regular files in a directory, sorted."""
        return self._vfs.list_directory(path)

    def list_subdirectories(self, path: Path) -> list[str]:
        """Return the names of the directories in a directory, sorted."""
        return self._vfs.list_subdirectories(path)

    def mode(self, path: Path) -> int:
        """Return the permissions of a file or directory."""
        return self._vfs.mode(path)

    def is_own(self, path: Path) -> bool:
        """Tell whether a file or directory belongs to the user of this process."""
        return self._vfs.is_own(path)

    def lock_shared(self, path: Path) -> Lock:
        """Keep out whoever would lock a file."""
        return self._vfs.lock_shared(path)

    def create(self, path: Path) -> File:
        """Refuse."""
        _refuse(path)

    def make_directory(self, path: Path) -> None:
        """Refuse."""
        _refuse(path)

    def remove_directory(self, path: Path) -> None:
        """Refuse."""
        _refuse(path)

    def rename(self, source: Path, target: Path) -> None:
        """Refuse."""
        del target
        _refuse(source)

    def unlink(self, path: Path) -> None:
        """Refuse."""
        _refuse(path)

    def sync_directory(self, path: Path) -> None:
        """Refuse."""
        _refuse(path)

    def set_mode(self, path: Path, mode: int) -> None:
        """Refuse."""
        del mode
        _refuse(path)

    def lock(self, path: Path) -> Lock:
        """Refuse."""
        _refuse(path)


def _refuse(path: Path) -> NoReturn:
    raise OSError(errno.EROFS, "this work changes nothing", str(path))


def _refusal() -> OSError:
    return OSError(errno.EROFS, "this work changes nothing")


class _Unwritable:
    """The calls of a file that change something: refused."""

    __slots__ = ()

    def write_at(self, offset: int, data: bytes) -> None:
        del offset, data
        raise _refusal()

    def allocate(self, offset: int, size: int) -> bool:
        del offset, size
        raise _refusal()

    def give_back(self, size: int) -> None:
        del size
        raise _refusal()

    def sync(self) -> None:
        raise _refusal()


class _ReadFile(_Unwritable):
    """An open file that tells how much of it is read."""

    __slots__ = ("_file", "_note")

    def __init__(self, file: File, note: Callable[[int], None]) -> None:
        self._file = file
        self._note = note

    def read_at(self, offset: int, size: int) -> bytes:
        data = self._file.read_at(offset, size)
        self._note(len(data))
        return data

    def size(self) -> int:
        return self._file.size()

    def close(self) -> None:
        self._file.close()


class MeteredVfs(ReadOnlyVfs):
    """Reports how much of `total` bytes has been read."""

    def __init__(self, vfs: Vfs, progress: Progress, what: str, total: int) -> None:
        super().__init__(vfs)
        self._progress = progress
        self._what = what
        self._total = total
        self._done = 0
        progress(what, 0, total)

    def open(self, path: Path) -> File:
        """Open an existing file for reading only."""
        return _ReadFile(super().open(path), self._note)

    def finish(self) -> None:
        """Say that all has been read that will be; whatever is read later is not told."""
        self._progress(self._what, self._total, self._total)
        self._progress = no_progress

    def _note(self, count: int) -> None:
        self._done += count
        # Some bytes are read twice, such as headers, and the end is up to `finish`.
        self._progress(self._what, min(self._done, max(self._total - 1, 0)), self._total)


class ContentFile(_Unwritable):
    """What a small file would hold, as an open file."""

    __slots__ = ("_content",)

    def __init__(self, content: bytes) -> None:
        self._content = content

    def read_at(self, offset: int, size: int) -> bytes:
        return self._content[offset : offset + size]

    def size(self) -> int:
        return len(self._content)

    def close(self) -> None:
        pass


class CutFile(_ReadFile):
    """The first bytes of a file."""

    __slots__ = ("_limit",)

    def __init__(self, file: File, limit: int) -> None:
        super().__init__(file, lambda _count: None)
        self._limit = limit

    def read_at(self, offset: int, size: int) -> bytes:
        return self._file.read_at(offset, max(min(size, self._limit - offset), 0))

    def size(self) -> int:
        return min(self._file.size(), self._limit)


class RenamedVfs(ReadOnlyVfs):
    """Shows a directory under the name that it will have."""

    def __init__(self, vfs: Vfs, shown: Path, real: Path) -> None:
        super().__init__(vfs)
        self._shown = shown
        self._real = real

    def open(self, path: Path) -> File:
        """Open an existing file for reading only."""
        return super().open(self._to_real(path))

    def exists(self, path: Path) -> bool:
        """Tell whether something will have this name."""
        return super().exists(self._to_real(path))

    def is_directory(self, path: Path) -> bool:
        """Tell whether a directory will have this name."""
        return super().is_directory(self._to_real(path))

    def list_directory(self, path: Path) -> list[str]:
        """Return the names of the regular files in a directory, sorted."""
        return super().list_directory(self._to_real(path))

    def list_subdirectories(self, path: Path) -> list[str]:
        """Return the names of the directories in a directory, sorted."""
        return super().list_subdirectories(self._to_real(path))

    def mode(self, path: Path) -> int:
        """Return the permissions of a file or directory."""
        return super().mode(self._to_real(path))

    def is_own(self, path: Path) -> bool:
        """Tell whether a file or directory belongs to the user of this process."""
        return super().is_own(self._to_real(path))

    def _to_real(self, path: Path) -> Path:
        if not path.is_relative_to(self._shown):
            return path
        return self._real / path.relative_to(self._shown)


class PlannedVfs(ReadOnlyVfs):
    """What would be if some files were removed, put or replaced.

    `cut` are names that would be another file's first bytes, by path; `put` are small files with
    their content. A name in neither that is in `removed` does not exist.
    """

    def __init__(
        self,
        vfs: Vfs,
        *,
        removed: frozenset[Path],
        cut: Mapping[Path, tuple[Path, int]],
        put: Mapping[Path, bytes],
    ) -> None:
        super().__init__(vfs)
        self._removed = removed
        self._cut = cut
        self._put = put

    def open(self, path: Path) -> File:
        """Open a file as it would be."""
        if path in self._put:
            return ContentFile(self._put[path])
        if path in self._cut:
            source, limit = self._cut[path]
            return CutFile(super().open(source), limit)
        if path in self._removed:
            raise FileNotFoundError(errno.ENOENT, "would be removed", str(path))
        return super().open(path)

    def exists(self, path: Path) -> bool:
        """Tell whether something would have this name."""
        if path in self._put or path in self._cut:
            return True
        return path not in self._removed and super().exists(path)

    def list_directory(self, path: Path) -> list[str]:
        """Return the names of the files that would be in a directory, sorted."""
        added = {file.name for file in (*self._put, *self._cut) if file.parent == path}
        removed = {file.name for file in self._removed if file.parent == path}
        return sorted((set(super().list_directory(path)) - removed) | added)

    def mode(self, path: Path) -> int:
        """Return the permissions that a file would have."""
        if path in self._put:
            return 0o600
        return super().mode(self._cut[path][0] if path in self._cut else path)

    def is_own(self, path: Path) -> bool:
        """Tell whether a file would belong to the user of this process."""
        is_planned = path in self._put or path in self._cut
        return is_planned or super().is_own(path)
