"""A restore in the log: begin, chunks, commit (architecture, "the state machine is deterministic").

A dump may be larger than an entry of the log can be. So the new keyspace is built beside the live
one, chunk by chunk, unseen by everybody, and takes its place with one command that fails or costs
nothing. Reads and writes go on meanwhile; what was written is gone after the commit.

The time of the begin decides which entries are dead, for all chunks alike: so the count is that of
one moment, and the last of several entries with one key wins among those that were alive then.

Nothing stays behind for ever. A restore ends with its commit, is dropped by the begin of another
one, and is given up by the first batch or expiry step whose time is five minutes behind its last
command: whoever sent it is gone, or a new leader does not know about it. Times of batches never go
back, so all nodes give it up before the same command. CLEAR does not touch it: the restore still
replaces whatever is there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vaylix_storage._entry import Entry
from vaylix_storage._results import Answer, CommandFailure, FailureCode
from vaylix_storage._table import Table

if TYPE_CHECKING:
    from vaylix_storage import commands as c
    from vaylix_storage._results import SimpleResult

__all__ = ["RESTORE_IDLE_MS_MAX", "Restore"]

# After that long without a command of its own, a restore is given up.
RESTORE_IDLE_MS_MAX: Final = 5 * 60 * 1000


class Restore:
    """A keyspace under construction: what its chunks have brought so far."""

    __slots__ = (
        "_begun_at_ms",
        "_gives_up_at_ms",
        "chunk_count",
        "entry_count",
        "restore_id",
        "table",
    )

    def __init__(self, restore_id: bytes, now_ms: int) -> None:
        self.restore_id = restore_id
        self.table = Table()
        self.chunk_count = 0
        # Every entry that was alive, also those that a later one with the same key replaced.
        self.entry_count = 0
        self._begun_at_ms = now_ms
        self._gives_up_at_ms = now_ms + RESTORE_IDLE_MS_MAX

    def is_given_up(self, now_ms: int) -> bool:
        """Tell whether nobody goes on with it any more."""
        return now_ms >= self._gives_up_at_ms

    def add(self, chunk: c.RestoreChunk, now_ms: int) -> SimpleResult:
        """Take the entries of a chunk, unless it belongs to another restore."""
        if chunk.restore_id != self.restore_id:
            return CommandFailure(FailureCode.NO_SUCH_RESTORE)
        self._gives_up_at_ms = now_ms + RESTORE_IDLE_MS_MAX
        self.chunk_count += 1
        for key, value, version, expires_at_ms in chunk.entries:
            if not 0 < expires_at_ms <= self._begun_at_ms:
                self.table.put(key, Entry(value, version or 1, expires_at_ms))
                self.entry_count += 1
        return Answer.OK
