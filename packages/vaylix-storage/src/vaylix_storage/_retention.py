"""What of the past is kept: how many segments and snapshots, how large, how old. Pure.

Some things are kept whatever the policy says: the active segment, segments with entries that the
current snapshot does not hold, the current snapshot, and what a live follower still needs. The
last has a bound, because a follower that never catches up must not fill the disk: one that needs
more than the bound gets a snapshot instead, which is why it is then not regarded at all.

Segments go from the oldest on, so a segment stays if an older one does. Each limit suffices to let
a segment or snapshot go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vaylix_storage._catalog import SegmentStat

__all__ = ["RetentionPolicy", "kept_snapshots", "removable_before"]

_Limit = Annotated[int, msgspec.Meta(ge=0)] | None


class RetentionPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Limits on what is kept beyond need; None means no such limit.

    Segments that count are the sealed ones: at most `segments_max` of them, of at most
    `segment_bytes_max` in all, the last entry of each not older than `segment_age_ms_max`. At most
    `snapshots_max` snapshots, the current one included, those before it not older than
    `snapshot_age_ms_max`. A follower that needs more than `follower_bytes_max` of the log is not
    regarded.
    """

    segments_max: _Limit = 128
    segment_bytes_max: _Limit = None
    segment_age_ms_max: _Limit = None
    snapshots_max: int = 2
    snapshot_age_ms_max: _Limit = None
    follower_bytes_max: int = 1024 * 1024 * 1024

    def __post_init__(self) -> None:
        """Refuse limits that make no sense."""
        limits = (
            self.segments_max,
            self.segment_bytes_max,
            self.segment_age_ms_max,
            self.snapshot_age_ms_max,
            self.follower_bytes_max,
        )
        if any(limit is not None and limit < 0 for limit in limits):
            raise ValueError("a limit is not negative")
        if self.snapshots_max < 1:
            raise ValueError("at least one snapshot is kept")


def removable_before(
    segments: Sequence[SegmentStat],
    *,
    snapshot_index: int,
    policy: RetentionPolicy,
    now_ms: int,
    needed_from: int | None = None,
) -> int:
    """Return the index before which segments may go; `Log.remove_before` takes it.

    `segments` are those of the log, oldest first. `snapshot_index` is where the current snapshot
    ends, 0 without one. `needed_from` is the first entry that a live follower still needs.
    """
    sealed = [segment for segment in segments if segment.is_sealed]
    kept_count = len(sealed)
    kept_bytes = sum(segment.size_bytes for segment in sealed)
    bound = snapshot_index
    if needed_from is not None and _is_affordable(segments, needed_from, policy):
        bound = min(bound, needed_from - 1)
    removable = 0
    for segment in sealed:
        if segment.last_index > bound or not (
            _exceeds(kept_count, policy.segments_max)
            or _exceeds(kept_bytes, policy.segment_bytes_max)
            or _exceeds(now_ms - segment.last_timestamp_ms, policy.segment_age_ms_max)
        ):
            break
        removable = segment.last_index
        kept_count -= 1
        kept_bytes -= segment.size_bytes
    return removable + 1


def kept_snapshots(created_at_ms: Sequence[int], *, policy: RetentionPolicy, now_ms: int) -> int:
    """Return how many of the newest snapshots are kept.

    `created_at_ms` are the times of all snapshots, oldest first; the last is the current one.
    """
    kept = 0
    for created in reversed(created_at_ms[-policy.snapshots_max :]):
        if kept > 0 and _exceeds(now_ms - created, policy.snapshot_age_ms_max):
            break
        kept += 1
    return kept


def _is_affordable(
    segments: Sequence[SegmentStat], needed_from: int, policy: RetentionPolicy
) -> bool:
    needed = [segment for segment in segments if segment.last_index >= needed_from]
    return sum(segment.size_bytes for segment in needed) <= policy.follower_bytes_max


def _exceeds(value: int, limit: int | None) -> bool:
    return limit is not None and value > limit
