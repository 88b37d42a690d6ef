"""The interface of a storage backend: a log, snapshots of what it builds, and the state itself.

Life of the state: at the start, the newest snapshot that counts is loaded into the keyspace, then
the log behind it is applied. From then on every change is appended to the log and synced before it
is applied. Now and then a snapshot is taken, so that the log before it may go.

Errors are subclasses of StorageError; what they say goes to the operator as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from vaylix_storage._batch import Batch
    from vaylix_storage._keyspace import Keyspace
    from vaylix_storage._snapshot_format import SnapshotMeta

__all__ = ["LogPort", "SnapshotPort", "SnapshotSink", "SnapshotSource", "Storage"]


class LogPort(Protocol):
    """The durable sequence of batches.

    `append` and `sync` are called by one thread at a time, which need not be the one that opened
    the log: often the event loop appends, and another thread syncs. After either has failed for
    another reason than its arguments, every later call fails; what was not synced by then is in
    doubt.
    """

    @property
    def last_index(self) -> int:
        """Index of the newest entry, 0 when there never was one."""

    @property
    def first_index(self) -> int:
        """Index of the oldest entry that is kept, or that the next one will have."""

    @property
    def size_bytes(self) -> int:
        """How much room the log takes; it grows with every batch and shrinks by `prune`."""

    @property
    def segment_count(self) -> int:
        """The number of parts in which the log is kept, at least 1."""

    @property
    def appends_at_once(self) -> bool:
        """Whether the next `append` will not wait for a disk, so that an event loop may call it."""

    def append(self, batches: Sequence[Batch]) -> None:
        """Write batches, in order, as one unit; they count once `sync` has returned.

        Raises LogOrderError for batches that do not continue the log, EntryTooLargeError for those
        that are too large, CorruptionError for one that does not fit its checksum; then the log is
        as before. LogClosedError after the storage was closed.
        """

    def sync(self) -> None:
        """Make everything appended as durable as this storage promises."""

    def read(self, first_index: int) -> Iterator[Batch]:
        """Stream the batches from the one that holds `first_index` to the last of now.

        Holds little in memory. Raises LogOrderError when `first_index` is not in the log and not
        the one after its end. Not to be used across `SnapshotPort.prune`.
        """


class SnapshotSink(Protocol):
    """Takes one snapshot, piece by piece. One thread at a time, any thread."""

    def begin_section(self, name: str) -> None:
        """End the section before, if any, and begin another; names differ."""

    def add(self, plain: bytes, item_count: int) -> None:
        """Take a piece of the section, not empty, which holds `item_count` of its items."""

    def finish(self) -> object:
        """Put all of it on the disk. It counts once it is committed."""

    def abandon(self) -> None:
        """Forget an unfinished snapshot; allowed at any time, any number of times."""


class SnapshotSource(Protocol):
    """Reads one snapshot. One thread at a time."""

    @property
    def meta(self) -> SnapshotMeta:
        """What the snapshot holds."""

    def chunks(self) -> Iterator[tuple[str, bytes]]:
        """Return the pieces with the names of their sections, as they were added.

        Only when it has come to its end is it certain that this was all of it, undamaged.
        """

    def close(self) -> None:
        """Let go of it."""


class SnapshotPort(Protocol):
    """Where snapshots of the state are kept, so that the log need not be kept for ever.

    One is taken at a time, in the order create, finish, commit, archive, prune. `commit` and
    `prune` are called while nothing is appended to the log; all other methods while that may be so.
    """

    @property
    def current(self) -> SnapshotMeta | None:
        """The newest snapshot that counts."""

    def open_current(self) -> SnapshotSource | None:
        """Open the newest snapshot that counts; the log goes on behind it."""

    def create(self, meta: SnapshotMeta) -> SnapshotSink:
        """Begin a snapshot of the state after entry `meta.index`, which ends a batch.

        Raises LogOrderError when it is older than the current one, StorageBusyError when there is
        one of this index, also an unfinished one.
        """

    def commit(self, now_ms: int) -> None:
        """Let the snapshot that was finished last count, and decide what is not needed any more.

        Everything it builds on is on the disk when this returns. Raises LogOrderError when the log
        has not reached it or has another term there.
        """

    def archive(self) -> None:
        """Copy what `prune` will remove to where the operator wants it, if anywhere."""

    def prune(self) -> None:
        """Remove what no retention policy asks for, and only what has been archived.

        What the current snapshot does not hold stays in the log.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """An opened backend: the log, its snapshots, and the keyspace, empty at first, that both build.

    `node_id` is the same at every opening of the same place. `close` marks the end of the log as
    clean and lets go of the place; twice is allowed. `abandon` lets go of it as it is, after a
    failure, at any time.
    """

    log: LogPort
    snapshots: SnapshotPort
    keyspace: Keyspace
    node_id: str
    # None where nothing is encrypted.
    encryption_key_id: str | None
    close: Callable[[], None]
    abandon: Callable[[], None]
    # Lines for whoever starts the program, such as how recovery found the directory.
    notes: tuple[str, ...] = ()
