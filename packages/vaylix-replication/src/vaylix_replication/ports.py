"""What the core reads from its surroundings: a log and a snapshot. It never writes to either.

Everything that is to be written leaves the core inside a `Ready`. Calls are made from the thread
that drives the node, and only for what is durable.
"""

from collections.abc import Sequence
from typing import Annotated, Protocol

import msgspec

from vaylix_replication._batch import Batch, Number
from vaylix_replication._configuration import Configuration

__all__ = ["HardState", "LogReader", "SnapshotMeta", "SnapshotReader"]


class HardState(msgspec.Struct, frozen=True):
    """What a node must remember: its term, whom it voted for in it, and how far it has committed.

    Term and vote must be durable before any message that relies on them leaves. The commit index
    may lag on disk; the node learns it again.
    """

    term: int = 0
    vote: str | None = None
    commit: int = 0


class SnapshotMeta(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a snapshot stands for: the applied state at `index`, with the membership as of it.

    `checksum` and `time_ms` are those of the batch that ends at `index`. `snapshot_id` tells two
    files for the same index apart, such as a digest of the content: a transfer resumes only within
    one file.
    """

    index: Number = 0
    term: Number = 0
    checksum: Number = 0
    time_ms: Number = 0
    configuration: Configuration = Configuration()
    semantics_version: Number = 1
    snapshot_id: Annotated[bytes, msgspec.Meta(max_length=64)] = b""
    size_bytes: Number = 0


class LogReader(Protocol):
    """The durable log, as it stands on disk."""

    @property
    def last_index(self) -> int:
        """Index of the newest entry; that of the snapshot when the log is empty."""

    def read(self, index: int, bytes_max: int) -> Sequence[Batch]:
        """Return batches in order, from the one that holds `index` on.

        At least that one, and further ones as long as all payloads together stay within
        `bytes_max`. The caller asks only for what was neither compacted nor cut.
        """


class SnapshotReader(Protocol):
    """The snapshots that can be sent to peers."""

    def latest(self) -> SnapshotMeta | None:
        """Return the newest complete snapshot, None while there is none at all.

        Once the log is compacted, there is one at or behind the compaction point.
        """

    def read(self, meta: SnapshotMeta, offset_bytes: int, bytes_max: int) -> bytes | None:
        """Return a piece of the snapshot's file, or None when that snapshot is gone."""
