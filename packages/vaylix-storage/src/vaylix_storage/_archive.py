"""The archive: copies of sealed segments and snapshots, made before the originals are removed.

    <archive>/<timeline>/wal/<first>-<last>.wal
    <archive>/<timeline>/snapshots/<index>.snapshot

The files are the same bytes as in the data directory, sealed by the same keys. A timeline, 32
hexadecimal digits, is one history: what belongs to different ones is never mixed. A copy is made
under a temporary name, synced, compared with its original, renamed, and its directory is synced;
only then may the original go. Files with other names are not part of the archive.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from vaylix_storage._catalog import NameKind, parse_segment_name
from vaylix_storage._format import HEADER_BYTES, FormatError, SegmentHeader, parse_header
from vaylix_storage._manifest import parse_snapshot_name
from vaylix_storage._names import SNAPSHOTS_NAME, WAL_NAME
from vaylix_storage._snapshot_format import SNAPSHOT_HEADER_BYTES, SnapshotHeader
from vaylix_storage._snapshot_format import parse_header as parse_snapshot_header
from vaylix_storage._staging import copy_file
from vaylix_storage._vfs import files_are_equal
from vaylix_storage.errors import CorruptionError, FileSystemError, ForeignFormatError

if TYPE_CHECKING:
    from vaylix_storage._vfs import Vfs

__all__ = [
    "ArchivedSegment",
    "ArchivedSnapshot",
    "ArchivedTimeline",
    "archive_segment",
    "archive_snapshot",
    "files_in",
    "list_archive",
    "read_segment_header",
    "read_snapshot_header",
]

_TIMELINE_NAME: Final = re.compile(r"[0-9a-f]{32}")
_REMEDY: Final = "take this file away, and keep it until you know how it came here"


class ArchivedSegment(msgspec.Struct, frozen=True):
    """A segment in an archive; only its header has been read."""

    path: Path
    header: SegmentHeader
    last_index: int
    size_bytes: int


class ArchivedSnapshot(msgspec.Struct, frozen=True):
    """A snapshot in an archive; only its header has been read."""

    path: Path
    header: SnapshotHeader
    size_bytes: int


class ArchivedTimeline(msgspec.Struct, frozen=True):
    """All that an archive holds of one history, in the order of the log."""

    timeline: bytes
    segments: tuple[ArchivedSegment, ...]
    snapshots: tuple[ArchivedSnapshot, ...]

    @property
    def key_ids(self) -> frozenset[bytes]:
        """The storage keys that are needed to read it."""
        of_segments = {archived.header.key_id for archived in self.segments}
        return frozenset(of_segments | {archived.header.key_id for archived in self.snapshots})


def archive_segment(path: Path, archive: Path, *, vfs: Vfs, timeline: bytes) -> Path:
    """Copy a sealed segment into the archive unless it is there; return the path of the copy.

    When this returns, the copy is on the disk and equal to the original, which may be removed.
    Raises CorruptionError for a file that is there with other content or cannot be copied
    faithfully, ForeignFormatError for another timeline, FileSystemError.
    """
    parsed_name = parse_segment_name(path.name)
    if parsed_name is None or parsed_name[1] is not NameKind.SEALED:
        raise ValueError("only a sealed segment can be archived")
    _check_timeline(path, read_segment_header(path, vfs).timeline, timeline)
    return _archive(path, archive / timeline.hex() / WAL_NAME, vfs)


def archive_snapshot(path: Path, archive: Path, *, vfs: Vfs, timeline: bytes) -> Path:
    """Copy a snapshot into the archive unless it is there; as `archive_segment`."""
    if parse_snapshot_name(path.name) is None:
        raise ValueError("only a finished snapshot can be archived")
    _check_timeline(path, read_snapshot_header(path, vfs).timeline, timeline)
    return _archive(path, archive / timeline.hex() / SNAPSHOTS_NAME, vfs)


def list_archive(archive: Path, *, vfs: Vfs) -> tuple[ArchivedTimeline, ...]:
    """Return what an archive holds, by timeline; only headers are read, and no key is needed.

    A directory that does not exist holds nothing. Raises CorruptionError, ForeignFormatError,
    FileSystemError.
    """
    try:
        if not vfs.exists(archive):
            return ()
        names = vfs.list_subdirectories(archive)
    except OSError as error:
        raise FileSystemError(f"cannot read the archive: {error}", path=archive) from error
    return tuple(
        _list_timeline(archive / name, bytes.fromhex(name), vfs)
        for name in names
        if _TIMELINE_NAME.fullmatch(name)
    )


def _list_timeline(path: Path, timeline: bytes, vfs: Vfs) -> ArchivedTimeline:
    segments = []
    for file in files_in(path / WAL_NAME, vfs):
        parsed_name = parse_segment_name(file.name)
        if parsed_name is None or parsed_name[1] is not NameKind.SEALED:
            continue
        header = read_segment_header(file, vfs)
        _check_timeline(file, header.timeline, timeline)
        if header.first_index != parsed_name[0]:
            reason = f"the segment begins with entry {header.first_index}"
            raise CorruptionError(reason, path=file, offset=24, remedy=_REMEDY)
        last_index = int(file.stem.partition("-")[2])
        segments.append(ArchivedSegment(file, header, last_index, _size(file, vfs)))
    snapshots = []
    for file in files_in(path / SNAPSHOTS_NAME, vfs):
        if parse_snapshot_name(file.name) is None:
            continue
        snapshot = read_snapshot_header(file, vfs)
        _check_timeline(file, snapshot.timeline, timeline)
        snapshots.append(ArchivedSnapshot(file, snapshot, _size(file, vfs)))
    segments.sort(key=lambda archived: archived.header.number)
    snapshots.sort(key=lambda archived: archived.header.meta.index)
    return ArchivedTimeline(timeline, tuple(segments), tuple(snapshots))


def _archive(source: Path, directory: Path, vfs: Vfs) -> Path:
    target = directory / source.name
    try:
        vfs.make_directory(directory)
        if vfs.exists(target):
            if not files_are_equal(vfs, source, target):
                raise CorruptionError(
                    f"it is not what {source} is, and an archive is never changed",
                    path=target,
                    offset=0,
                    remedy=_REMEDY,
                )
            # A process that was killed may have left the name without syncing it.
            vfs.sync_directory(directory)
            return target
        _copy(source, target, vfs)
    except OSError as error:
        raise FileSystemError(f"cannot be archived: {error}", path=source) from error
    return target


def _copy(source: Path, target: Path, vfs: Vfs) -> None:
    staging = target.with_name(target.name + ".tmp")
    if vfs.exists(staging):
        vfs.unlink(staging)
    copy_file(source, staging, vfs)
    if not files_are_equal(vfs, source, staging):
        raise CorruptionError(
            "the copy in the archive is not what was written",
            path=staging,
            offset=0,
            remedy="check the volume of the archive",
        )
    vfs.rename(staging, target)
    try:
        vfs.sync_directory(target.parent)
    except OSError:
        # The name can be seen, but may never reach the disk. Nobody must come to rely on it.
        with suppress(OSError):
            vfs.unlink(target)
        raise


def files_in(directory: Path, vfs: Vfs) -> list[Path]:
    """Return the files in a directory, none when it does not exist; FileSystemError."""
    try:
        if not vfs.exists(directory):
            return []
        return [directory / name for name in vfs.list_directory(directory)]
    except OSError as error:
        raise FileSystemError(f"cannot be listed: {error}", path=directory) from error


def read_segment_header(path: Path, vfs: Vfs) -> SegmentHeader:
    """Return the header of a segment, for which no key has vouched.

    Raises CorruptionError, FileSystemError.
    """
    try:
        return parse_header(_beginning(path, HEADER_BYTES, vfs))[0]
    except FormatError as error:
        raise CorruptionError(str(error), path=path, offset=0, remedy=_REMEDY) from error


def read_snapshot_header(path: Path, vfs: Vfs) -> SnapshotHeader:
    """Return the header of a snapshot, for which no key has vouched; as `read_segment_header`."""
    try:
        return parse_snapshot_header(_beginning(path, SNAPSHOT_HEADER_BYTES, vfs))[0]
    except FormatError as error:
        raise CorruptionError(str(error), path=path, offset=0, remedy=_REMEDY) from error


def _beginning(path: Path, size: int, vfs: Vfs) -> bytes:
    try:
        file = vfs.open(path)
        try:
            return file.read_at(0, size)
        finally:
            file.close()
    except OSError as error:
        raise FileSystemError(f"cannot be read: {error}", path=path) from error


def _size(path: Path, vfs: Vfs) -> int:
    try:
        file = vfs.open(path)
        try:
            return file.size()
        finally:
            file.close()
    except OSError as error:
        raise FileSystemError(f"cannot be read: {error}", path=path) from error


def _check_timeline(path: Path, found: bytes, timeline: bytes) -> None:
    if found != timeline:
        raise ForeignFormatError(
            f"the file belongs to another history ({found.hex()})", path=path, remedy=_REMEDY
        )
