"""A log and snapshots in memory, behind the ports of the core. Nothing here is ever lost."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING

from vaylix_replication.ports import HardState, SnapshotMeta

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vaylix_replication import Batch, Write

__all__ = ["MemoryLog", "MemorySnapshots"]


class MemoryLog:
    """The batches, the hard state, and how a `Write` changes them."""

    def __init__(self, base_index: int = 0, hard_state: HardState | None = None) -> None:
        self.base_index = base_index
        self.batches: list[Batch] = []
        self._lasts: list[int] = []
        self.hard_state = hard_state or HardState()

    @property
    def last_index(self) -> int:
        """Index of the newest entry, or of what the log begins behind."""
        return self._lasts[-1] if self._lasts else self.base_index

    def read(self, index: int, bytes_max: int) -> Sequence[Batch]:
        """Return batches from the one that holds `index` on; see `LogReader`."""
        assert self.base_index < index <= self.last_index, "read of what is not there"
        start = bisect_left(self._lasts, index)
        payload_bytes = len(self.batches[start].payload)
        end = start + 1
        while end < len(self.batches):
            payload_bytes += len(self.batches[end].payload)
            if payload_bytes > bytes_max:
                break
            end += 1
        return self.batches[start:end]

    def write(self, write: Write) -> None:
        """Do what the write says, in its order."""
        if write.install is not None:
            self.batches.clear()
            self._lasts.clear()
            self.base_index = write.install.index
        if write.truncate_after is not None:
            keep = bisect_right(self._lasts, write.truncate_after)
            del self.batches[keep:], self._lasts[keep:]
        for batch in write.batches:
            self.put(batch)
        self.hard_state = write.hard_state

    def put(self, batch: Batch) -> None:
        """Add one batch at the end."""
        assert batch.first_index == self.last_index + 1, "a gap in the log"
        self.batches.append(batch)
        self._lasts.append(batch.last_index)

    def drop_before(self, index: int) -> None:
        """Forget the batches up to `index`, which a snapshot holds."""
        drop = bisect_right(self._lasts, index)
        del self.batches[:drop], self._lasts[:drop]
        self.base_index = max(self.base_index, index)


class MemorySnapshots:
    """The newest snapshot, and the pieces of one that is being received."""

    def __init__(self) -> None:
        self.meta: SnapshotMeta | None = None
        self.data = b""
        self._received = bytearray()

    def latest(self) -> SnapshotMeta | None:
        """Return the newest snapshot."""
        return self.meta

    def read(self, meta: SnapshotMeta, offset_bytes: int, bytes_max: int) -> bytes | None:
        """Return a piece of it, None if it is not the newest any more."""
        if meta != self.meta:
            return None
        return self.data[offset_bytes : offset_bytes + bytes_max]

    def store(self, meta: SnapshotMeta, data: bytes) -> None:
        """Replace the newest snapshot."""
        assert meta.size_bytes == len(data)
        self.meta, self.data = meta, data

    def receive(self, offset_bytes: int, data: bytes) -> None:
        """Put a piece aside; one at offset 0 begins anew."""
        if offset_bytes == 0:
            self._received.clear()
        assert offset_bytes == len(self._received), "a piece that does not follow"
        self._received += data

    def received(self) -> bytes:
        """Return what was put aside."""
        return bytes(self._received)
