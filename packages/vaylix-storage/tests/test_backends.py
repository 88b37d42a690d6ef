"""Both backends keep the rules of the kit, and the kit tells good from bad."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from vaylix_storage import Batch, Engine, EngineOptions, RetentionPolicy, SnapshotMeta
from vaylix_storage.backend import LogPort, SnapshotPort, Storage, memory_storage, wal_storage
from vaylix_storage.errors import StorageError
from vaylix_storage.testing import (
    BACKEND_CHECKS,
    BackendUnderTest,
    MemoryVfs,
    counting_random_bytes,
)

Check = Callable[[BackendUnderTest], None]
every_check = pytest.mark.parametrize("check", BACKEND_CHECKS, ids=lambda check: check.__name__)


class Wal:
    """Opens the same directory of a simulated disk again and again."""

    def __init__(self, retention: RetentionPolicy) -> None:
        self._vfs = MemoryVfs()
        self._options = EngineOptions(segment_bytes_max=4096, retention=retention)

    def __call__(self) -> Storage:
        engine = Engine.open(
            Path("/data"),
            vfs=self._vfs,
            options=self._options,
            now_ms=1_700_000_000_000,
            random_bytes=counting_random_bytes(self._vfs.call_count),
        )
        return wal_storage(engine)


@every_check
@pytest.mark.parametrize(
    "retention",
    [RetentionPolicy(), RetentionPolicy(segments_max=0, snapshots_max=1)],
    ids=["default", "strict"],
)
def test_wal_keeps_the_rules(check: Check, retention: RetentionPolicy) -> None:
    check(BackendUnderTest(open=Wal(retention), is_durable=True))


@every_check
def test_memory_keeps_the_rules(check: Check) -> None:
    check(BackendUnderTest(open=memory_storage, is_durable=False))


def test_memory_gives_back_what_a_snapshot_holds() -> None:
    storage = memory_storage()
    batch = Batch.create(first_index=1, count=1, term=1, kind=1, timestamp_ms=1, payload=bytes(999))
    storage.log.append((batch,))
    assert storage.log.size_bytes == 999
    storage.snapshots.create(SnapshotMeta(1, 1, 1, 1)).finish()
    storage.snapshots.commit(1)
    storage.snapshots.prune()
    assert (storage.log.size_bytes, storage.log.first_index) == (0, 2)


class Log:
    """A log that passes on everything; those below each break one rule."""

    def __init__(self, log: LogPort) -> None:
        self._log = log

    @property
    def last_index(self) -> int:
        return self._log.last_index

    @property
    def first_index(self) -> int:
        return self._log.first_index

    @property
    def size_bytes(self) -> int:
        return self._log.size_bytes

    @property
    def segment_count(self) -> int:
        return self._log.segment_count

    @property
    def appends_at_once(self) -> bool:
        return self._log.appends_at_once

    def append(self, batches: Sequence[Batch]) -> None:
        self._log.append(batches)

    def sync(self) -> None:
        self._log.sync()

    def read(self, first_index: int) -> Iterator[Batch]:
        return self._log.read(first_index)


class ForgetsTheSecondOfABatch(Log):
    def append(self, batches: Sequence[Batch]) -> None:
        self._log.append(batches[:1])


class KeepsTheGoodOnesOfARefusedAppend(Log):
    def append(self, batches: Sequence[Batch]) -> None:
        for batch in batches:
            self._log.append((batch,))


class SwallowsErrors(Log):
    def append(self, batches: Sequence[Batch]) -> None:
        try:
            self._log.append(batches)
        except StorageError:
            return


class BelongsToOneThread(Log):
    def __init__(self, log: LogPort) -> None:
        super().__init__(log)
        self._thread = threading.current_thread()

    def sync(self) -> None:
        if threading.current_thread() is not self._thread:
            raise AssertionError("a log of one thread")
        self._log.sync()


class SaysNotHowItAppends(Log):
    @property
    def appends_at_once(self) -> bool:
        return None  # type: ignore[return-value]  # It is wrong.


class ReadsWhatComesLater(Log):
    def read(self, first_index: int) -> Iterator[Batch]:
        self._log.read(first_index)
        return self._later(first_index)

    def _later(self, first_index: int) -> Iterator[Batch]:
        yield from self._log.read(first_index)


class StartsBehindTheBatch(Log):
    def read(self, first_index: int) -> Iterator[Batch]:
        return (batch for batch in self._log.read(first_index) if batch.first_index >= first_index)


class Snapshots:
    """Snapshots that pass on everything; those below each break one rule."""

    def __init__(self, snapshots: SnapshotPort, log: LogPort) -> None:
        self._snapshots = snapshots
        self._log = log

    @property
    def current(self) -> SnapshotMeta | None:
        return self._snapshots.current

    def __getattr__(self, name: str) -> object:
        return getattr(self._snapshots, name)


class CountsWhenBegun(Snapshots):
    _begun: SnapshotMeta | None = None

    @property
    def current(self) -> SnapshotMeta | None:
        return self._begun

    def create(self, meta: SnapshotMeta) -> object:
        self._begun = meta
        return self._snapshots.create(meta)


class NeverCounts(Snapshots):
    def commit(self, now_ms: int) -> None:
        del now_ms


class RefusesNothing(Snapshots):
    def create(self, meta: SnapshotMeta) -> object:
        try:
            return self._snapshots.create(meta)
        except StorageError:
            return None


def with_log(kind: type[Log]) -> Callable[[Storage], Storage]:
    return lambda storage: replace(storage, log=kind(storage.log))


def with_snapshots(kind: type[Snapshots]) -> Callable[[Storage], Storage]:
    def change(storage: Storage) -> Storage:
        wrong = kind(storage.snapshots, storage.log)
        return replace(storage, snapshots=wrong)  # type: ignore[arg-type]  # It is wrong.

    return change


def closing_does_nothing(storage: Storage) -> Storage:
    return replace(storage, close=lambda: None)


@pytest.mark.parametrize(
    "change",
    [
        *(
            pytest.param(with_log(kind), id=kind.__name__)
            for kind in (
                ForgetsTheSecondOfABatch,
                KeepsTheGoodOnesOfARefusedAppend,
                SwallowsErrors,
                BelongsToOneThread,
                SaysNotHowItAppends,
                ReadsWhatComesLater,
                StartsBehindTheBatch,
            )
        ),
        *(
            pytest.param(with_snapshots(kind), id=kind.__name__)
            for kind in (CountsWhenBegun, NeverCounts, RefusesNothing)
        ),
        pytest.param(closing_does_nothing, id="ClosingDoesNothing"),
    ],
)
def test_the_kit_finds_a_broken_rule(change: Callable[[Storage], Storage]) -> None:
    found = [
        check for check in BACKEND_CHECKS if is_broken(check, lambda: change(memory_storage()))
    ]
    assert found


def test_the_kit_finds_a_backend_that_promises_too_much() -> None:
    found = [check for check in BACKEND_CHECKS if is_broken(check, memory_storage, promise=True)]
    assert [check.__name__ for check in found] == [
        "check_keeps_what_it_promises",
        "check_random_histories",
    ]


def is_broken(check: Check, open_it: Callable[[], Storage], *, promise: bool = False) -> bool:
    try:
        check(BackendUnderTest(open=open_it, is_durable=promise))
    except (AssertionError, StorageError):
        return True
    return False
