"""A directory that another process uses, as it was at one moment.

Segments are never changed, only the newest grows, and snapshots never change at all. So what is
seen is consistent if the set of files is: names of segments, manifest, keyring and identity are
read, all files are opened, and if names and small files are the same after that as before, what was
opened belongs together. From then on it may be renamed or removed: what is open stays readable. Of
the newest segment those bytes count that were there when it was opened. A write fills a file from
its beginning to its end, so all of them have been written, and a frame that was under way is a torn
tail at worst: it is never seen half at one look and whole at the next.
"""

from __future__ import annotations

import errno
import weakref
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from vaylix_storage._catalog import NameKind, parse_segment_name
from vaylix_storage._manifest import parse_snapshot_name
from vaylix_storage._names import (
    IDENTITY_NAME,
    KEY_NAME,
    KEYRING_NAME,
    LOG_BEGUN_NAME,
    MANIFEST_NAME,
    SNAPSHOTS_NAME,
    WAL_NAME,
)
from vaylix_storage._tail import written_end
from vaylix_storage.errors import FileSystemError
from vaylix_storage.offline._layout import read_small
from vaylix_storage.offline._read_only import ContentFile, CutFile, ReadOnlyVfs
from vaylix_storage.offline._segments import is_unreadable

if TYPE_CHECKING:
    from vaylix_storage._vfs import File, Vfs

__all__ = ["SMALL_NAMES", "MomentVfs", "Part"]

SMALL_NAMES: Final = (
    IDENTITY_NAME,
    KEYRING_NAME,
    KEY_NAME,
    MANIFEST_NAME,
    LOG_BEGUN_NAME,
    "migration.json",
)
# A look takes milliseconds, and so does what can disturb it.
_LOOKS_MAX: Final = 50


class Part(NamedTuple):
    """An open file: its path within the directory, and how much of it counts."""

    path: Path
    file: File
    size: int


class _Parts(NamedTuple):
    """Files that belong together: the small ones by their content, the others open."""

    small: dict[str, bytes]
    open: tuple[Part, ...]


def _snapshot_names(path: Path, vfs: Vfs) -> list[str]:
    directory = path / SNAPSHOTS_NAME
    names = vfs.list_directory(directory) if vfs.exists(directory) else []
    return [name for name in names if parse_snapshot_name(name) is not None]


def _open_parts(path: Path, vfs: Vfs, opened: ExitStack) -> _Parts:
    """Open what belongs together; `opened` closes it. Raises FileSystemError, OSError."""
    for _ in range(_LOOKS_MAX):
        with ExitStack() as files:
            before = _small_files(path, vfs), _segment_names(path, vfs)
            try:
                parts = [_open_segment(path, name, vfs, files) for name in before[1]]
                parts += [
                    _open(path, Path(SNAPSHOTS_NAME, name), vfs, files)
                    for name in _snapshot_names(path, vfs)
                ]
            except FileNotFoundError:
                continue
            if (_small_files(path, vfs), _segment_names(path, vfs)) == before:
                opened.enter_context(files.pop_all())
                return _Parts(before[0], tuple(parts))
    raise FileSystemError(
        "the directory changes too fast to be looked at",
        path=path,
        remedy="try again; a server that ends a segment every few milliseconds needs larger ones",
    )


def _small_files(path: Path, vfs: Vfs) -> dict[str, bytes]:
    # What a link leads to is not part of the directory.
    there = set(vfs.list_directory(path))
    found = {name: read_small(path / name, vfs) for name in SMALL_NAMES if name in there}
    return {name: content for name, content in found.items() if content is not None}


def _segment_names(path: Path, vfs: Vfs) -> list[str]:
    wal = path / WAL_NAME
    names = vfs.list_directory(wal) if vfs.exists(wal) else []
    return [name for name in names if parse_segment_name(name) is not None]


def _open(path: Path, name: Path, vfs: Vfs, files: ExitStack) -> Part:
    file = vfs.open(path / name)
    files.callback(file.close)
    return Part(name, file, file.size())


def _open_segment(path: Path, name: str, vfs: Vfs, files: ExitStack) -> Part:
    part = _open(path, Path(WAL_NAME, name), vfs, files)
    parsed = parse_segment_name(name)
    if parsed is None or parsed[1] is not NameKind.ACTIVE:
        return part
    try:
        # Without the space that is reserved.
        return part._replace(size=written_end(part.file, 0, part.size))
    except OSError as error:
        if not is_unreadable(error):
            raise
        # Whoever reads it will say so.
        return part


class MomentVfs(ReadOnlyVfs):
    """Shows a directory as it was when this was made, and everything else as it is.

    `small` are the small files by name, `parts` the open ones: segments, and all snapshots, whether
    they count or not. They stay open until `close`, or until nobody uses this any more. Raises
    FileSystemError, when the directory changes too fast, and OSError.
    """

    def __init__(self, path: Path, vfs: Vfs) -> None:
        super().__init__(vfs)
        self._path = path
        with ExitStack() as opened:
            small, parts = _open_parts(path, vfs, opened)
            self.small = small
            self.parts = parts
            self._small = {path / name: content for name, content in small.items()}
            self._parts = {path / part.path: part for part in parts}
            absent = [name for name in SMALL_NAMES if name not in small]
            self._links = {name for name in absent if vfs.exists(path / name)}
            self._close = weakref.finalize(self, opened.pop_all().close)

    def close(self) -> None:
        """Close all files; closing twice is allowed."""
        self._close()

    def open(self, path: Path) -> File:
        """Open a file for reading only; of the directory, one that was there."""
        if path in self._small:
            return ContentFile(self._small[path])
        if path in self._parts:
            part = self._parts[path]
            return _Borrowed(part.file, part.size)
        if self._is_held(path):
            raise FileNotFoundError(errno.ENOENT, "was not there", str(path))
        return super().open(path)

    def exists(self, path: Path) -> bool:
        """Tell whether something has, or had, this name."""
        if self._is_held(path):
            return path in self._small or path in self._parts
        return super().exists(path)

    def list_directory(self, path: Path) -> list[str]:
        """Return the names of the regular files that are, or were, in a directory, sorted."""
        held = {file.name for file in (*self._small, *self._parts) if file.parent == path}
        if path.parent == self._path and path.name in {WAL_NAME, SNAPSHOTS_NAME}:
            return sorted(held)
        names = super().list_directory(path)
        return sorted(held.union(name for name in names if not self._is_held(path / name)))

    def _is_held(self, path: Path) -> bool:
        """Tell whether a file is one of those that count as they were."""
        if path.parent == self._path:
            return path.name in SMALL_NAMES and path.name not in self._links
        is_inside = path.parent.parent == self._path
        return is_inside and path.parent.name in {WAL_NAME, SNAPSHOTS_NAME}


class _Borrowed(CutFile):
    """An open file of another owner."""

    __slots__ = ()

    def close(self) -> None:
        pass
