"""One look at a data directory from its identity to its last frame; the work behind `verify`.

The order is that of a start: who this is, the keys, the manifest, the snapshots, the log. What is
damaged is noted, and what does not depend on it is looked at all the same.
"""

from __future__ import annotations

from collections import deque
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from vaylix_storage._catalog import STAGING_NAME, SegmentInfo, parse_segment_name
from vaylix_storage._directory import has_log_begun
from vaylix_storage._format import HEADER_BYTES, FormatError, Predecessor, parse_header
from vaylix_storage._manifest import (
    Manifest,
    ManifestEntry,
    load_manifest,
    parse_snapshot_name,
    snapshot_name,
)
from vaylix_storage._names import (
    IDENTITY_NAME,
    KEY_NAME,
    KEYRING_NAME,
    LOG_BEGUN_NAME,
    MANIFEST_NAME,
    SNAPSHOTS_NAME,
    STAGING_SUFFIX,
    WAL_NAME,
)
from vaylix_storage._permissions import find_loose_modes
from vaylix_storage._recovery import LogBase, RecoveredLog, RecoveryOutcome, recover
from vaylix_storage._snapshot import SnapshotReader
from vaylix_storage._staging import UNFINISHED_NAME
from vaylix_storage.errors import (
    RESTORE_REMEDY,
    CorruptionError,
    FileSystemError,
    KeyringError,
    StorageError,
)
from vaylix_storage.offline._layout import (
    OTHER_DIRECTORIES,
    OTHER_NAMES,
    has_data,
    load_identity,
    load_keyring,
    segment_names,
)
from vaylix_storage.offline._segments import SegmentWalk, is_unreadable, read_segments
from vaylix_storage.offline.report import SegmentFacts, SnapshotFacts, StorageReport

if TYPE_CHECKING:
    from collections.abc import Callable

    from vaylix_storage._directory import NodeIdentity
    from vaylix_storage._key_providers import KeyProvider
    from vaylix_storage._keyring import Keyring
    from vaylix_storage._segment import FramePosition
    from vaylix_storage._vfs import Vfs

__all__ = [
    "Examination",
    "LeftOut",
    "Problem",
    "base_of",
    "check_snapshot",
    "missing_log",
    "missing_snapshot",
    "open_snapshot",
]

_KNOWN_NAMES: Final = OTHER_NAMES | {
    IDENTITY_NAME,
    KEYRING_NAME,
    KEY_NAME,
    LOG_BEGUN_NAME,
    MANIFEST_NAME,
    # A copy is examined before it loses its mark; whoever comes later is refused by the mark.
    UNFINISHED_NAME,
}
_KNOWN_DIRECTORIES: Final = OTHER_DIRECTORIES | {WAL_NAME, SNAPSHOTS_NAME}
_T = TypeVar("_T")


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is not as it should be; `offset` in bytes, None where it means nothing."""

    path: Path
    offset: int | None
    code: str
    name: str
    reason: str
    remedy: str

    def __str__(self) -> str:
        at = "" if self.offset is None else f" at byte {self.offset}"
        return f"{self.path}: {self.reason}{at}; {self.remedy}"


class LeftOut(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes at the end of the log that were never wholly written; a start leaves them out."""

    path: Path
    offset: int
    bytes: int


def base_of(manifest: Manifest | None) -> LogBase | None:
    """Return what the log has to continue."""
    current = None if manifest is None else manifest.current
    if current is None:
        return None
    return LogBase(current.meta.index, current.meta.term, current.installed)


def open_snapshot(
    path: Path, *, vfs: Vfs, keyring: Keyring, timeline: bytes, end_tag: bytes | None
) -> SnapshotReader:
    """Open a snapshot that should be there, as `SnapshotReader.open`.

    CorruptionError for one that is not, as for a damaged one.
    """
    try:
        return SnapshotReader.open(
            path, vfs=vfs, keyring=keyring, timeline=timeline, end_tag=end_tag
        )
    except FileSystemError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
        raise missing_snapshot(path) from error


def missing_snapshot(path: Path) -> CorruptionError:
    """Return the error to raise for a snapshot that is lost."""
    return CorruptionError(
        "the snapshot is missing",
        path=path,
        offset=0,
        remedy="bring this file back from a copy of the directory, or restore all of it from a "
        "backup, or let this node fetch the data from its peers",
    )


def check_snapshot(
    path: Path, entry: ManifestEntry, *, vfs: Vfs, keyring: Keyring, timeline: bytes
) -> dict[str, int]:
    """Read a snapshot to its end and compare it with the manifest; return its items by section.

    Raises CorruptionError, ForeignFormatError, KeyringError, FileSystemError.
    """
    reader = open_snapshot(path, vfs=vfs, keyring=keyring, timeline=timeline, end_tag=entry.end_tag)
    try:
        if reader.size_bytes != entry.size_bytes:
            offset = min(reader.size_bytes, entry.size_bytes)
            reason = f"the snapshot has {reader.size_bytes} bytes, not {entry.size_bytes}"
            raise CorruptionError(reason, path=path, offset=offset, remedy=RESTORE_REMEDY)
        deque(reader.chunks(), maxlen=0)
        if reader.meta != entry.meta:
            reason = "the snapshot is not the one that the manifest describes"
            raise CorruptionError(reason, path=path, offset=0, remedy=RESTORE_REMEDY)
        return {part.name: part.item_count for part in reader.sections}
    finally:
        reader.close()


class Examination:
    """Looks at a directory once; `run` does it, the rest is what was found.

    Raises KeyringError for a wrong wrapping key, ForeignFormatError for another format, OSError.
    """

    def __init__(self, path: Path, vfs: Vfs, provider: KeyProvider) -> None:
        self._path = path
        self._vfs = vfs
        self._provider = provider
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        self.identity: NodeIdentity | None = None
        self.keyring: Keyring | None = None
        self.manifest: Manifest | None = None
        self.left_out: LeftOut | None = None
        self.ending: RecoveryOutcome | None = None
        self.commit_index: int | None = None
        self._timeline = b""
        self._snapshots: list[SnapshotFacts] = []
        self._segments: list[SegmentFacts] = []

    def report(self) -> StorageReport:
        """Return what is known of snapshots and segments."""
        return StorageReport(snapshots=tuple(self._snapshots), segments=tuple(self._segments))

    def run(self) -> None:
        """Look at everything."""
        self.identity = self._attempt(
            self._path / IDENTITY_NAME, lambda: load_identity(self._path, self._vfs)
        )
        self._timeline = (
            self._guess_timeline()
            if self.identity is None
            else bytes.fromhex(self.identity.timeline)
        )
        self.keyring = self._attempt(self._path / KEYRING_NAME, self._load_keyring)
        if self.keyring is not None:
            keyring = self.keyring
            self.manifest = self._attempt(
                self._path / MANIFEST_NAME,
                lambda: load_manifest(
                    self._path / MANIFEST_NAME,
                    vfs=self._vfs,
                    keyring=keyring,
                    timeline=self._timeline,
                ),
            )
            for entry in () if self.manifest is None else self.manifest.snapshots:
                self._check_snapshot(entry, keyring)
            self._check_log(keyring)
        elif has_data(self._path, self._vfs):
            self.notes.append("snapshots and log could not be read without the keyring")
        self._note_strays()
        self.notes.extend(str(finding) for finding in find_loose_modes(self._path, vfs=self._vfs))

    # The small files

    def _load_keyring(self) -> Keyring | None:
        path = self._path
        if not (self._vfs.exists(path / KEYRING_NAME) or has_data(path, self._vfs)):
            return None
        return load_keyring(path, vfs=self._vfs, provider=self._provider)

    def _guess_timeline(self) -> bytes:
        """Return the timeline that a segment names, to look at the rest without node.json."""
        wal = self._path / WAL_NAME
        for name in segment_names(self._path, self._vfs) if self._vfs.exists(wal) else ():
            with closing(self._vfs.open(wal / name)) as file:
                data = file.read_at(0, HEADER_BYTES)
            try:
                return parse_header(data)[0].timeline
            except FormatError:
                continue
        return b""

    # Snapshots

    def _check_snapshot(self, entry: ManifestEntry, keyring: Keyring) -> None:
        path = self._path / SNAPSHOTS_NAME / snapshot_name(entry.meta.index)
        items = self._attempt(
            path,
            lambda: check_snapshot(
                path, entry, vfs=self._vfs, keyring=keyring, timeline=self._timeline
            ),
        )
        meta = entry.meta
        self._snapshots.append(
            SnapshotFacts(
                path=str(path),
                index=meta.index,
                term=meta.term,
                timestamp_ms=meta.timestamp_ms,
                created_at_ms=meta.created_at_ms,
                size_bytes=entry.size_bytes,
                key_id=entry.key_id.hex(),
                installed=entry.installed,
                is_whole=items is not None,
                items=items or {},
            )
        )

    # The log

    def _check_log(self, keyring: Keyring) -> None:
        wal = self._path / WAL_NAME
        has_begun = has_log_begun(self._path, self._vfs)
        if not self._vfs.exists(wal):
            if has_begun:
                self._note_problem(wal, missing_log(wal))
            return
        if self.manifest is None:
            # The base is unknown, so whether the log begins where it should is, too.
            self._read_alone(keyring)
            return
        recovered = self._attempt(
            wal,
            lambda: recover(wal, self._vfs, keyring, self._timeline, base_of(self.manifest)),
        )
        if recovered is None:
            self._read_alone(keyring)
        elif has_begun and recovered.next_number == 1:
            self._note_problem(wal, missing_log(wal))
        else:
            self._take(recovered)

    def _take(self, recovered: RecoveredLog) -> None:
        """Note a log that a start would accept."""
        self.ending = recovered.outcome
        self.commit_index = recovered.hard_state.commit
        if recovered.is_reset:
            self.notes.append("the log is behind an installed snapshot; a start begins it anew")
        self.notes.extend(
            f"{path}: it does not count any more; a start removes it"
            for path in recovered.superseded
        )
        newest, end = recovered.newest, recovered.whole_end
        for info in recovered.segments:
            if info is not newest or end is None:
                self._segments.append(self._facts(info, is_sealed=True))
                continue
            # Recovery lets it count only as far as it was synced, to write the rest again.
            self._segments.append(self._facts(self._whole(info, end), is_sealed=False))
        if newest is None or end is None:
            return
        if recovered.outcome is RecoveryOutcome.TORN_TAIL:
            self.left_out = LeftOut(
                path=newest.path, offset=end.offset, bytes=recovered.left_out_bytes
            )
        elif recovered.outcome is RecoveryOutcome.UNCLEAN_END:
            self.notes.append("the log was not closed by a clean stop; nothing is left out")

    def _whole(self, info: SegmentInfo, end: FramePosition) -> SegmentInfo:
        """Return a segment with all of its good frames, up to `end`."""
        fresh = SegmentInfo(info.path, info.header, info.cipher, info.start)
        counted = Predecessor(info.header.number, end.offset, end.previous_tag)
        self._walk(SegmentWalk(fresh, counted))
        return fresh

    def _walk(self, walk: SegmentWalk) -> None:
        """Read a segment to its end."""
        deque(walk.frames(self._vfs), maxlen=0)

    def _read_alone(self, keyring: Keyring) -> None:
        """Read every segment for itself, and note what is wrong with each."""
        wal = self._path / WAL_NAME
        found = read_segments(wal, vfs=self._vfs, keyring=keyring, timeline=self._timeline)
        for error in found.errors:
            self._note_problem(error.path or wal, error)
        for info in found.chain:
            walk = SegmentWalk(info, found.counted.get(info.header.number))
            self._attempt(info.path, partial(self._walk, walk))
            self._segments.append(self._facts(info, is_sealed=info is not found.chain[-1]))
            if walk.hard_state is not None:
                self.commit_index = walk.hard_state.commit

    def _facts(self, info: SegmentInfo, *, is_sealed: bool) -> SegmentFacts:
        stat = info.stat(is_sealed=is_sealed)
        with closing(self._vfs.open(info.path)) as file:
            file_bytes = file.size()
        return SegmentFacts(
            path=str(stat.path),
            number=stat.number,
            first_index=stat.first_index,
            last_index=stat.last_index,
            first_timestamp_ms=stat.first_timestamp_ms,
            last_timestamp_ms=stat.last_timestamp_ms,
            size_bytes=stat.size_bytes,
            file_bytes=file_bytes,
            key_id=stat.key_id.hex(),
            is_sealed=is_sealed,
        )

    # Notes

    def _note_strays(self) -> None:
        vfs, path = self._vfs, self._path
        for name in vfs.list_directory(path):
            if name not in _KNOWN_NAMES:
                self._note_stray(path / name)
        for name in vfs.list_subdirectories(path):
            if name not in _KNOWN_DIRECTORIES:
                self.notes.append(f"{path / name}: no directory of Vaylix; it was not looked at")
        for directory in (path / WAL_NAME, path / SNAPSHOTS_NAME):
            for name in vfs.list_directory(directory) if vfs.exists(directory) else ():
                if parse_segment_name(name) is None and parse_snapshot_name(name) is None:
                    self._note_stray(directory / name)
        if self.manifest is not None and vfs.exists(path / SNAPSHOTS_NAME):
            self._note_unnamed(self.manifest)

    def _note_unnamed(self, manifest: Manifest) -> None:
        named = {entry.meta.index for entry in manifest.snapshots}
        directory = self._path / SNAPSHOTS_NAME
        for name in self._vfs.list_directory(directory):
            index = parse_snapshot_name(name)
            if index is not None and index not in named:
                self.notes.append(
                    f"{directory / name}: the manifest does not name it, so it does not count; a "
                    "start removes it"
                )

    def _note_stray(self, path: Path) -> None:
        if path.name == STAGING_NAME or path.name.endswith(STAGING_SUFFIX):
            self.notes.append(f"{path}: left by a crash, means nothing")
        else:
            self.notes.append(f"{path}: no file of Vaylix; it was not looked at")

    # Errors

    def _attempt(self, path: Path, work: Callable[[], _T]) -> _T | None:
        """Do one part; note damage as a problem and return None."""
        try:
            return work()
        except KeyringError as error:
            # Which key opens the keyring is the caller's affair; what the rest names is not.
            if self.keyring is None:
                raise
            self._note_problem(error.path or path, error)
        except FileSystemError as error:
            cause = error.__cause__
            if not (isinstance(cause, OSError) and is_unreadable(cause)):
                raise
            self._note_problem(error.path or path, error)
        except StorageError as error:
            self._note_problem(error.path or path, error)
        except OSError as error:
            if not is_unreadable(error):
                raise
            self._note_problem(path, FileSystemError(f"it cannot be read: {error}"))
        return None

    def _note_problem(self, path: Path, error: StorageError) -> None:
        found = Problem(
            path=path,
            offset=error.offset,
            code=error.code,
            name=error.name,
            reason=error.reason,
            remedy=error.remedy or RESTORE_REMEDY,
        )
        if all((found.path, found.offset) != (known.path, known.offset) for known in self.problems):
            self.problems.append(found)


def missing_log(path: Path) -> CorruptionError:
    """Return the error to raise where there has been a log, and is none."""
    return CorruptionError(
        "the log of this node is missing",
        path=path,
        offset=0,
        remedy="bring back the files of the log, or restore the directory from a backup",
    )
