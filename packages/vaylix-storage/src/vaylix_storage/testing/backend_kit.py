"""The rules that every storage backend keeps, for those who write one of their own.

    @pytest.mark.parametrize("check", BACKEND_CHECKS)
    def test_my_backend(check: Callable[[BackendUnderTest], None], tmp_path: Path) -> None:
        check(BackendUnderTest(open=lambda: my_storage(tmp_path), is_durable=True))

Each check wants a place that nothing was written to, and raises AssertionError with the rule that
is broken.
"""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from vaylix_storage._batch import ENTRY_BYTES_MAX, Batch
from vaylix_storage._snapshot_format import SnapshotMeta
from vaylix_storage.errors import (
    CorruptionError,
    EntryTooLargeError,
    LogClosedError,
    LogOrderError,
    StorageBusyError,
    StorageError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vaylix_storage.backend import SnapshotSink, Storage

__all__ = ["BACKEND_CHECKS", "BackendUnderTest"]

_NOW_MS: Final = 1_700_000_000_000
_SECTION: Final = "state"
_RANDOM_STEPS: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendUnderTest:
    """A backend and its promise. `open` opens the same place at every call, once at a time."""

    open: Callable[[], Storage]
    # Whether what was synced is there after `close` and after `abandon`.
    is_durable: bool


def make_batch(first_index: int, count: int = 1, term: int = 1, payload: bytes = b"p") -> Batch:
    """Return a batch that can be told from others by its payload."""
    return Batch.create(
        first_index=first_index,
        count=count,
        term=term,
        kind=1,
        timestamp_ms=_NOW_MS + first_index,
        payload=b"%d:" % first_index + payload,
    )


def check_begins_empty(backend: BackendUnderTest) -> None:
    """Find no entries, no snapshot and no keys in a new place."""
    storage = backend.open()
    assert (storage.log.first_index, storage.log.last_index) == (1, 0)
    assert list(storage.log.read(1)) == []
    assert storage.log.segment_count >= 1, "a log has one segment at least"
    assert storage.snapshots.current is None, "a new place has a snapshot"
    assert storage.snapshots.open_current() is None
    assert storage.keyspace.key_count(_NOW_MS) == 0
    assert storage.node_id, "a node has an id"
    storage.close()


def check_reads_what_was_appended(backend: BackendUnderTest) -> None:
    """Read batches as they were, from every index on, and only those of before the call."""
    storage = backend.open()
    batches = [make_batch(1), make_batch(2, count=3), make_batch(5, term=2), make_batch(6, term=2)]
    size_bytes = storage.log.size_bytes
    storage.log.append(batches[:1])
    storage.log.append(batches[1:3])
    storage.log.sync()
    old = storage.log.read(1)
    storage.log.append(batches[3:])
    storage.log.sync()
    assert storage.log.last_index == 6
    assert storage.log.size_bytes > size_bytes, "the log does not say that it has grown"
    assert list(old) == batches[:3], "what was appended later is not a part of a reading"
    for index in range(1, 8):
        found = list(storage.log.read(index))
        assert found == [batch for batch in batches if batch.last_index >= index], f"from {index}"
    storage.log.append(())
    assert storage.log.last_index == 6, "nothing was appended"
    storage.close()


def check_may_be_synced_by_another_thread(backend: BackendUnderTest) -> None:
    """Append on this thread where that waits for nothing, and sync on another, as the server does.

    Whoever appends at once never makes the event loop wait; whoever does not is left to a thread.
    """
    storage = backend.open()
    batches = [make_batch(index) for index in range(1, 6)]
    with ThreadPoolExecutor(1) as thread:
        for batch in batches:
            at_once = storage.log.appends_at_once
            assert at_once in (True, False), "a log says whether it appends at once"
            if at_once:
                storage.log.append((batch,))
            else:
                thread.submit(storage.log.append, (batch,)).result()
            thread.submit(storage.log.sync).result()
        assert list(storage.log.read(1)) == batches
    storage.close()


def check_refuses_what_does_not_continue(backend: BackendUnderTest) -> None:
    """See a gap, a repetition, a falling term, a wrong checksum or size refused without a loss.

    The batches that come with such a one are refused as well.
    """
    storage = backend.open()
    good = make_batch(1, term=3)
    storage.log.append((good,))
    torn = make_batch(2, term=3)
    torn = Batch(**{**{name: getattr(torn, name) for name in torn.__struct_fields__}, "kind": 2})
    huge = make_batch(2, term=3, payload=bytes(ENTRY_BYTES_MAX))
    wrong: tuple[tuple[type[StorageError], Batch], ...] = (
        (LogOrderError, make_batch(3, term=3)),
        (LogOrderError, make_batch(1, term=3)),
        (LogOrderError, make_batch(2, term=2)),
        (CorruptionError, torn),
        (EntryTooLargeError, huge),
    )
    for kind, batch in wrong:
        with _refused(kind):
            storage.log.append((batch,))
    with _refused(LogOrderError):
        storage.log.append((make_batch(2, term=3), make_batch(4, term=3)))
    for index in (0, 3):
        with _refused(LogOrderError):
            list(storage.log.read(index))
    storage.log.append((make_batch(2, term=3),))
    storage.log.sync()
    assert list(storage.log.read(1)) == [good, make_batch(2, term=3)]
    storage.close()


def check_snapshot_counts_when_committed(backend: BackendUnderTest) -> None:
    """Get sections and pieces back in order, and the old snapshot until the commit."""
    storage = backend.open()
    batches = [make_batch(index) for index in range(1, 7)]
    storage.log.append(batches[:2])
    storage.log.sync()
    for end, pieces in ((2, [b"a", b"b" * 70_000]), (5, [b"c"])):
        before = storage.snapshots.current
        sink = storage.snapshots.create(_meta(batches[end - 1]))
        sink.begin_section("first")
        sink.add(pieces[0], 1)
        # Entries that come meanwhile are not a part of it.
        storage.log.append(batches[storage.log.last_index : end + 1])
        storage.log.sync()
        sink.begin_section("second")
        for piece in pieces:
            sink.add(piece, 1)
        assert storage.snapshots.current == before, "counts before it is finished"
        sink.finish()
        assert storage.snapshots.current == before, "counts before it is committed"
        storage.snapshots.commit(_NOW_MS)
        assert storage.snapshots.current == _meta(batches[end - 1])
        expected = [("first", pieces[0]), *(("second", piece) for piece in pieces)]
        assert _pieces(storage) == expected
        storage.snapshots.archive()
        storage.snapshots.prune()
        assert storage.log.first_index <= end + 1, "what the snapshot does not hold is gone"
        assert list(storage.log.read(end + 1)) == batches[end : storage.log.last_index]
    storage.close()


def check_refuses_wrong_snapshots(backend: BackendUnderTest) -> None:
    """See one refused that is older, ahead of the log, of another term, or there already."""
    storage = backend.open()
    batches = [make_batch(1), make_batch(2), make_batch(3, term=2)]
    storage.log.append(batches)
    storage.log.sync()
    snapshots = storage.snapshots
    _take(storage, _meta(batches[1]), b"two")
    with _refused(LogOrderError):
        snapshots.create(_meta(batches[0]))
    with _refused(StorageBusyError):
        snapshots.create(_meta(batches[1]))
    for wrong in (SnapshotMeta(4, 2, _NOW_MS, _NOW_MS), SnapshotMeta(3, 1, _NOW_MS, _NOW_MS)):
        sink = _begin(storage, wrong, b"wrong")
        sink.finish()
        with _refused(LogOrderError):
            snapshots.commit(_NOW_MS)
        assert snapshots.current == _meta(batches[1]), "counts although it was refused"
    assert _pieces(storage) == [(_SECTION, b"two")]
    storage.log.append((make_batch(4, term=2), make_batch(5, term=2)))
    storage.log.sync()
    _take(storage, _meta(make_batch(5, term=2)), b"five")
    assert _pieces(storage) == [(_SECTION, b"five")]
    storage.close()


def check_abandoned_snapshot_leaves_nothing(backend: BackendUnderTest) -> None:
    """Give up a snapshot and begin the same again."""
    storage = backend.open()
    storage.log.append((make_batch(1),))
    storage.log.sync()
    meta = _meta(make_batch(1))
    sink = _begin(storage, meta, b"half")
    with _refused(StorageBusyError):
        storage.snapshots.create(meta)
    sink.abandon()
    sink.abandon()
    assert storage.snapshots.current is None
    _take(storage, meta, b"whole")
    assert _pieces(storage) == [(_SECTION, b"whole")]
    storage.close()


def check_nothing_is_written_after_close(backend: BackendUnderTest) -> None:
    """Close twice; writing to what is closed is an error, not a loss."""
    storage = backend.open()
    storage.log.append((make_batch(1),))
    storage.log.sync()
    storage.close()
    with _refused(LogClosedError):
        storage.log.append((make_batch(2),))
    with _refused(LogClosedError):
        storage.log.sync()
    storage.close()
    storage.abandon()


def check_keeps_what_it_promises(backend: BackendUnderTest) -> None:
    """Find everything after a close and after a kill, or nothing if nothing was promised."""
    model = _Model()
    node_ids = set()
    for ending in ("close", "abandon", "close"):
        storage = backend.open()
        model.reopen(is_durable=backend.is_durable)
        node_ids.add(storage.node_id)
        model.compare(storage)
        model.append(storage, count=3)
        model.snapshot(storage)
        model.append(storage, count=2)
        storage.close() if ending == "close" else storage.abandon()
    if backend.is_durable:
        assert len(node_ids) == 1, "a node changes its name"


def check_random_histories(backend: BackendUnderTest) -> None:
    """Append, take snapshots, prune and restart in any order; compare with a model."""
    chance = random.Random(20_261_124)  # noqa: S311 - it shall be the same in every run.
    model = _Model()
    storage = backend.open()
    for _ in range(_RANDOM_STEPS):
        step = chance.randrange(10)
        if step < 6:
            model.append(storage, count=chance.randint(1, 4), size=chance.choice((1, 100, 5000)))
        elif step < 8 and model.can_snapshot:
            model.snapshot(storage)
        else:
            storage.close() if step == 8 else storage.abandon()
            storage = backend.open()
            model.reopen(is_durable=backend.is_durable)
        model.compare(storage)
    storage.close()


BACKEND_CHECKS: Final = (
    check_begins_empty,
    check_reads_what_was_appended,
    check_may_be_synced_by_another_thread,
    check_refuses_what_does_not_continue,
    check_snapshot_counts_when_committed,
    check_refuses_wrong_snapshots,
    check_abandoned_snapshot_leaves_nothing,
    check_nothing_is_written_after_close,
    check_keeps_what_it_promises,
    check_random_histories,
)


@dataclass(slots=True)
class _Model:
    """What a storage must hold. The state that snapshots hold is the list of all batches."""

    batches: list[Batch] = field(default_factory=list)
    current: SnapshotMeta | None = None

    @property
    def last_index(self) -> int:
        return self.batches[-1].last_index if self.batches else 0

    @property
    def can_snapshot(self) -> bool:
        index = 0 if self.current is None else self.current.index
        return self.last_index > index

    def append(self, storage: Storage, count: int, size: int = 10) -> None:
        new: list[Batch] = []
        for _ in range(count):
            first = new[-1].last_index + 1 if new else self.last_index + 1
            new.append(make_batch(first, count=1 + first % 3, payload=bytes(size)))
        storage.log.append(new)
        storage.log.sync()
        self.batches += new

    def snapshot(self, storage: Storage) -> None:
        meta = _meta(self.batches[-1])
        _take(storage, meta, b"state after %d" % meta.index)
        self.current = meta

    def reopen(self, *, is_durable: bool) -> None:
        if not is_durable:
            self.batches, self.current = [], None

    def compare(self, storage: Storage) -> None:
        assert storage.log.last_index == self.last_index, "the log ends elsewhere"
        assert storage.snapshots.current == self.current, "another snapshot is the current one"
        index = 0 if self.current is None else self.current.index
        if self.current is not None:
            assert _pieces(storage) == [(_SECTION, b"state after %d" % index)]
        behind = [batch for batch in self.batches if batch.first_index > index]
        assert list(storage.log.read(index + 1)) == behind, "the log behind the snapshot differs"


def _meta(batch: Batch) -> SnapshotMeta:
    return SnapshotMeta(batch.last_index, batch.term, batch.timestamp_ms, _NOW_MS)


def _begin(storage: Storage, meta: SnapshotMeta, piece: bytes) -> SnapshotSink:
    sink = storage.snapshots.create(meta)
    sink.begin_section(_SECTION)
    sink.add(piece, 1)
    return sink


def _take(storage: Storage, meta: SnapshotMeta, piece: bytes) -> None:
    _begin(storage, meta, piece).finish()
    storage.snapshots.commit(_NOW_MS)
    storage.snapshots.archive()
    storage.snapshots.prune()


def _pieces(storage: Storage) -> list[tuple[str, bytes]]:
    source = storage.snapshots.open_current()
    assert source is not None, "there is no snapshot"
    assert source.meta == storage.snapshots.current
    pieces = list(source.chunks())
    source.close()
    return pieces


@contextmanager
def _refused(kind: type[StorageError]) -> Iterator[None]:
    try:
        yield
    except kind:
        return
    raise AssertionError(f"no {kind.__name__} was raised")
