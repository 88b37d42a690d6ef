"""What of the past a directory and its archive can bring back, read from the records themselves.

A point can be restored from the newest snapshot at or below it if no entry is missing between the
two. What belongs to another timeline is another history: it is listed, and never mixed with this
one.

A durable entry need not be committed. In a group of one voter it is: there a sync is the commit. A
history that has held a change of the membership is that of a cluster, where the commit index that
was written last decides.
"""

from __future__ import annotations

from collections import deque
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from vaylix_storage._archive import list_archive
from vaylix_storage._manifest import load_manifest, snapshot_name
from vaylix_storage._names import MANIFEST_NAME, SNAPSHOTS_NAME
from vaylix_storage._snapshot_format import SectionCounts, SnapshotMeta
from vaylix_storage.errors import CorruptionError, FileSystemError, KeyringError, StorageError
from vaylix_storage.offline._examination import base_of, open_snapshot
from vaylix_storage.offline._layout import load_identity, load_keyring
from vaylix_storage.offline._past_log import PastLog, PastSegment, read_past_log

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vaylix_storage._archive import ArchivedTimeline
    from vaylix_storage._batch import Batch
    from vaylix_storage._key_providers import KeyProvider
    from vaylix_storage._keyring import Keyring
    from vaylix_storage._manifest import Manifest
    from vaylix_storage._snapshot import SnapshotReader
    from vaylix_storage._vfs import Vfs

__all__ = ["History", "Interval", "PastSegment", "PastSnapshot", "read_history"]


class PastSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot that can be restored. `end_tag` is what the manifest says, if it names it."""

    path: Path
    meta: SnapshotMeta
    size_bytes: int
    is_archived: bool
    end_tag: bytes | None


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """Entries, each of which can be restored; times are theirs, 0 before the first entry."""

    earliest: int
    earliest_timestamp_ms: int
    latest: int
    latest_timestamp_ms: int


class History:
    """All that can be restored of one timeline; `read_history` makes one. Reads only.

    `problems` are snapshots and archived segments that are damaged or lost, and so of no use;
    `lost_snapshots` are those of them that are known all the same. `notes` are worth knowing.
    """

    def __init__(
        self, *, timeline: bytes, keyring: Keyring, vfs: Vfs, log: PastLog, others: tuple[str, ...]
    ) -> None:
        self.timeline = timeline
        self.keyring = keyring
        self.snapshots: list[PastSnapshot] = []
        self.lost_snapshots: list[PastSnapshot] = []
        self.other_timelines = others
        self.problems = log.problems
        self.notes: list[str] = []
        self._log = log
        self._vfs = vfs

    @property
    def segments(self) -> list[PastSegment]:
        """The segments of directory and archive, in order."""
        return self._log.segments

    @property
    def last_index(self) -> int:
        """The last entry that is known to have been durable, in the log or in a snapshot."""
        in_log = max((last for _, last in self._log.runs()), default=0)
        return max(in_log, self._last_in_snapshots)

    @property
    def committed_index(self) -> int:
        """The last entry that is known to be committed."""
        if not self._log.configuration:
            return self.last_index
        return min(max(self._log.commit, self._last_in_snapshots), self.last_index)

    @property
    def _last_in_snapshots(self) -> int:
        """The last entry of any snapshot: that one is lost does not undo what it has proven."""
        known = (*self.snapshots, *self.lost_snapshots)
        return max((part.meta.index for part in known), default=0)

    def intervals(self, limit: int) -> tuple[Interval, ...]:
        """Return what can be restored up to an entry, the oldest first; there are gaps between."""
        found = [
            Interval(
                earliest=meta.index,
                earliest_timestamp_ms=meta.timestamp_ms,
                latest=meta.index,
                latest_timestamp_ms=meta.timestamp_ms,
            )
            for meta in (part.meta for part in self.snapshots)
        ]
        runs = self._log.runs()
        if not self.last_index:
            # Nothing was ever written, which can be restored.
            runs = [(1, 0)]
        for run in runs:
            start = self._start_of(run)
            last = min(run[1], limit)
            if start is not None and start[0] <= last:
                found.append(
                    Interval(
                        earliest=start[0],
                        earliest_timestamp_ms=start[1],
                        latest=last,
                        latest_timestamp_ms=self._time_of(run, last) or start[1],
                    )
                )
        merged: list[Interval] = []
        for part in sorted(found, key=lambda part: (part.earliest, -part.latest)):
            if part.earliest > limit:
                continue
            if not merged or part.earliest > merged[-1].latest + 1:
                merged.append(part)
            elif part.latest > merged[-1].latest:
                merged[-1] = msgspec.structs.replace(
                    merged[-1],
                    latest=part.latest,
                    latest_timestamp_ms=part.latest_timestamp_ms,
                )
        return tuple(merged)

    def bases_for(self, index: int) -> Iterator[PastSnapshot | None]:
        """Yield the snapshots from which `index` can be reached, newest first, then the beginning.

        None is the beginning.
        """
        for snapshot in reversed(self.snapshots):
            at = snapshot.meta.index
            if at == index or (at < index and self._run_for(at, index) is not None):
                yield snapshot
        if self._run_for(0, index) is not None or not self.last_index:
            yield None

    def batches(self, base_index: int, last_index: int) -> Iterator[Batch]:
        """Yield the batches with entries behind a base, up to `last_index`. CorruptionError."""
        run = self._run_for(base_index, last_index)
        if run is not None and last_index > base_index:
            yield from self._log.batches(run, base_index + 1, last_index)

    def bytes_for(self, base_index: int, last_index: int) -> int:
        """Return how many bytes of segments lie between a base and an entry, at most."""
        run = self._run_for(base_index, last_index)
        return sum(
            part.size_bytes
            for part in (() if run is None else self._log.parts(run))
            if part.last_index > base_index and part.first_index <= last_index
        )

    def index_at(self, timestamp_ms: int, limit: int) -> int | None:
        """Return the last entry at or before a time; None where that is not known.

        It is not known before the first interval, nor where entries that are not there may have
        come before that time.
        """
        found = None
        intervals = self.intervals(limit)
        for place, part in enumerate(intervals):
            if part.earliest_timestamp_ms > timestamp_ms:
                break
            found = part.latest
            if part.latest_timestamp_ms > timestamp_ms:
                found = self._last_until(timestamp_ms, part)
            elif place + 1 < len(intervals) or part.latest < limit:
                # What follows is missing, unless the next interval is at or before this time, too.
                found = None
        return found

    def read_whole(self, snapshot: PastSnapshot) -> tuple[SectionCounts, ...]:
        """Read a snapshot to its end and return its sections. Raises subclasses of StorageError."""
        with closing(self.open(snapshot)) as reader:
            deque(reader.chunks(), maxlen=0)
            if reader.meta != snapshot.meta:
                raise reader.corruption("the snapshot is not the one that the manifest describes")
            return reader.sections

    def open(self, snapshot: PastSnapshot) -> SnapshotReader:
        """Open a snapshot for reading."""
        return open_snapshot(
            snapshot.path,
            vfs=self._vfs,
            keyring=self.keyring,
            timeline=self.timeline,
            end_tag=snapshot.end_tag,
        )

    def check_snapshots(self) -> None:
        """Read each snapshot to its end, and do without those that are not whole."""
        for snapshot in list(self.snapshots):
            try:
                self.read_whole(snapshot)
            except (CorruptionError, FileSystemError, KeyringError) as error:
                self.drop(snapshot, error)

    def nothing_left(self, path: Path) -> CorruptionError:
        """Return the error to raise where no point can be restored, with its causes."""
        return CorruptionError(
            f"nothing can be restored: {'; '.join(self.problems)}",
            path=path,
            remedy="bring back what is lost from a copy, or name the archive that has more",
        )

    def drop(self, snapshot: PastSnapshot, error: StorageError) -> None:
        """Do without a snapshot, because it cannot be read."""
        self.snapshots.remove(snapshot)
        self.lost_snapshots.append(snapshot)
        text = str(error)
        self.problems.append(text if str(snapshot.path) in text else f"{snapshot.path}: {text}")

    def _run_for(self, base_index: int, last_index: int) -> tuple[int, int] | None:
        """Return a part of the log without a gap from behind a base to an entry."""
        for run in self._log.runs():
            if run[0] <= base_index + 1 and last_index <= run[1]:
                return run
        return None

    def _start_of(self, run: tuple[int, int]) -> tuple[int, int] | None:
        """Return the first point within a run, and its time; None if nothing leads into it."""
        if run[0] == 1:
            return 0, 0
        for snapshot in self.snapshots:
            if run[0] - 1 <= snapshot.meta.index <= run[1]:
                return snapshot.meta.index, snapshot.meta.timestamp_ms
        return None

    def _time_of(self, run: tuple[int, int], index: int) -> int:
        """Return the time of an entry of a run, 0 if it is before its first one."""
        for part in self._log.parts(run):
            if part.first_index <= index == part.last_index:
                return part.last_timestamp_ms
        return next(
            (batch.timestamp_ms for batch in self._log.batches(run, index, index)),
            0,
        )

    def _last_until(self, timestamp_ms: int, interval: Interval) -> int:
        """Return the last entry of an interval at or before a time after its beginning."""
        found = interval.earliest
        for snapshot in self.snapshots:
            meta = snapshot.meta
            inside = interval.earliest <= meta.index <= interval.latest
            if inside and meta.timestamp_ms <= timestamp_ms:
                found = max(found, meta.index)
        for run in self._log.runs():
            for part in self._log.parts(run):
                if part.last_index < part.first_index or part.first_timestamp_ms > timestamp_ms:
                    continue
                if part.last_timestamp_ms <= timestamp_ms and part.last_index <= interval.latest:
                    found = max(found, part.last_index)
                    continue
                for batch in self._log.batches(run, part.first_index, part.last_index):
                    if batch.timestamp_ms <= timestamp_ms and batch.first_index <= interval.latest:
                        found = max(found, min(batch.last_index, interval.latest))
        return found


def read_history(
    path: Path,
    *,
    vfs: Vfs,
    provider: KeyProvider,
    archive: Path | None = None,
    check_snapshots: bool = False,
) -> History:
    """Read what can be brought back of a directory that nobody changes meanwhile.

    With `check_snapshots`, each is read to its end, and left out if it is damaged. Raises
    CorruptionError for a damaged log, KeyringError, ForeignFormatError, FileSystemError, OSError.
    """
    timeline = bytes.fromhex(load_identity(path, vfs).timeline)
    keyring = load_keyring(path, vfs=vfs, provider=provider)
    manifest = load_manifest(path / MANIFEST_NAME, vfs=vfs, keyring=keyring, timeline=timeline)
    timelines = () if archive is None else list_archive(archive, vfs=vfs)
    archived = next((part for part in timelines if part.timeline == timeline), None)
    history = History(
        timeline=timeline,
        keyring=keyring,
        vfs=vfs,
        log=read_past_log(
            path,
            vfs=vfs,
            keyring=keyring,
            timeline=timeline,
            base=base_of(manifest),
            archived=archived,
        ),
        others=tuple(part.timeline.hex() for part in timelines if part is not archived),
    )
    if archive is not None and not timelines:
        history.notes.append(f"there is nothing in the archive {archive}")
    history.snapshots = _named_snapshots(path, manifest)
    if archived is not None:
        _add_archived_snapshots(history, archived)
    if check_snapshots:
        history.check_snapshots()
    return history


def _named_snapshots(path: Path, manifest: Manifest) -> list[PastSnapshot]:
    return [
        PastSnapshot(
            path=path / SNAPSHOTS_NAME / snapshot_name(entry.meta.index),
            meta=entry.meta,
            size_bytes=entry.size_bytes,
            is_archived=False,
            end_tag=entry.end_tag,
        )
        for entry in manifest.snapshots
    ]


def _add_archived_snapshots(history: History, archived: ArchivedTimeline) -> None:
    """Add those that the directory does not hold any more, as far as their headers are good."""
    known = {part.meta.index for part in history.snapshots}
    for file in archived.snapshots:
        snapshot = PastSnapshot(
            path=file.path,
            meta=file.header.meta,
            size_bytes=file.size_bytes,
            is_archived=True,
            end_tag=None,
        )
        if snapshot.meta.index in known:
            continue
        history.snapshots.append(snapshot)
        try:
            history.open(snapshot).close()
        except (CorruptionError, FileSystemError, KeyringError) as error:
            history.drop(snapshot, error)
    history.snapshots.sort(key=lambda part: part.meta.index)
