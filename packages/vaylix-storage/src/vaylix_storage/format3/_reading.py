"""Reading a whole directory of format 3, without changing anything in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from vaylix_storage._directory import older_format_names
from vaylix_storage._entry import Entry as StoredEntry
from vaylix_storage.errors import (
    CorruptionError,
    FileSystemError,
    ForeignFormatError,
    LogDamageError,
    StorageError,
)
from vaylix_storage.format3._auth import Format3Auth, load_auth
from vaylix_storage.format3._envelope import Envelopes
from vaylix_storage.format3._keyring import load_secrets
from vaylix_storage.format3._log import (
    LEGACY_LOG_NAME,
    Record,
    Segment,
    list_segments,
    read_segments,
)
from vaylix_storage.format3._replay import Replay
from vaylix_storage.format3._snapshot import Manifest, Snapshot, load_snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from vaylix_storage._vfs import Vfs

__all__ = ["Format3Contents", "is_format3", "read_directory"]

_KEYRING_NAME: Final = "keyring.bin"
_IDENTITY_NAME: Final = "node.json"
# How much is read between two words about progress.
_PROGRESS_BYTES: Final = 1024 * 1024
_RESTORE: Final = "bring back the files from a copy, or restore a logical backup"


class Format3Contents(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a directory of format 3 holds.

    `entries` are value, version and absolute expiry (0: none) of every key, dead ones included.
    `last_sequence` is the last entry of the log, `last_term` its term and `last_timestamp_ms` the
    latest time that was seen. `warnings` say what was left out or looked odd.
    """

    entries: dict[bytes, StoredEntry]
    last_sequence: int
    last_term: int
    last_timestamp_ms: int
    auth: Format3Auth | None
    is_sealed: bool
    warnings: tuple[str, ...]


def is_format3(path: Path, vfs: Vfs) -> bool:
    """Tell whether this looks like a directory of format 3 or older.

    Raises CorruptionError for one of the current format without its identity, and OSError.
    """
    return bool(older_format_names(path, vfs))


def read_directory(
    path: Path,
    *,
    vfs: Vfs,
    warn: Callable[[str], None] = lambda _text: None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Format3Contents:
    """Read a directory of format 3: state, users and roles. Nothing is created or changed.

    `warn` is told at once what is also in `warnings`. `progress` is told bytes of the log that
    are done and to be done, now and then. Raises subclasses of StorageError, each with the file,
    the offset and the remedy.
    """
    warnings: list[str] = []

    def note(text: str) -> None:
        warnings.append(text)
        warn(text)

    try:
        _check_format(path, vfs)
        envelopes = None
        if vfs.exists(path / _KEYRING_NAME):
            envelopes = Envelopes(load_secrets(path / _KEYRING_NAME, vfs))
        auth = load_auth(path, vfs, envelopes)
        snapshot, manifest = load_snapshot(path, vfs, envelopes, note)
        segments = _segments(path, vfs, note)
        records = read_segments(segments, vfs, envelopes, note)
        log = _Log(path, vfs, segments, snapshot)
        replay = Replay(snapshot.entries)
        for record in log.checked(records, progress):
            replay.apply(record)
        log.check_end(note)
        _check_manifest(manifest, log.last_sequence, path)
    except OSError as error:
        raise FileSystemError(f"cannot read: {error}", path=path) from error
    return Format3Contents(
        entries=replay.entries,
        last_sequence=log.last_sequence,
        last_term=log.last_term,
        last_timestamp_ms=max(snapshot.updated_at_ms, log.last_timestamp_ms),
        auth=auth,
        is_sealed=envelopes is not None,
        warnings=tuple(warnings),
    )


def _check_format(path: Path, vfs: Vfs) -> None:
    if not vfs.exists(path):
        raise FileSystemError(
            "there is no such directory", path=path, remedy="check the path for a mistyped name"
        )
    if vfs.exists(path / _IDENTITY_NAME):
        raise ForeignFormatError("this is a directory of storage format 4 or newer", path=path)
    if not is_format3(path, vfs):
        raise ForeignFormatError(
            "this is no data directory of Vaylix 0.9", path=path, remedy="check the path"
        )


def _segments(path: Path, vfs: Vfs, warn: Callable[[str], None]) -> list[Segment]:
    segments = list_segments(path / "wal", vfs, warn)
    legacy_path = path / LEGACY_LOG_NAME
    if not vfs.exists(legacy_path):
        return segments
    for segment in segments:
        file = vfs.open(segment.path)
        try:
            is_empty = file.size() == 0
        finally:
            file.close()
        if not is_empty:
            raise LogDamageError(
                f"there are two logs: {LEGACY_LOG_NAME}, and segments in wal/",
                path=segment.path,
                offset=0,
                remedy=f"move away {LEGACY_LOG_NAME} or wal/, whichever does not count",
            )
    return [Segment(0, None, legacy_path)]


class _Log:
    """Follows the entries of the log from where the snapshot ends."""

    def __init__(
        self, directory: Path, vfs: Vfs, segments: list[Segment], snapshot: Snapshot
    ) -> None:
        self._directory = directory
        self._vfs = vfs
        self._segments = segments
        self._snapshot_sequence = snapshot.last_sequence
        self._snapshot_ms = snapshot.updated_at_ms
        # Entries that the snapshot should hold, but that were made after it.
        self._late: list[int] = []
        self._read_sequence = 0
        # The last file with a record.
        self._last_path: Path | None = None
        self.last_term = 0
        self.last_timestamp_ms = 0

    @property
    def last_sequence(self) -> int:
        """The last entry of the snapshot and the log."""
        return max(self._read_sequence, self._snapshot_sequence)

    def checked(
        self, records: Iterator[Record], progress: Callable[[int, int], None]
    ) -> Iterator[Record]:
        """Return the records that the snapshot does not hold; the first must follow on it."""
        sizes = self._sizes()
        total = sum(sizes.values())
        done = told = 0
        progress(0, total)
        for record in records:
            if record.path != self._last_path:
                done += sizes.get(self._last_path, 0)
                self._last_path = record.path
            if done + record.offset - told >= _PROGRESS_BYTES:
                told = done + record.offset
                progress(told, total)
            entry = record.entry
            is_first = self._read_sequence == 0
            if is_first and entry.sequence > self._snapshot_sequence + 1:
                raise self._missing(record.path, record.offset, entry.sequence)
            self._read_sequence = entry.sequence
            self.last_term = entry.term
            self.last_timestamp_ms = max(self.last_timestamp_ms, entry.created_at_ms)
            if entry.sequence > self._snapshot_sequence:
                yield record
            elif entry.created_at_ms > self._snapshot_ms:
                self._late.append(entry.sequence)

    def check_end(self, warn: Callable[[str], None]) -> None:
        """Check what the names say about the end of the log, and that the snapshot is no liar."""
        if self._late:
            warn(
                f"entries {self._late[0]} to {self._late[-1]} were made after the snapshot of "
                f"entry {self._snapshot_sequence}, which does not hold them: the clock or the "
                "numbers of the old server went back; they are left out"
            )
        active = self._segments[-1] if self._segments else None
        if active is None or active.last is not None:
            warn(f"{self._directory / 'wal'} has no active segment; the log ends with the last one")
            return
        if self._last_path == active.path or not active.is_named_by_entries:
            return
        if active.first > self.last_sequence + 1:
            raise self._missing(active.path, 0, active.first)
        if active.first != self._read_sequence + 1 and self._read_sequence:
            warn(
                f"{active.path} is empty and its name does not follow on entry "
                f"{self._read_sequence}; the snapshot holds all that could be missing"
            )

    def _missing(self, path: Path, offset: int, found: int) -> StorageError:
        return LogDamageError(
            f"entries {self.last_sequence + 1} to {found - 1} are missing: the log goes on with "
            f"{found}",
            path=path,
            offset=offset,
            remedy=_RESTORE,
        )

    def _sizes(self) -> dict[Path | None, int]:
        sizes: dict[Path | None, int] = {}
        for segment in self._segments:
            file = self._vfs.open(segment.path)
            sizes[segment.path] = file.size()
            file.close()
        return sizes


def _check_manifest(manifest: Manifest | None, last_sequence: int, path: Path) -> None:
    if manifest is not None and manifest.last_sequence > last_sequence:
        raise CorruptionError(
            f"the manifest knows of entry {manifest.last_sequence}, but snapshot and log end with "
            f"entry {last_sequence}",
            path=path / "snapshot.bin",
            offset=0,
            remedy=_RESTORE,
        )
