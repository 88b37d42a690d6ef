"""The log of `vaylix_storage` as the replication core wants to see it.

Neither package knows the other; both call the same seven fields a batch, compute its checksum in
the same way, and number the kinds alike. So nothing is encoded or checked here: a value of one
package becomes the value of the other, and the log still verifies every checksum it is given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import vaylix_replication
import vaylix_storage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vaylix_replication import Write
    from vaylix_storage import Log

__all__ = ["ReplicationLog"]


class ReplicationLog:
    """A `vaylix_replication.LogReader` over a log, which also carries out the core's writes.

    The log must run under `SyncPolicy.SYNC`: what `write` has returned from counts as durable.
    `install` makes a snapshot that was received and verified the current one, durably, so that from
    then on the log opens with it as its base (`Engine.commit_snapshot(..., installed=True)`). Like
    the log, this is for one thread at a time, and raises the errors of the log.
    """

    __slots__ = ("_install", "_log")

    def __init__(
        self, log: Log, *, install: Callable[[vaylix_replication.SnapshotMeta], None] | None = None
    ) -> None:
        self._log = log
        self._install = install

    @property
    def last_index(self) -> int:
        """Index of the newest entry; 0 when there is none."""
        return self._log.last_index

    @property
    def hard_state(self) -> vaylix_replication.HardState:
        """What the node must not have forgotten; goes into `Restored` at a start."""
        state = self._log.hard_state
        vote = state.vote.decode() if state.vote else None
        return vaylix_replication.HardState(term=state.term, vote=vote, commit=state.commit)

    def read(self, index: int, bytes_max: int) -> Sequence[vaylix_replication.Batch]:
        """Return the batch that holds `index`, and those after it while all fit `bytes_max`."""
        batches: list[vaylix_replication.Batch] = []
        payload_bytes = 0
        # The log stops behind the bound, the port before it; one batch more is read at most.
        for batch in self._log.read(index, bytes_max=bytes_max + 1):
            payload_bytes += len(batch.payload)
            if batches and payload_bytes > bytes_max:
                break
            batches.append(_to_replication(batch))
        return batches

    def write(self, write: Write) -> None:
        """Install, cut, append and remember, durably, in this order.

        A crash in between leaves a log that was cut but not continued, with the old hard state.
        That is safe: nothing was answered on the strength of this write yet, and what a later
        leader made this node cut can never be committed. Had a majority acknowledged it, one of
        them would have voted for that leader, and would not have without finding it there.

        A crash behind an install leaves the snapshot, and of the old log what agrees with it.
        """
        if write.install is not None:
            assert self._install is not None, "nobody receives snapshots here"
            self._install(write.install)
            # Also where the log holds the entry: what the core has dropped must not come back.
            self._log.reset(write.install.index, write.install.term)
        if write.truncate_after is not None:
            self._log.truncate_after(write.truncate_after)
        state = write.hard_state
        vote = b"" if state.vote is None else state.vote.encode()
        self._log.append(
            [_to_storage(batch) for batch in write.batches],
            vaylix_storage.HardState(term=state.term, vote=vote, commit=state.commit),
        )
        self._log.sync()
        assert self._log.durable_index == self._log.last_index, "a buffered log vouches for nothing"


def _to_replication(batch: vaylix_storage.Batch) -> vaylix_replication.Batch:
    return vaylix_replication.Batch(
        batch.first_index,
        batch.count,
        batch.term,
        batch.kind,
        batch.timestamp_ms,
        batch.payload,
        batch.checksum,
    )


def _to_storage(batch: vaylix_replication.Batch) -> vaylix_storage.Batch:
    return vaylix_storage.Batch(
        batch.first_index,
        batch.count,
        batch.term,
        batch.kind,
        batch.timestamp_ms,
        batch.payload,
        batch.checksum,
    )
