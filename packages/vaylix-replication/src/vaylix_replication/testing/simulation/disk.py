"""A disk: writes become durable in order, later; a crash forgets those that are not.

Of the writes on their way any number may have reached the disk in a crash, but never a later one
without an earlier one. What a write appends and remembers is one unit, as the frame of a log is: it
is there or not, and when it is torn it is not. A cut is a step of its own before that.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING

import msgspec

from vaylix_replication import Restored, SnapshotMeta, Write
from vaylix_replication.testing.memory import MemoryLog, MemorySnapshots
from vaylix_replication.testing.simulation.happenings import Happening

if TYPE_CHECKING:
    from vaylix_replication import Batch, Configuration, Message

__all__ = ["Disk", "Entry", "PendingWrite", "Waiting"]

# The index and the term of an entry: where and what it is.
Entry = tuple[int, int]
# A message that waits for the disk: its recipient, itself, and the entry that it vouches for.
Waiting = tuple[str, "Message", Entry | None]


class PendingWrite(msgspec.Struct, eq=False):
    """A write on its way, the file it installs, and the messages that wait for it."""

    write: Write
    data: bytes
    messages: list[Waiting]


class Disk:
    """What of a node survives its process."""

    def __init__(self, configuration: Configuration, happenings: Counter[Happening]) -> None:
        self._happenings = happenings
        self.log = MemoryLog()
        self.snapshots = MemorySnapshots()
        self.first_snapshot = SnapshotMeta(configuration=configuration)
        self.pending: deque[PendingWrite] = deque()

    def complete_oldest(self) -> PendingWrite:
        """Make the oldest write durable."""
        pending = self.pending.popleft()
        install = pending.write.install
        if install is not None:
            self.snapshots.store(install, pending.data)
        self.log.write(pending.write)
        return pending

    def crash(self, survivors: int, *, torn: bool) -> None:
        """Let the first `survivors` writes reach the disk, and forget all others.

        Of the next one, the cut still arrives if it is `torn`.
        """
        for _ in range(min(survivors, len(self.pending))):
            self.complete_oldest()
        if torn and self.pending and self._cut_only(self.pending[0].write):
            self._happenings[Happening.TORN_CUT] += 1
        self.pending.clear()

    def writes_before_cut(self) -> int:
        """Return how many writes on their way come before the first that cuts the log."""
        cuts = (n for n, p in enumerate(self.pending) if p.write.truncate_after is not None)
        return next(cuts, len(self.pending))

    def lose_pending(self) -> None:
        """Forget the writes on their way, as a kernel does that marks pages clean.

        The sync has failed, and a second one would succeed and prove nothing.
        """
        self.pending.clear()

    def _cut_only(self, write: Write) -> bool:
        cut = write.truncate_after
        if cut is None or write.install is not None:
            return False
        state = self.log.hard_state
        self.log.write(Write(index=cut, term=state.term, hard_state=state, truncate_after=cut))
        return True

    def restore(self) -> Restored:
        """Return what a new process finds, besides the log."""
        snapshot = self.snapshots.latest() or self.first_snapshot
        return Restored(hard_state=self.log.hard_state, snapshot=snapshot)

    def save_snapshot(self, meta: SnapshotMeta, data: bytes) -> None:
        """Store a snapshot and drop the log before it."""
        self.snapshots.store(meta, data)
        self.log.drop_before(meta.index)

    def holds(self, index: int, term: int) -> bool:
        """Tell whether the entry of this term is durable, in the log or in the snapshot."""
        snapshot = self.snapshots.latest() or self.first_snapshot
        if index <= snapshot.index:
            return index < snapshot.index or term == snapshot.term
        return index <= self.log.last_index and self.log.read(index, 0)[0].term == term

    def will_cut(self, index: int) -> bool:
        """Tell whether a write on its way takes an entry out of the log."""
        for pending in self.pending:
            install, cut = pending.write.install, pending.write.truncate_after
            if (install and install.index < index) or (cut is not None and cut < index):
                return True
        return False

    @property
    def batches(self) -> list[Batch]:
        """The durable batches."""
        return self.log.batches
