"""What a node wants done: the value that `RaftNode.ready` returns."""

import msgspec

from vaylix_replication._batch import Batch
from vaylix_replication.messages import Message
from vaylix_replication.ports import HardState, SnapshotMeta

__all__ = ["ReadState", "Ready", "SnapshotChunk", "Write"]

# Where a message goes, and the message.
Outgoing = tuple[str, Message]


class Write(msgspec.Struct, frozen=True, kw_only=True):
    """One durable step of the disk: install, cut, append, remember; in this order, as one unit.

    `index` and `term` are the end of the log afterwards. When all of it is durable, they go to
    `RaftNode.persisted`, once for each write and in the order of the writes.
    """

    index: int
    term: int
    hard_state: HardState
    # Replace log and state by this snapshot, which was received and verified before.
    install: SnapshotMeta | None = None
    # Cut everything behind this index.
    truncate_after: int | None = None
    batches: tuple[Batch, ...] = ()


class SnapshotChunk(msgspec.Struct, frozen=True):
    """A piece of a snapshot to put aside. At offset 0 a new file begins; an older one is void.

    When the last piece is there, the driver verifies the whole and reports
    `RaftNode.snapshot_received`.
    """

    meta: SnapshotMeta
    offset_bytes: int
    data: bytes

    @property
    def is_last(self) -> bool:
        """Whether this piece completes the file."""
        return self.offset_bytes + len(self.data) == self.meta.size_bytes


class ReadState(msgspec.Struct, frozen=True):
    """The read `context` may now be answered from the applied state.

    `time_ms` is the leader's time that a majority has heard; it decides what has expired. If the
    newest applied batch has a later stamp, that one does.
    """

    context: int
    index: int
    time_ms: int


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """What to do, in the order of docs/replication.md, "The driver's duties"."""

    write: Write | None
    # May leave at once.
    messages: list[Outgoing]
    # Leave when this write and every earlier one are durable.
    messages_after_write: list[Outgoing]
    # To be applied, in order; the end goes to `RaftNode.applied`.
    committed: tuple[Batch, ...]
    reads: list[ReadState]
    # Reads that will not be answered: leadership was lost, or the leader refused.
    reads_dropped: list[int]
    snapshot_chunks: list[SnapshotChunk]
