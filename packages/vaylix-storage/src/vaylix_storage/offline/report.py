"""What can be said about a data directory: twelve lines for people, and the details as JSON.

All numbers are of what counts, read from the records themselves: segments that a cut has superseded
and snapshots that the manifest does not name do not, and neither does space that is only reserved.
"""

from __future__ import annotations

from typing import Final

import msgspec

__all__ = ["FORMAT_VERSION", "SegmentFacts", "SnapshotFacts", "StorageReport"]

FORMAT_VERSION: Final = 4


class SnapshotFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot that the manifest names. `items` are counted by section, empty if not read."""

    path: str
    index: int
    term: int
    timestamp_ms: int
    created_at_ms: int
    size_bytes: int
    key_id: str
    installed: bool
    is_whole: bool
    items: dict[str, int] = msgspec.field(default_factory=dict)


class SegmentFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A segment that counts, as far as it is good.

    Without entries, `last_index` is `first_index` - 1 and the times are 0. `size_bytes` is what
    counts of the `file_bytes`.
    """

    path: str
    number: int
    first_index: int
    last_index: int
    first_timestamp_ms: int
    last_timestamp_ms: int
    size_bytes: int
    file_bytes: int
    key_id: str
    is_sealed: bool


class StorageReport(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a directory; snapshots and segments are in order, the oldest first."""

    snapshots: tuple[SnapshotFacts, ...] = ()
    segments: tuple[SegmentFacts, ...] = ()

    @property
    def newest_sequence(self) -> int | None:
        """The last entry that is known, in the log or in the current snapshot."""
        newest = 0
        if self.snapshots:
            newest = self.snapshots[-1].index
        if self.segments:
            newest = max(newest, self.segments[-1].last_index)
        return newest or None

    @property
    def active_start(self) -> int:
        """What the first entry of the active segment has, or would have if there were one."""
        if self.segments and not self.segments[-1].is_sealed:
            return self.segments[-1].first_index
        return (self.newest_sequence or 0) + 1

    def values(self) -> dict[str, bool | int | None]:
        """Return the twelve values of the report, by their names, in order."""
        current = self.snapshots[-1] if self.snapshots else None
        sealed = sum(segment.is_sealed for segment in self.segments)
        return {
            "snapshot_present": current is not None,
            "storage_format_version": FORMAT_VERSION,
            "snapshot_size_bytes": 0 if current is None else current.size_bytes,
            "last_snapshot_sequence": 0 if current is None else current.index,
            "last_snapshot_at_ms": None if current is None else current.created_at_ms,
            "wal_segment_count": len(self.segments),
            "sealed_wal_segment_count": sealed,
            "active_wal_segment_count": len(self.segments) - sealed,
            "active_wal_start_sequence": self.active_start,
            "oldest_retained_sequence": self.segments[0].first_index if self.segments else None,
            "newest_sequence": self.newest_sequence,
            "wal_size_bytes": sum(segment.size_bytes for segment in self.segments),
        }

    def lines(self) -> list[str]:
        """Return the report as `key=value` lines."""
        return [f"{name}={_text(value)}" for name, value in self.values().items()]


def _text(value: bool | int | None) -> str:  # noqa: FBT001 - it is a value like the others
    if value is None:
        return "none"
    return str(value).lower()
