"""How a log is run, and what its start has to say."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Final

import msgspec

from vaylix_storage._recovery import LogBase, RecoveredLog, RecoveryOutcome

__all__ = ["LogBase", "LogOptions", "RecoveryReport", "SyncPolicy", "report_of"]

SEGMENT_BYTES_MAX_DEFAULT: Final = 64 * 1024 * 1024


class SyncPolicy(Enum):
    """What `Log.sync` does. A changed term or vote is put on the disk under every policy.

    BUFFERED and FLUSH are the same: written frames are with the operating system, so they survive
    the end of the process but not a power cut. The two names are those of the published server.
    SYNC puts them on the disk.
    """

    BUFFERED = "buffered"
    FLUSH = "flush"
    SYNC = "sync"


class LogOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to run a log. A segment is ended once it has `segment_bytes_max`; 0 means never.

    `must_exist` says that the log has been begun before, so that finding none is corruption and
    not a fresh start. `base` is the current snapshot: the log has to continue it, and need not
    reach further back.
    """

    timeline: bytes
    must_exist: bool = False
    sync_policy: SyncPolicy = SyncPolicy.SYNC
    segment_bytes_max: int = SEGMENT_BYTES_MAX_DEFAULT
    base: LogBase | None = None


class RecoveryReport(msgspec.Struct, frozen=True, kw_only=True):
    """What `Log.open` found and did.

    `left_out_bytes` at `left_out_offset` of `left_out_path` were never wholly written (TORN_TAIL).
    `recopied_frames` were whole but not known to be synced, and
    have been written again. `was_reset` says that an installed snapshot has replaced all entries.
    `key_id` is the storage key that new segments use.
    """

    outcome: RecoveryOutcome
    segment_count: int
    batch_count: int
    entry_count: int
    recopied_frames: int
    key_id: bytes
    was_reset: bool = False
    left_out_bytes: int = 0
    left_out_path: Path | None = None
    left_out_offset: int | None = None


def report_of(recovered: RecoveredLog, key_id: bytes) -> RecoveryReport:
    """Say what was found, before anything is changed."""
    report = RecoveryReport(
        outcome=recovered.outcome,
        segment_count=len(recovered.segments),
        batch_count=recovered.batch_count,
        entry_count=recovered.entry_count,
        recopied_frames=0,
        key_id=key_id,
        was_reset=recovered.is_reset,
    )
    newest, end = recovered.newest, recovered.whole_end
    if recovered.outcome is not RecoveryOutcome.TORN_TAIL or newest is None or end is None:
        return report
    return msgspec.structs.replace(
        report,
        left_out_bytes=recovered.left_out_bytes,
        left_out_path=newest.path,
        left_out_offset=end.offset,
    )
