"""The node's view of its log: what is on disk, what is on its way there, what holds where.

Positions, from left to right:

    base ----- evicted ----- durable ----- handed ----- last
         on disk only | in memory, and on disk up to `durable_index`

`base` is the snapshot the log stands on. What is not durable is always in memory; durable batches
stay in memory up to a bound, because followers and the state machine want the newest ones.
Terms of all entries are in memory as runs, so that comparing logs never touches the disk.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING

from vaylix_replication._batch import Batch, BatchKind, batch_cost_bytes
from vaylix_replication.errors import CorruptionError

if TYPE_CHECKING:
    from vaylix_replication.ports import LogReader, SnapshotMeta

__all__ = ["RaftLog"]

_START_READ_BYTES = 1024 * 1024


class RaftLog:
    """Batches behind a snapshot.

    Always: `base_index <= handed_index <= last_index` and `durable_index <= handed_index`; batches
    are contiguous and their terms never fall; all positions are ends of batches. `durable_index`
    is 0 from `restore` until the snapshot is on disk, otherwise at least the base.
    """

    __slots__ = (
        "_lasts",
        "_reader",
        "_run_starts",
        "_run_terms",
        "_window",
        "_window_bytes_max",
        "base_checksum",
        "base_index",
        "base_term",
        "base_time_ms",
        "durable_index",
        "handed_index",
        "last_checksum",
        "last_index",
        "last_term",
        "pending_cut",
        "window_bytes",
    )

    def __init__(self, reader: LogReader, snapshot: SnapshotMeta, window_bytes_max: int) -> None:
        self._reader = reader
        self._window_bytes_max = window_bytes_max
        self._reset(snapshot)
        # The cut that the next write to disk has to make first, None when there is none.
        self.pending_cut: int | None = None

    def _reset(self, snapshot: SnapshotMeta) -> None:
        self.base_index = self.last_index = snapshot.index
        self.base_term = self.last_term = snapshot.term
        self.base_checksum = self.last_checksum = snapshot.checksum
        self.base_time_ms = snapshot.time_ms
        self.handed_index = self.durable_index = snapshot.index
        # Batches in memory with the index of the last entry of each, and the cost of all of them.
        self._window: list[Batch] = []
        self._lasts: list[int] = []
        self.window_bytes = 0
        # Entries from _run_starts[i] on have the term _run_terms[i], up to the next run.
        self._run_starts = [snapshot.index]
        self._run_terms = [snapshot.term]

    # -- Reading ------------------------------------------------------------------------------

    def load(self) -> list[Batch]:
        """Take over what is on disk at start; return the batches whose kind concerns the core."""
        special: list[Batch] = []
        while self.last_index < self._reader.last_index:
            for batch in self._reader.read(self.last_index + 1, _START_READ_BYTES):
                self.append(batch)
                if batch.kind in (BatchKind.CONFIGURATION, BatchKind.SEMANTICS):
                    special.append(batch)
            self.handed_index = self.durable_index = self.last_index
            self.evict()
        return special

    def term_at(self, index: int) -> int | None:
        """Return the term of an entry or of the base, None for what is not in the log."""
        if index == self.last_index:
            return self.last_term
        if not self.base_index <= index < self.last_index:
            return None
        return self._run_terms[bisect_right(self._run_starts, index) - 1]

    def checksum_at(self, index: int) -> int | None:
        """Return the checksum of the batch that ends at `index`, None when none ends there."""
        if index == self.last_index:
            return self.last_checksum
        if index == self.base_index:
            return self.base_checksum
        batch = self.find(index)
        return batch.checksum if batch.last_index == index else None

    def time_ms_at(self, index: int) -> int:
        """Return the time of the batch that holds an entry, or of the base."""
        return self.base_time_ms if index == self.base_index else self.find(index).timestamp_ms

    def find(self, index: int) -> Batch:
        """Return the batch that holds an entry of the log."""
        assert self.base_index < index <= self.last_index
        position = bisect_left(self._lasts, index)
        if self._window and index >= self._window[0].first_index:
            return self._window[position]
        return self._reader.read(index, 0)[0]

    def boundary_at_or_before(self, index: int) -> int:
        """Return the largest end of a batch, or the base, that is not behind `index`."""
        if index >= self.last_index:
            return self.last_index
        if index <= self.base_index:
            return self.base_index
        batch = self.find(index)
        return index if batch.last_index == index else batch.first_index - 1

    def last_index_with_term_at_most(self, term: int, index: int) -> int:
        """Return the largest place not behind `index` whose term is `term` or less.

        Everything above it cannot match a log that has `term` at `index`, so a whole run of
        mismatches is skipped in one step (dissertation 3.3, end). May be below the base.
        """
        index = min(index, self.last_index)
        run = bisect_right(self._run_starts, index) - 1
        while run >= 0 and self._run_terms[run] > term:
            index = self._run_starts[run] - 1
            run -= 1
        return max(index, 0)

    def read(self, index: int, bytes_max: int) -> tuple[Batch, ...]:
        """Return at least one batch from the one that starts at `index` on, within the bound."""
        assert self.base_index < index <= self.last_index
        if not self._window or index < self._window[0].first_index:
            batches = tuple(self._reader.read(index, bytes_max))
            assert batches
            assert batches[0].first_index == index
            return batches
        start = bisect_left(self._lasts, index)
        assert self._window[start].first_index == index
        end, cost = start, 0
        for end in range(start, len(self._window)):
            cost += batch_cost_bytes(self._window[end])
            if cost > bytes_max and end > start:
                return tuple(self._window[start:end])
        return tuple(self._window[start : end + 1])

    def unhanded(self) -> tuple[Batch, ...]:
        """Return what no write has been asked for yet, and note that it is now."""
        start = bisect_right(self._lasts, self.handed_index)
        self.handed_index = self.last_index
        return tuple(self._window[start:])

    # -- Changing -----------------------------------------------------------------------------

    def append(self, batch: Batch) -> None:
        """Add one batch at the end."""
        assert batch.first_index == self.last_index + 1
        assert batch.term >= self.last_term
        if batch.term != self.last_term:
            self._run_starts.append(batch.first_index)
            self._run_terms.append(batch.term)
            self.last_term = batch.term
        self.last_index = batch.last_index
        self.last_checksum = batch.checksum
        self._window.append(batch)
        self._lasts.append(batch.last_index)
        self.window_bytes += batch_cost_bytes(batch)

    def truncate_after(self, index: int) -> None:
        """Cut everything behind `index`, the end of a batch. Only followers ever do this."""
        assert self.base_index <= index < self.last_index
        checksum, term = self.checksum_at(index), self.term_at(index)
        assert checksum is not None
        assert term is not None
        keep = bisect_right(self._lasts, index)
        self.window_bytes -= sum(batch_cost_bytes(batch) for batch in self._window[keep:])
        del self._window[keep:], self._lasts[keep:]
        runs = bisect_right(self._run_starts, index)
        del self._run_starts[runs:], self._run_terms[runs:]
        self.last_index, self.last_term, self.last_checksum = index, term, checksum
        if index < self.handed_index:
            cut = self.pending_cut
            self.pending_cut = index if cut is None else min(cut, index)
            self.handed_index = index
        self.durable_index = min(self.durable_index, index)

    def compact(self, index: int) -> None:
        """Make `index`, the durable end of a batch, the new base: a snapshot holds what is before.

        The driver calls this before it removes anything from the disk, so `find` still works.
        """
        if index <= self.base_index:
            return
        if index > self.durable_index:
            raise CorruptionError(f"compacted at {index}, behind the durable log")
        checksum, term = self.checksum_at(index), self.term_at(index)
        assert checksum is not None
        assert term is not None
        self.base_time_ms = self.time_ms_at(index)
        drop = bisect_right(self._lasts, index)
        self._forget(drop)
        run = bisect_right(self._run_starts, index) - 1
        del self._run_starts[:run], self._run_terms[:run]
        self._run_starts[0] = index
        self.base_index, self.base_term, self.base_checksum = index, term, checksum

    def restore(self, snapshot: SnapshotMeta) -> None:
        """Replace the whole log by a snapshot; nothing of it is on disk yet."""
        self._reset(snapshot)
        self.durable_index = 0
        self.pending_cut = None

    def evict(self) -> None:
        """Drop the oldest batches from memory while they weigh more than the bound.

        Only what is durable is dropped, whether it is applied or not: a node that may not apply
        what it receives must not gather it. A quarter more than the bound may gather before it is
        done, so that a long window is not moved for every batch.
        """
        if self.window_bytes <= self._window_bytes_max + self._window_bytes_max // 4:
            return
        drop, weight = 0, self.window_bytes
        while weight > self._window_bytes_max and self._lasts[drop] <= self.durable_index:
            weight -= batch_cost_bytes(self._window[drop])
            drop += 1
        self._forget(drop)

    def _forget(self, count: int) -> None:
        self.window_bytes -= sum(batch_cost_bytes(batch) for batch in self._window[:count])
        del self._window[:count], self._lasts[:count]
