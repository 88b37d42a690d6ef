"""A backend that keeps everything in memory and nothing beyond: for tests, and for caches."""

from __future__ import annotations

import uuid
from bisect import bisect_left
from typing import TYPE_CHECKING

from vaylix_storage._append_rules import check_append
from vaylix_storage._catalog import TermRuns
from vaylix_storage._keyspace import Keyspace
from vaylix_storage.backend._interface import Storage
from vaylix_storage.errors import LogClosedError, LogOrderError, StorageBusyError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vaylix_storage._batch import Batch
    from vaylix_storage._snapshot_format import SnapshotMeta

__all__ = ["memory_storage"]


def memory_storage() -> Storage:
    """Return an empty storage. It ends with the process, and each one is a node of its own."""
    log = _Log()
    return Storage(
        log=log,
        snapshots=_Snapshots(log),
        keyspace=Keyspace(),
        node_id=uuid.uuid4().hex,
        encryption_key_id=None,
        close=log.close,
        abandon=log.close,
        notes=("all data are in memory only: they end with this process",),
    )


class _Log:
    """The batches behind the last snapshot, and some before it until they are pruned."""

    def __init__(self) -> None:
        self._batches: list[Batch] = []
        self._terms = TermRuns()
        self._is_closed = False
        self.first_index = 1
        self.last_index = 0
        self.size_bytes = 0
        self.segment_count = 1
        self.appends_at_once = True

    def append(self, batches: Sequence[Batch]) -> None:
        self._check_open()
        check_append(batches, self.last_index, self._terms.last_term)
        for batch in batches:
            self._batches.append(batch)
            self._terms.note(batch.first_index, batch.term)
            self.last_index = batch.last_index
            self.size_bytes += len(batch.payload)

    def sync(self) -> None:
        self._check_open()

    def read(self, first_index: int) -> Iterator[Batch]:
        if not self.first_index <= first_index <= self.last_index + 1:
            raise LogOrderError(f"entry {first_index} is not in the log")
        # What is appended later is not a part of it.
        return iter(self._batches[self._place(first_index) :])

    def check_reached(self, meta: SnapshotMeta) -> None:
        """Check that this log has the entry that a snapshot ends with."""
        self._check_open()
        if meta.index > self.last_index:
            raise LogOrderError(f"the log has not reached entry {meta.index}")
        is_held = self.first_index <= meta.index
        if is_held and self._terms.term_of(meta.index) != meta.term:
            raise LogOrderError(f"entry {meta.index} of the log is not of term {meta.term}")

    def remove_through(self, index: int) -> None:
        """Remove the batches up to `index`, which ends one of them."""
        self._check_open()
        place = self._place(index + 1)
        if place:
            self.size_bytes -= sum(len(batch.payload) for batch in self._batches[:place])
            del self._batches[:place]
            self._terms.forget_before(index)
            self.first_index = index + 1

    def close(self) -> None:
        self._is_closed = True

    def _place(self, index: int) -> int:
        """Return the position of the batch that holds `index`."""
        return bisect_left(self._batches, index, key=lambda batch: batch.last_index)

    def _check_open(self) -> None:
        if self._is_closed:
            raise LogClosedError("the log has been closed")


class _Snapshot:
    """One snapshot: sink while it is being written, then source."""

    def __init__(self, meta: SnapshotMeta) -> None:
        self.meta = meta
        self.is_finished = False
        self.is_abandoned = False
        self._section: str | None = None
        self._names: set[str] = set()
        self._chunks: list[tuple[str, bytes]] = []

    def begin_section(self, name: str) -> None:
        self._check_unfinished()
        if name in self._names:
            raise ValueError(f"there cannot be another section '{name}'")
        self._section = name
        self._names.add(name)

    def add(self, plain: bytes, item_count: int) -> None:
        del item_count
        self._check_unfinished()
        if self._section is None:
            raise ValueError("a chunk belongs to a section")
        self._chunks.append((self._section, plain))

    def finish(self) -> None:
        self._check_unfinished()
        self.is_finished = True

    def abandon(self) -> None:
        self.is_abandoned = not self.is_finished

    def chunks(self) -> Iterator[tuple[str, bytes]]:
        return iter(self._chunks)

    def close(self) -> None:
        """Nothing is held but memory."""

    def _check_unfinished(self) -> None:
        if self.is_finished or self.is_abandoned:
            raise ValueError("this snapshot has been finished or abandoned")


class _Snapshots:
    """The current snapshot, and the one that is being written."""

    def __init__(self, log: _Log) -> None:
        self._log = log
        self._current: _Snapshot | None = None
        self._newest: _Snapshot | None = None

    @property
    def current(self) -> SnapshotMeta | None:
        return None if self._current is None else self._current.meta

    def open_current(self) -> _Snapshot | None:
        return self._current

    def create(self, meta: SnapshotMeta) -> _Snapshot:
        if self._current is not None and meta.index < self._current.meta.index:
            raise LogOrderError(
                f"a snapshot of entry {meta.index} is older than that of {self._current.meta.index}"
            )
        newest = self._newest
        if newest is not None and newest.meta.index == meta.index and not newest.is_abandoned:
            raise StorageBusyError(f"there is a snapshot of entry {meta.index} already")
        self._newest = _Snapshot(meta)
        return self._newest

    def commit(self, now_ms: int) -> None:
        del now_ms
        assert self._newest is not None, "no snapshot was begun"
        assert self._newest.is_finished, "the snapshot has not been finished"
        self._log.check_reached(self._newest.meta)
        self._current = self._newest

    def archive(self) -> None:
        """There is nowhere to."""

    def prune(self) -> None:
        if self._current is not None:
            self._log.remove_through(self._current.meta.index)
